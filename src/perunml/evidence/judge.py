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
from perunml.evidence.baseline import Allowed
from perunml.evidence.binding import shared_extra_data
from perunml.evidence.bootlog.judge import judge_boot_log
from perunml.evidence.bundle import Bundle, SimulatedPart, TpmPart
from perunml.evidence.codes import BINDING_MISMATCH, IMA_OFFSET, PCR10_MISMATCH, WRONG_PROFILE
from perunml.evidence.ima.appraise import LogFindings, appraise_log
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.simulated.verify import verify_statement
from perunml.evidence.tpm.attest import Clock
from perunml.evidence.tpm.keys import AttestationKey, check_ak, qualified_names
from perunml.evidence.tpm.public import parse_public
from perunml.evidence.tpm.quote import verify_quote
from perunml.evidence.types import Appraisal
from perunml.wire.errors import PerunError, refuse

MACHINES = 1024
"""Machines whose keys are kept read: a kilobyte or two each."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """appraisal  what the evidence is worth; good enough only when it has no reasons
    clock      (resetCount, restartCount, clock in ms) of a verified quote, or None
    log        the boot's whole IMA log, to be kept when the appraisal has no reasons
    """

    appraisal: Appraisal
    clock: tuple[int, int, int] | None
    log: bytes


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


def _judge_tpm(
    part: TpmPart, machine: Machine, policy: Policy, binding: bytes, now: int, prior_log: bytes
) -> Judgement:
    if not machine.ak:
        raise refuse(WRONG_PROFILE, "a TPM's evidence for a machine that was enrolled without one")
    ak, signers = _signer(machine.ak, machine.ek)
    extra_data = shared_extra_data(binding, part.others)
    if extra_data is None:
        raise refuse(BINDING_MISMATCH, "the quote's other bindings are not a sorted list without this one")
    quote = verify_quote(part, ak, signers=signers, extra_data=extra_data)
    clock = quote.value.clock
    same_boot = machine.last_clock is not None and machine.last_clock[:2] == (clock.reset, clock.restart)
    kept = prior_log if same_boot else b""
    baseline = policy.baseline
    allowed = baseline.at(now) if baseline is not None else Allowed({}, {})
    rules = baseline.boot if baseline is not None else None
    boot_log = judge_boot_log(part.event_log, part.cmdline, quote.value.pcrs, rules, allowed.pcrs)
    try:
        log = _whole_log(part, kept)
        findings = appraise_log(log, len(kept), quote.value.pcrs, allowed)
    except PerunError as exc:
        log, findings = b"", LogFindings(0, 0, exc.reasons)
    appraisal = appraise_measured(quote, boot_log, findings, machine=machine, policy=policy, binding=binding, now=now)
    return Judgement(appraisal, _triple(clock), log)


@lru_cache(maxsize=MACHINES)
def _signer(ak_public: bytes, ek_public: bytes) -> tuple[AttestationKey, tuple[bytes, ...]]:
    """The machine's attestation key, checked, and the names it may sign by. Enrolment fixes both; they are judged at each
    renewal."""
    ak = check_ak(ak_public)
    return ak, qualified_names(ak, parse_public(ek_public) if ek_public else None)


def _only_part(bundle: Bundle) -> TpmPart | SimulatedPart:
    if len(bundle.parts) != 1:
        raise refuse(WRONG_PROFILE, "the profile has one part", expected="1 part", seen=f"{len(bundle.parts)} parts")
    return bundle.parts[0]


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
