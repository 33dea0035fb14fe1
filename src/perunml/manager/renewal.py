"""Renewal and finish: a session shows again that its host is what it was, and is decided on anew.

What is refused ends the lease at once, unless it only shows that the request was not the session's next one (a wrong or
used nonce, a form, a log to be sent whole): that changes nothing.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from perunml.agreements.jobs import ServiceJob
from perunml.api.base import MAX_MESSAGE
from perunml.api.runs import NONCE_SIZE, FinishAnswer, FinishRequest, RenewAnswer, RenewRequest, finish_payload
from perunml.evidence.bundle import Bundle
from perunml.evidence.codes import IMA_OFFSET
from perunml.evidence.judge import Judgement
from perunml.manager import delivery, finish, leases, machines, state, verdicts
from perunml.manager.auth import lease_over
from perunml.manager.codes import NONCE_MISMATCH, NONCE_USED
from perunml.manager.context import Services
from perunml.manager.http import Access, Call, encode, outside
from perunml.manager.leases import Lease
from perunml.manager.library import Held
from perunml.manager.routing import Spec
from perunml.manager.state import StoredRun
from perunml.manager.store.connection import Connection
from perunml.manager.verdicts import Question, Session
from perunml.manager.writer import Transaction
from perunml.release.decide import decide
from perunml.release.types import Purpose, Refusal, Release, Run
from perunml.wire.digests import digest
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.rules import Reason

_RENEWED = (
    "UPDATE leases SET steady = :steady, wall = :wall, boot = :boot, seconds = :seconds, nonce = :nonce, clock = :clock, "
    "log = :log, asked = :asked, answer = :answer WHERE lease = :lease"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A renewal or finish as judged outside the transaction."""

    lease: Lease
    question: Question
    judged: Judgement
    bound: bytes
    asked: str
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class Decided:
    """A session that may go on, as of this transaction."""

    lease: Lease
    run: StoredRun
    held: Held
    release: Release
    machine: machines.StoredMachine


def routes(services: Services) -> list[Spec]:
    async def renew(call: Call) -> RenewAnswer:
        request = RenewRequest.decode(call.body)
        asked = digest(call.body)
        if answer := _again(services, call, asked, "lease_seconds"):
            return RenewAnswer.decode(answer)
        shown = await _judge(services, call, request.nonce, request.evidence, "renew", "", asked)
        now = services.clock.now()
        made = await services.writer.submit(lambda tx: _renew(services, tx, shown, now))
        if isinstance(made, PerunError):
            raise made
        return made

    async def end(call: Call) -> FinishAnswer:
        request = FinishRequest.decode(call.body)
        finish.check_form(request)
        asked = digest(call.body)
        if answer := _again(services, call, asked, "receipt"):
            return FinishAnswer.decode(answer)
        payload = finish_payload(request.outputs, request.devices)
        shown = await _judge(services, call, request.nonce, request.evidence, "finish", payload, asked)
        now = services.clock.now()

        def work(transaction: Transaction) -> FinishAnswer | PerunError:
            decided = _decide(services, transaction, shown, now)
            if isinstance(decided, PerunError):
                return decided
            return finish.record(services, transaction, decided.lease, decided.run, request, asked, now)

        made = await services.writer.submit(work)
        if isinstance(made, PerunError):
            raise made
        return made

    return [
        Spec("POST", "/v1/runs/{run}/renew", Access.LEASE, renew, MAX_MESSAGE, takes=RenewRequest),
        Spec("POST", "/v1/runs/{run}/finish", Access.LEASE, end, MAX_MESSAGE, takes=FinishRequest),
    ]


def _again(services: Services, call: Call, asked: str, member: str) -> bytes | None:
    """The answer that this very request got before, told by a `member` that it has: a finish's for good, a renewal's while
    the lease holds, with the seconds that are left. Raises `SuspendedError` (lease_ended)."""
    with services.database.read() as connection:
        lease = leases.load(connection, call.caller.lease)
    if lease.run != call.params["run"]:
        raise outside()
    answer = json.loads(lease.answer)
    same = lease.asked == asked and member in answer
    if not lease.active:
        if same and member == "receipt":
            return lease.answer
        raise lease_over()
    if not same:
        return None
    seconds = int(leases.left(services, lease))
    if seconds <= 0:
        raise lease_over()
    return json.dumps({**answer, "lease_seconds": seconds}).encode()


async def _judge(
    services: Services,
    call: Call,
    nonce: bytes,
    evidence: dict[str, object],
    purpose: Purpose,
    payload: str,
    asked: str,
) -> Shown:
    bundle = Bundle.from_json(evidence)

    def read(connection: Connection) -> tuple[Lease, StoredRun, Held, Question]:
        lease = leases.of_run(services, connection, call.caller.lease, call.params["run"])
        run = state.run(connection, lease.run)
        held = state.newest(services, connection, run.line, run.agreement)
        machine = machines.load(connection, lease.machine)
        if run.job not in held.agreement.jobs:
            # The newest version has no such job: nothing to judge by, and the decision says so.
            return lease, run, held, Question(machine, (), None, 0, held.agreement.digest, services.clock.now())
        return lease, run, held, verdicts.ask(
            services, connection, held, run.job, machine, bundle, lease.clock, lease.log
        )  # fmt: skip

    lease, run, held, question = await verdicts.read(services, read)
    # Witnesses who cannot be reached end no lease: it runs out, unless they come back before and the host asks again.
    await services.witnessed.demand(held.agreement, within=state.lease_of(held.agreement, run.job))
    wrong = _nonce(services, lease, nonce)
    if wrong is not None:
        await services.writer.submit(lambda tx: _note(tx, lease, wrong, services.clock.now(), purpose))
        raise wrong
    session = Session(lease.nonce, lease.role, lease.session_hpke, lease.session_key, lease.agreement)
    bound = verdicts.bind(services, session, run, lease.machine, purpose, payload)
    judged = await verdicts.answer(services, question, bundle, bound)
    return Shown(lease, question, judged, bound, asked, purpose)


