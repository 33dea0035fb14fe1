"""`judge`: one bundle of evidence in, one appraisal out. Parse, verify and appraise stand in modules of their own.

bundle -> tpm.quote.verify_quote        authentic, for this exchange, over these PCR values?
       -> bootlog.judge.judge_boot_log  does the boot log explain PCRs 0 to 9, and is every event agreed?
       -> ima.appraise.appraise_log     does the log explain PCR 10, and is every line agreed?
       -> appraise.appraise_measured    is it what the policy asks for?
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from perunml.evidence.appraise import appraise_measured, appraise_statement, appraise_unverified
from perunml.evidence.baseline import Allowed, Baseline
from perunml.evidence.binding import shared_extra_data
from perunml.evidence.bootlog.judge import BootFindings, judge_boot_log
from perunml.evidence.bundle import Bundle, SimulatedPart, TpmPart
from perunml.evidence.codes import BINDING_MISMATCH, IMA_OFFSET, PCR10_MISMATCH, WRONG_PROFILE
from perunml.evidence.ima.appraise import LogFindings, appraise_log, resume_log
from perunml.evidence.ima.state import LogState
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.simulated.verify import verify_statement
from perunml.evidence.tpm.attest import Clock
from perunml.evidence.tpm.keys import AttestationKey, check_ak, qualified_names
from perunml.evidence.tpm.public import parse_public
from perunml.evidence.tpm.quote import Quote, verify_quote
from perunml.evidence.types import Appraisal, Verified
from perunml.wire.errors import PerunError, refuse

MACHINES = 1024
"""Machines whose keys are kept read: a kilobyte or two each."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """appraisal  what the evidence is worth; good enough only when it has no reasons
    clock      (resetCount, restartCount, clock in ms) of a verified quote, or None
    log        the boot's IMA log from byte `start` on, to be kept when the appraisal has no reasons
    start      bytes of the log that are kept already and were not looked at again
    state      what the whole log was found to be, for `judge_new`; None when there are reasons
    """

    appraisal: Appraisal
    clock: tuple[int, int, int] | None
    log: bytes
    start: int = 0
    state: LogState | None = None


def judge(
    bundle: Bundle, *, machine: Machine, policy: Policy, binding: bytes, now: int, prior_log: bytes = b""
) -> Judgement:
    """Judge what `machine` sent for `binding` (48 bytes) under `policy` at `now` (seconds since 1970); `prior_log` is the log kept of its newest
    accepted evidence, whose clock is `machine.last_clock`.

    Never raises for bad evidence: everything wrong with it is in the appraisal's reasons.
    """
    if prior_log and machine.last_clock is None:
        raise ValueError("a log is kept with the clock of the quote that proved it")
    try:
        part = _only_part(bundle)
        if isinstance(part, SimulatedPart):
            statement = verify_statement(part, key=machine.key, binding=binding)
            return Judgement(appraise_statement(statement, machine=machine, policy=policy, binding=binding), None, b"")
        return _judge_tpm(part, machine, policy, binding, now, prior_log)
    except PerunError as exc:
        return Judgement(appraise_unverified(exc.reasons, machine=machine), None, b"")


def judge_new(
    bundle: Bundle, *, machine: Machine, policy: Policy, binding: bytes, now: int, state: LogState
) -> Judgement | None:
    """As `judge` with the log that `state` is of as `prior_log`, without that log: only what is new of it is read. None when
    that is not enough: the new part begins elsewhere, the machine booted, another baseline is in force, or anything is
    wrong. Then `judge` it all.
    """
    part = bundle.parts[0] if len(bundle.parts) == 1 else None
    if not isinstance(part, TpmPart) or part.ima_offset != state.size or policy.baseline is None:
        return None
    try:
        quote = _quote(part, machine, binding)
    except PerunError:
        return None
    if not _same_boot(machine, quote.value.clock):
        return None
    findings = resume_log(part.ima_log, state, quote.value.pcrs, policy.baseline.at(now))
    if findings is None:
        return None
    boot_log = _boot_log(part, quote, policy.baseline, now)
    appraisal = appraise_measured(quote, boot_log, findings, machine=machine, policy=policy, binding=binding, now=now)
    if appraisal.reasons:
        return None
    return Judgement(appraisal, _triple(quote.value.clock), part.ima_log, state.size, findings.state)


def _judge_tpm(
    part: TpmPart, machine: Machine, policy: Policy, binding: bytes, now: int, prior_log: bytes
) -> Judgement:
    quote = _quote(part, machine, binding)
    clock = quote.value.clock
    kept = prior_log if _same_boot(machine, clock) else b""
    allowed = policy.baseline.at(now) if policy.baseline is not None else Allowed({}, {})
    try:
        log = _whole_log(part, kept)
        findings = appraise_log(log, len(kept), quote.value.pcrs, allowed)
    except PerunError as exc:
        log, findings = b"", LogFindings(0, 0, exc.reasons)
    boot_log = _boot_log(part, quote, policy.baseline, now)
    appraisal = appraise_measured(quote, boot_log, findings, machine=machine, policy=policy, binding=binding, now=now)
    return Judgement(appraisal, _triple(clock), log, 0, None if appraisal.reasons else findings.state)


def _quote(part: TpmPart, machine: Machine, binding: bytes) -> Verified[Quote]:
    if not machine.ak:
        raise refuse(WRONG_PROFILE, "a TPM's evidence for a machine that was enrolled without one")
    ak, signers = _signer(machine.ak, machine.ek)
    extra_data = shared_extra_data(binding, part.others)
    if extra_data is None:
        raise refuse(BINDING_MISMATCH, "the quote's other bindings are not a sorted list without this one")
    return verify_quote(part, ak, signers=signers, extra_data=extra_data)


def _boot_log(part: TpmPart, quote: Verified[Quote], baseline: Baseline | None, now: int) -> BootFindings:
    pcrs = quote.value.pcrs
    rules, exact = (baseline.boot, baseline.exact(now, pcrs)) if baseline is not None else (None, {})
    return judge_boot_log(part.event_log, part.cmdline, pcrs, rules, exact)


def _same_boot(machine: Machine, clock: Clock) -> bool:
    return machine.last_clock is not None and machine.last_clock[:2] == (clock.reset, clock.restart)


@lru_cache(maxsize=MACHINES)
def _signer(ak_public: bytes, ek_public: bytes) -> tuple[AttestationKey, tuple[bytes, ...]]:
    """The machine's attestation key, checked, and the names it may sign by. Enrolment fixes both; they are judged at each
    renewal."""
    ak = check_ak(ak_public)
    return ak, qualified_names(ak, parse_public(ek_public) if ek_public else None)


def _only_part(bundle: Bundle) -> TpmPart | SimulatedPart:
    if len(bundle.parts) != 1:
        raise refuse(WRONG_PROFILE, "the profile has one part", expected="1 part", seen=f"{len(bundle.parts)} parts")
    (part,) = bundle.parts
    if not isinstance(part, TpmPart | SimulatedPart):
        raise refuse(WRONG_PROFILE, "evidence of another kind", expected="tpm or simulated", seen=type(part).__name__)
    return part


def _whole_log(part: TpmPart, kept: bytes) -> bytes:
    """This boot's whole log: what is kept of it up to the offset, and the new part. What was told before stays told."""
    if part.ima_offset > len(kept):
        raise refuse(
            IMA_OFFSET,
            "the increment does not continue the log that is kept of this boot",
            expected=f"at most {len(kept)}",
            seen=str(part.ima_offset),
        )
    log = kept[: part.ima_offset] + part.ima_log
    if not log.startswith(kept):
        raise refuse(PCR10_MISMATCH, "the IMA log lacks or changes lines that it told before")
    return log


def _triple(clock: Clock) -> tuple[int, int, int]:
    return clock.reset, clock.restart, clock.clock
