"""Challenge and release: the way from a queued run to keys in the hands of one proven session.

The nonce is used up by its first answer, right or wrong. Judging comes first; then, in one transaction: decide, count, keep
what was proven, seal the keys, append the entry. The answer leaves when all of it is durable and under a signed checkpoint.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from sqlalchemy import insert

from perunml.agreements.jobs import ServiceJob
from perunml.agreements.schema import Agreement
from perunml.api.base import MAX_MESSAGE
from perunml.api.runs import NONCE_SIZE, Challenge, ReleaseAnswer, ReleaseRequest
from perunml.evidence.bundle import Bundle
from perunml.evidence.codes import IMA_OFFSET
from perunml.evidence.judge import Judgement
from perunml.manager import delivery, journal, leases, machines, state, verdicts
from perunml.manager.auth import lease_over
from perunml.manager.certificates import ed25519_key
from perunml.manager.codes import RUN_RESERVED
from perunml.manager.context import Services
from perunml.manager.http import Access, Call, encode, outside
from perunml.manager.library import Held
from perunml.manager.pending import CHALLENGE_TTL
from perunml.manager.pending import Challenge as Reserved
from perunml.manager.routing import Spec
from perunml.manager.state import StoredRun
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.manager.verdicts import Question, Session
from perunml.manager.writer import Transaction
from perunml.release.codes import BOOT_USED, MACHINE_NOT_AGREED, WRONG_OPERATOR
from perunml.release.decide import decide
from perunml.release.types import Refusal, Release, Run
from perunml.wire.canonical import canonical
from perunml.wire.codes import MALFORMED
from perunml.wire.digests import digest, digest_of
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.hpke import HpkePublicKey
from perunml.wire.rules import Kind, Reason

MAX_REFUSALS = 3
"""Times in a row that a run's hosts may fail to prove themselves before the run is given up: one that only fails would be
offered for ever."""
MAX_ENDPOINT = 200
CERTIFICATE_SLACK = 3600
"""Seconds by which a lease's certificate outlasts the longest that the lease can be renewed: the lease decides."""
_OF_THE_HOST = (BOOT_USED, MACHINE_NOT_AGREED, WRONG_OPERATOR)
"""Agreement's rules that another host, or this one after a reboot, would meet."""
_ADD_LEASE = Statement(insert(t.leases))
_TAKEN = (
    "UPDATE runs SET state = 'running', machine = :machine, simulated = :simulated, endpoint = :endpoint, lease = :lease, "
    "released = released + 1, refusals = 0, reasons = '[]' WHERE run = :run"
)
_REFUSED = "UPDATE runs SET state = :state, refusals = :refusals, reasons = :reasons, ended = :ended WHERE run = :run"
_AGAIN = (
    "SELECT l.* FROM runs r JOIN leases l ON l.lease = r.lease "
    "WHERE r.run = :run AND l.asked = :asked AND l.machine = :machine"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A release request, read and bound to its challenge."""

    request: ReleaseRequest
    digest: str
    machine: str
    reserved: Reserved

    @property
    def session(self) -> Session:
        return Session(
            self.reserved.nonce,
            self.reserved.role,
            self.request.session_hpke,
            self.request.session_key,
            self.reserved.agreement,
        )


def routes(services: Services) -> list[Spec]:
    async def challenge(call: Call) -> Challenge:
        with services.database.read() as connection:
            run = state.run(connection, call.params["run"])
            machine = machines.load(connection, call.caller.machine)
            held = services.library.held(connection, run.agreement)
            if not machines.may_take(machine, held.agreement, run.job) or not services.library.agreed(
                connection, held, machine.operator, held.agreement.jobs[run.job].operator
            ):
                raise outside()
            machines.check_approved(machine, run.agreement)
            if run.state == "running":
                raise refuse(RUN_RESERVED, "another session holds the run's lease", seen=run.state)
            state.check_queued(run)
        await services.witnessed.demand(held.agreement, within=state.lease_of(held.agreement, run.job))
        role = held.agreement.jobs[run.job].hosts
        made = services.challenges.reserve(run.run, machine.id, role, run.agreement, machine.clock, machine.log_size)
        return Challenge(
            nonce=made.nonce,
            expires_in=int(CHALLENGE_TTL),
            agreement=run.agreement,
            run_document=run.document,
            role=role,
            manager=services.keys.identity.public.text,
        )

    async def release(call: Call) -> ReleaseAnswer:
        request = ReleaseRequest.decode(call.body)
        run, machine, asked = call.params["run"], call.caller.machine, digest(call.body)
        try:
            if len(request.nonce) != NONCE_SIZE:
                raise refuse(MALFORMED, "not a challenge's nonce", expected=f"{NONCE_SIZE} bytes")
            reserved = services.challenges.take(request.nonce, run, machine)
        except PerunError as exc:
            if found := _again(services, run, machine, asked):
                return await _witnessed(services, *found)
            refusal = exc
            await services.writer.submit(lambda tx: _note(services, tx, run, machine, refusal))
            raise
        _check_session(request)
        bundle = Bundle.from_json(request.evidence)
        prepared = Asked(request, asked, machine, reserved)

        def read(connection: Connection) -> tuple[StoredRun, Held, Question]:
            stored = state.run(connection, run)
            held = services.library.held(connection, reserved.agreement)
            known = machines.load(connection, machine)
            return stored, held, verdicts.ask(
                services, connection, held, stored.job, known, bundle, reserved.clock, reserved.log
            )  # fmt: skip

        stored, held, question = await verdicts.read(services, read)
        bound = verdicts.bind(services, prepared.session, stored, machine, "release")
        judged = await verdicts.answer(services, question, bundle, bound)
        now = services.clock.now()
        used: list[journal.Journal] = []

        def work(transaction: Transaction) -> ReleaseAnswer | PerunError:
            used.append(transaction.journal)
            return _release(services, transaction, prepared, question, judged, bound, now)

        made = await services.writer.submit(work)
        if isinstance(made, PerunError):
            raise made
        # The checkpoint over the entry exists only once the whole group was written.
        return await _witnessed(services, held.agreement, made.model_copy(update={"checkpoint": used[0].note}))

    return [
        Spec("POST", "/v1/runs/{run}/challenge", Access.MACHINE, challenge),
        Spec("POST", "/v1/runs/{run}/release", Access.MACHINE, release, MAX_MESSAGE, takes=ReleaseRequest),
    ]


def _check_session(request: ReleaseRequest) -> None:
    ed25519_key(request.session_key)
    HpkePublicKey(request.session_hpke)
    if len(request.endpoint) > MAX_ENDPOINT or not request.endpoint.isprintable():
        raise refuse(MALFORMED, "not an endpoint", expected=f"https://host:port, at most {MAX_ENDPOINT} characters")


async def _witnessed(services: Services, agreement: Agreement, answer: ReleaseAnswer) -> ReleaseAnswer:
    """The answer, once its entry is in a ledger that the agreement's witnesses cosigned. Until then it is withheld, and a lease
    that ends so counts for nothing. Raises `Unreachable` (witnesses_unreachable): the same request may be sent again;
    `SuspendedError` (lease_ended)."""
    if not agreement.needs_quorum:
        return answer
    services.witnessed.withhold(answer.lease)
    await services.witnessed.demand(agreement, size=answer.entry + 1)
    if not services.witnessed.let_go(answer.lease):
        raise lease_over()
    return answer


def _again(services: Services, run: str, machine: str, asked: str) -> tuple[Agreement, ReleaseAnswer] | None:
    """The same answer to the very same request, while its lease holds: a lost answer must not cost a run (C15: it opens for
    the same session key only). And the agreement that it was released under."""
    with services.database.read() as connection:
        row = connection.run(_AGAIN, {"run": run, "asked": asked, "machine": machine}).first()
        if row is None:
            return None
        lease = leases.read(row)
        seconds = int(leases.left(services, lease))
        if seconds <= 0:
            return None
        note = journal.state(connection).note
        agreement = services.library.held(connection, lease.agreement).agreement
    answer = json.loads(lease.answer)
    return agreement, ReleaseAnswer(
        sealed=unb64(answer["sealed"]),
        certificate=answer["certificate"],
        lease=lease.lease,
        lease_seconds=seconds,
        next_nonce=lease.nonce,
        entry=answer["entry"],
        checkpoint=note,
    )  # fmt: skip


def _release(
    services: Services,
    transaction: Transaction,
    asked: Asked,
    question: Question,
    judged: Judgement,
    bound: bytes,
    now: int,
) -> ReleaseAnswer | PerunError:
    now = transaction.journal.at(now)
    connection = transaction.connection
    run = state.queued(connection, asked.reserved.run)
    held = services.library.held(connection, run.agreement)
    machine = machines.load(connection, asked.machine)
    appraisal = judged.appraisal
    other = _other_agreement(machine, machines.boot_of(machine, appraisal), held.line)
    wanted = Run(run.agreement, run.job, run.run, run.parameters, run.pinned, "release", bound, machine.operator)
    # First whose the assets are: to who only names another's in an agreement of his own, its owner's stops and conditions are nothing
    # that could be told apart. He gets no keys either way.
    foreign, unvouched = delivery.strangers(services, connection, held, run.job)
    decided = decide(
        held.agreement,
        state=state.state_of(services, connection, held, now, run.job, hidden=foreign),
        run=wanted,
        appraisal=appraisal,
        usage=state.usage_of(
            services, connection, held, resumes=run.released, other=other, other_shares=machine.boot_shared
        ),
        now=services.witnessed.floor(held.agreement, now),
    )
    if unvouched or isinstance(decided, Refusal):
        reasons = decided.reasons if isinstance(decided, Refusal) else ()
        return _refuse(transaction, run, machine.id, unvouched + reasons, now)
    try:
        keys, grants = delivery.build(services, connection, held, run, decided)
    except PerunError as exc:
        return _refuse(transaction, run, machine.id, exc.reasons, now)
    job = held.agreement.jobs[run.job]
    before, machine = machine, machines.remember(
        connection, machine, boot=machines.boot_of(machine, appraisal), clock=judged.clock, start=judged.start, log=judged.log, line=held.line,
        agreement=held.agreement.digest, shared=job.tenancy == "shared",
    )  # fmt: skip
    verdicts.keep(services, connection, before, machine, question, judged)
    first = run.kind == "train" and run.released == 0
    counted = state.count_run(services, connection, held, run.job) if first else []
    lease = secrets.token_hex(16)
    verdict = {
        "profile": appraisal.profile,
        "imitates": appraisal.imitates,
        "simulated": decided.simulated,
        "sentences": list(decided.sentences),
    }
    found = {**verdict, "boot": appraisal.boot, "claims": dict(appraisal.claims)}
    verdict["digest"] = digest_of(found)
    if isinstance(job, ServiceJob):
        certificate = delivery.service_certificate(
            services, run, job, machine.id, verdict, grants["model"], asked.request.session_hpke,
            asked.request.session_key, now, decided.lease_seconds,
        )  # fmt: skip
        keys = keys.model_copy(update={"service_certificate": certificate})
    told = {
        "job": run.job,
        "lease": lease,
        "machine": machine.id,
        "session_key": asked.request.session_key,
        "assets": grants,
        "verdict": found,
    }
    entry, _ = transaction.journal.append("release", now, run.agreement, run.run, told)
    answer = _answer(services, asked, run, held.agreement.ends, decided, encode(keys), lease, entry, now)
    steady, wall = services.clock.deadline(decided.lease_seconds)
    _ADD_LEASE.run(
        connection,
        lease=lease,
        run=run.run,
        machine=machine.id,
        role=asked.reserved.role,
        agreement=run.agreement,
        session_key=asked.request.session_key,
        session_hpke=asked.request.session_hpke,
        active=1,
        steady=steady,
        wall=wall,
        boot=services.clock.boot,
        seconds=decided.lease_seconds,
        nonce=answer.next_nonce,
        clock=machine.clock,
        log=machine.log_size,
        asked=asked.digest,
        answer=json.dumps({"sealed": b64(answer.sealed), "certificate": answer.certificate, "entry": entry}).encode(),
        started=now,
        grants=canonical(grants).decode(),
        verdict=canonical({**verdict, "counted": counted}).decode(),
    )
    connection.run(
        _TAKEN,
        {
            "machine": machine.id,
            "simulated": int(decided.simulated),
            "endpoint": asked.request.endpoint,
            "lease": lease,
            "run": run.run,
        },
    )
    return answer


def _answer(
    services: Services,
    asked: Asked,
    run: StoredRun,
    ends: int,
    decided: Release,
    keys: bytes,
    lease: str,
    entry: int,
    now: int,
) -> ReleaseAnswer:
    info = {
        "label": "perunml/release",
        "manager": services.keys.identity.public.text,
        "agreement": run.agreement,
        "run": run.run,
        "nonce": b64(asked.reserved.nonce),
    }
    longest = decided.wall_seconds or max(0, ends - now)
    return ReleaseAnswer(
        sealed=HpkePublicKey(asked.request.session_hpke).seal(keys, info),
        certificate=services.issuer.lease(lease, asked.request.session_key, now, longest + CERTIFICATE_SLACK),
        lease=lease,
        lease_seconds=decided.lease_seconds,
        next_nonce=secrets.token_bytes(NONCE_SIZE),
        entry=entry,
        checkpoint="",
    )


def _refuse(
    transaction: Transaction, run: StoredRun, machine: str, reasons: tuple[Reason, ...], now: int
) -> PerunError:
    """The ledger says why. What no other host could mend ends the run; evidence that fails, only when it keeps failing."""
    told = [reason.as_json() for reason in reasons]
    body = {"purpose": "release", "machine": machine, "reasons": told}
    transaction.journal.append("refusal", now, run.agreement, run.run, body)
    # A log that must be sent whole again is a matter between host and manager.
    if [reason.code for reason in reasons] != [IMA_OFFSET.code]:
        hosts_fault = any(reason.rule.kind is Kind.EVIDENCE or reason.rule in _OF_THE_HOST for reason in reasons)
        refusals = run.refusals + 1
        waits = all(reason.rule.kind is Kind.PENDING for reason in reasons)
        over = not waits and (not hosts_fault or refusals >= MAX_REFUSALS)
        values = {
            "state": "refused" if over else "queued",
            "refusals": refusals,
            "reasons": canonical(told).decode(),
            "ended": now if over else 0,
            "run": run.run,
        }
        transaction.connection.run(_REFUSED, values)
    return error(reasons)


def _note(services: Services, transaction: Transaction, run_id: str, machine: str, exc: PerunError) -> None:
    """A refusal before there was anything to judge is an entry too."""
    run = state.find_run(transaction.connection, run_id)
    if run is None:
        return
    held = services.library.held(transaction.connection, run.agreement)
    known = machines.load(transaction.connection, machine)
    if machines.may_take(known, held.agreement, run.job):
        body = {"purpose": "release", "machine": machine, "reasons": [reason.as_json() for reason in exc.reasons]}
        transaction.journal.append("refusal", services.clock.now(), run.agreement, run_id, body)


def _other_agreement(machine: machines.StoredMachine, boot: str, line: str) -> str | None:
    """The agreement that this boot of the machine served before, if it is another one (versions of one are one)."""
    if not boot or machine.boot != boot or machine.boot_line in ("", line):
        return None
    return machine.boot_agreement
