"""Judging a host's evidence: under which policies, against what is known of the machine.

It happens outside the transaction, because a log of 100,000 lines takes half a second; the transaction then looks whether
the agreement it decides under is still the one whose policies were used.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from perunml.agreements.profiles import alternatives
from perunml.evidence.binding import Purpose, binding
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.judge import Judgement, judge
from perunml.evidence.policy import Policy
from perunml.manager import machines
from perunml.manager.context import Services
from perunml.manager.library import Held
from perunml.manager.machines import Clock, StoredMachine
from perunml.manager.state import StoredRun
from perunml.manager.store.connection import Connection
from perunml.release.policy import policy_for
from perunml.wire.digests import digest_of

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
    `now` the time of the snapshot."""

    machine: StoredMachine
    policies: tuple[Policy, ...]
    clock: Clock | None
    log: bytes
    judged_by: str
    now: int


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
    even when another run's newer quote came first. Raises `EvidenceRefusal` (baseline_missing, tpm_cleared)."""
    machines.check_approved(machine, held.agreement.digest)
    role = held.agreement.role(job)
    wanted = {profile.baseline_digest for profile in alternatives(role)} - {""}
    policies = tuple(policy_for(role, services.library.baselines(connection, wanted)))
    known, now_known = machines.read_clock(clock), machines.read_clock(machine.clock)
    offset = max((part.ima_offset for part in bundle.parts if isinstance(part, TpmPart)), default=0)
    if now_known and (known is None or known[:2] != now_known[:2]):
        known = (now_known[0], now_known[1], 0) if known is None else now_known
        log = 0
    kept = machines.log_of(connection, machine)[: max(log, offset)] if known else b""
    return Question(machine, policies, known, kept, held.agreement.digest, services.clock.now())


async def answer(question: Question, bundle: Bundle, bound: bytes) -> Judgement:
    """The judgement under the first policy that is met, else under the last one."""
    size = len(question.log) + sum(len(part.ima_log) for part in bundle.parts if isinstance(part, TpmPart))
    if size > INLINE:
        return await asyncio.to_thread(_judge, question, bundle, bound)
    return _judge(question, bundle, bound)


def _judge(question: Question, bundle: Bundle, bound: bytes) -> Judgement:
    machine = question.machine.enrolled(question.clock)
    for policy in question.policies:
        found = judge(bundle, machine=machine, policy=policy, binding=bound, now=question.now, prior_log=question.log)
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
