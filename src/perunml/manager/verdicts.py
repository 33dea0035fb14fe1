"""Judging a host's evidence: under which policies, against what is known of the machine.

It happens outside the transaction, because a log of 100,000 lines takes half a second; the transaction then looks whether
the agreement it decides under is still the one whose policies were used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from perunml.agreements.profiles import AnyOf, AnyProfile, alternatives
from perunml.agreements.schema import Agreement
from perunml.evidence.appraise import appraise_unverified
from perunml.evidence.binding import Purpose, binding
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.codes import NO_BASELINE
from perunml.evidence.endorsements import Endorsements
from perunml.evidence.ima.state import LogState
from perunml.evidence.judge import NO_ENDORSEMENTS, Judgement, judge, judge_new
from perunml.evidence.policy import Policy
from perunml.manager import machines
from perunml.manager.codes import NONCE_MISMATCH
from perunml.manager.context import Services
from perunml.manager.library import Held, Unread
from perunml.manager.machines import Clock, StoredMachine
from perunml.manager.state import StoredRun
from perunml.manager.store.connection import Connection
from perunml.release.policy import check_signed, policy_for
from perunml.wire.digests import digest_of
from perunml.wire.errors import refuse
from perunml.wire.rules import Reason

T = TypeVar("T")

INLINE = 64 * 1024
"""Bytes of log judged on the event loop itself; longer ones go to a thread."""


@dataclass(frozen=True, slots=True)
class Session:
    """To what evidence must be bound, apart from its purpose."""

    nonce: bytes
    role: str
    session_hpke: str
    session_key: str
    agreement: str


@dataclass(frozen=True, slots=True)
class Question:
    """All that judging needs, read in one snapshot. `judged_by` is the digest of the agreement whose policies these are,
    `now` the time of the snapshot; of the log kept of the machine's boot the first `size` bytes count."""

    machine: StoredMachine
    policies: tuple[Policy, ...]
    clock: Clock | None
    size: int
    judged_by: str
    now: int
    endorsements: Endorsements = NO_ENDORSEMENTS


async def read(services: Services, question: Callable[[Connection], T]) -> T:
    """What is read in one snapshot for `question`, which may `ask`. A long baseline that nobody asked for yet is read before, in
    a thread: it takes a second, and others' leases run."""
    while True:
        with services.database.read() as connection:
            try:
                return question(connection)
            except Unread as exc:
                unread = exc
        await asyncio.to_thread(services.library.read, unread, services.clock.now())


def ask(
    services: Services,
    connection: Connection,
    held: Held,
    job: str,
    machine: StoredMachine,
    bundle: Bundle,
    clock: str,
    log: int,
) -> Question:
    """`clock` and `log` are what was known when the nonce was given out: the quote is over that nonce, so it is no older,
    even when another run's newer quote came first. Raises `EvidenceRefusal` (baseline_missing,
    baseline_unsigned, tpm_cleared); `Unread`."""
    machines.check_approved(machine, held.agreement.digest)
    policies = policies_of(services, connection, held.agreement, held.agreement.role(job))
    known, now_known = machines.read_clock(clock), machines.read_clock(machine.clock)
    offset = max((part.ima_offset for part in bundle.parts if isinstance(part, TpmPart)), default=0)
    if now_known and (known is None or known[:2] != now_known[:2]):
        known = (now_known[0], now_known[1], 0) if known is None else now_known
        log = 0
    size = min(max(log, offset), machine.log_size) if known else 0
    # asked only where a TEE or GPU is judged: a bundle that cannot be used stops those, and no TPM's release
    judged = any(policy.tee is not None or policy.gpu is not None for policy in policies)
    endorsements = services.collateral.endorsements(connection) if judged else NO_ENDORSEMENTS
    return Question(machine, policies, known, size, held.agreement.digest, services.clock.now(), endorsements)