def _nonce(services: Services, lease: Lease, nonce: bytes) -> PerunError | None:
    if len(nonce) == NONCE_SIZE and secrets.compare_digest(lease.nonce, nonce):
        return None
    if services.challenges.was_used(nonce):
        return refuse(NONCE_USED, "the nonce was answered before")
    return refuse(NONCE_MISMATCH, "not the nonce of this lease's last answer")


def _note(transaction: Transaction, lease: Lease, exc: PerunError, now: int, purpose: str) -> None:
    told = {"purpose": purpose, "machine": lease.machine, "reasons": [reason.as_json() for reason in exc.reasons]}
    transaction.journal.append("refusal", now, lease.agreement, lease.run, told)


def _decide(services: Services, transaction: Transaction, shown: Shown, now: int) -> Decided | PerunError:
    """The decision anew, under the newest version in force; a refusal ends the lease."""
    now = transaction.journal.at(now)
    connection = transaction.connection
    lease = leases.of_run(services, connection, shown.lease.lease, shown.lease.run)
    if not secrets.compare_digest(lease.nonce, shown.lease.nonce):  # a parallel answer was faster (N9)
        exc = refuse(NONCE_USED, "the nonce was answered before")
        _note(transaction, lease, exc, now, shown.purpose)
        return exc
    run = state.run(connection, lease.run)
    held = state.newest(services, connection, run.line, run.agreement)
    if held.agreement.digest != shown.question.judged_by:
        # A version came into force in between: judged by the old one's policies, this proves nothing under the new.
        return refuse(NONCE_MISMATCH, "the agreement has a newer version: renew again")
    machine = machines.load(connection, lease.machine)
    decided = decide(
        held.agreement,
        state=state.state_of(services, connection, held, now, run.job),
        run=Run(
            held.agreement.digest, run.job, run.run, run.parameters, {}, shown.purpose, shown.bound, machine.operator
        ),
        appraisal=shown.judged.appraisal,
        usage=state.usage_of(services, connection, held, resumes=max(0, run.released - 1), started=lease.started),
        now=services.witnessed.floor(held.agreement, now),
    )
    if isinstance(decided, Refusal):
        return _refuse(transaction, lease, decided.reasons, now, shown.purpose)
    before, machine = machine, _remember(connection, shown, machine, held, decided)
    verdicts.keep(services, connection, before, machine, shown.question, shown.judged)
    services.challenges.use(lease.nonce)
    return Decided(lease, run, held, decided, machine)


def _refuse(
    transaction: Transaction, lease: Lease, reasons: tuple[Reason, ...], now: int, purpose: Purpose
) -> PerunError:
    exc = error(reasons)
    _note(transaction, lease, exc, now, purpose)
    if [reason.code for reason in reasons] != [IMA_OFFSET.code]:
        leases.end(transaction, lease, "lost", reasons, now)
    return exc


def _remember(
    connection: Connection, shown: Shown, machine: machines.StoredMachine, held: Held, decided: Release
) -> machines.StoredMachine:
    return machines.remember(
        connection,
        machine,
        boot=machines.boot_of(machine, shown.judged.appraisal),
        clock=shown.judged.clock,
        start=shown.judged.start,
        log=shown.judged.log,
        line=held.line,
        agreement=held.agreement.digest,
        shared=held.agreement.jobs[decided.run.job].tenancy == "shared",
    )


def _renew(services: Services, transaction: Transaction, shown: Shown, now: int) -> RenewAnswer | PerunError:
    now = transaction.journal.at(now)
    made = _decide(services, transaction, shown, now)
    if isinstance(made, PerunError):
        return made
    lease, run, held, decided, machine = made.lease, made.run, made.held, made.release, made.machine
    connection = transaction.connection
    job = held.agreement.jobs[run.job]
    certificate = None
    if isinstance(job, ServiceJob):
        certificate = delivery.service_certificate(
            services, run, job, lease.machine, dict(lease.verdict), lease.grants["model"], lease.session_hpke,
            lease.session_key, now, decided.lease_seconds,
        )  # fmt: skip
    answer = RenewAnswer(
        lease_seconds=decided.lease_seconds,
        next_nonce=secrets.token_bytes(NONCE_SIZE),
        service_certificate=certificate,
    )
    steady, wall = services.clock.deadline(decided.lease_seconds)
    connection.run(
        _RENEWED,
        {
            "steady": steady,
            "wall": wall,
            "boot": services.clock.boot,
            "seconds": decided.lease_seconds,
            "nonce": answer.next_nonce,
            "clock": machine.clock,
            "log": machine.log_size,
            "asked": shown.asked,
            "answer": encode(answer),
            "lease": lease.lease,
        },
    )
    told = {"lease": lease.lease, "machine": lease.machine, "claims": dict(shown.judged.appraisal.claims)}
    transaction.journal.append("renewal", now, run.agreement, run.run, told)
    return answer