def policies_of(
    services: Services, connection: Connection, agreement: Agreement, role: AnyProfile | AnyOf
) -> tuple[Policy, ...]:
    """What evidence for a role of the agreement is judged by, one for each alternative. Raises `EvidenceRefusal` (baseline_missing,
    baseline_unsigned); `Unread`."""
    wanted = {profile.baseline_digest for profile in alternatives(role)} - {""}
    signers = {
        profile.baseline_digest: services.library.baseline_signers(
            connection, profile.baseline_digest, agreement.parties[profile.baseline_signer].keys.values()
        )
        for profile in alternatives(role)
        if profile.baseline_signer
    }
    check_signed(agreement, role, signers)
    return tuple(policy_for(role, services.library.baselines(connection, wanted)))


async def answer(services: Services, question: Question, bundle: Bundle, bound: bytes) -> Judgement:
    """The judgement under the first policy that is met, else under the last one: by what is new of the log where the state of
    the rest is known, else by all of it. Raises `EvidenceRefusal` (nonce_mismatch): the machine booted meanwhile."""
    new = sum(len(part.ima_log) for part in bundle.parts if isinstance(part, TpmPart))
    if states := _states(services, question):
        found = await _run(new, lambda: _judge_new(question, states, bundle, bound))
        if found is not None:
            return found
    log = b""
    if question.size:
        with services.database.read() as connection:
            log = machines.log_of(connection, question.machine)[: question.size]
        if len(log) < question.size:
            raise refuse(NONCE_MISMATCH, "the machine booted meanwhile: renew again")
    return await _run(len(log) + new, lambda: _judge(question, log, bundle, bound))


def keep(
    services: Services,
    connection: Connection,
    before: StoredMachine,
    after: StoredMachine,
    question: Question,
    judged: Judgement,
) -> None:
    """Of accepted evidence keep which collateral it was judged by, and the state of its log for the next renewal where that
    log is the one that is kept: the machine's row was `before` that and is now `after`."""
    services.collateral.remember(connection, judged.seen)
    boot, state = judged.appraisal.boot, judged.state
    if state is None or (after.boot, after.log_size) != (boot, state.size):
        return
    known = question.size if boot == question.machine.boot else 0  # so many bytes were compared with what is kept
    if machines.keeps(connection, before, boot, known, judged.log[known - judged.start :]):
        services.logs.put(after.id, boot, state)


def _states(services: Services, question: Question) -> list[tuple[Policy, LogState]]:
    machine, found = question.machine, []
    for policy in question.policies if question.size else ():
        judged_by = policy.baseline.at(question.now).state if policy.baseline is not None else ""
        state = services.logs.get(machine.id, machine.boot, question.size, judged_by)
        if state is not None:
            found.append((policy, state))
    return found


async def _run(size: int, judging: Callable[[], T]) -> T:
    return judging() if size <= INLINE else await asyncio.to_thread(judging)


def _judge_new(
    question: Question, states: list[tuple[Policy, LogState]], bundle: Bundle, bound: bytes
) -> Judgement | None:
    machine = question.machine.enrolled(question.clock)
    for policy, state in states:
        found = judge_new(
            bundle,
            machine=machine,
            policy=policy,
            binding=bound,
            now=question.now,
            state=state,
            endorsements=question.endorsements,
        )
        if found is not None:
            return found
    return None


def _judge(question: Question, log: bytes, bundle: Bundle, bound: bytes) -> Judgement:
    machine = question.machine.enrolled(question.clock)
    if not question.policies:
        nothing = Reason(NO_BASELINE, "the agreement has nothing to judge this evidence by")
        return Judgement(appraise_unverified((nothing,), machine=machine), None, b"")
    for policy in question.policies:
        found = judge(
            bundle,
            machine=machine,
            policy=policy,
            binding=bound,
            now=question.now,
            prior_log=log,
            endorsements=question.endorsements,
        )
        if not found.appraisal.reasons:
            break
    return found


def bind(
    services: Services, session: Session, run: StoredRun, machine: str, purpose: Purpose, payload: str = ""
) -> bytes:
    """The binding that the evidence must prove."""
    return binding(
        purpose=purpose,
        nonce=session.nonce,
        role=session.role,
        session_hpke=session.session_hpke,
        session_tls=session.session_key,
        manager=services.keys.identity.public.text,
        agreement=session.agreement,
        run=digest_of(run.document),
        host=machine,
        payload=payload,
    )
