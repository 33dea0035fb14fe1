"""`judge`: one bundle of evidence in, one appraisal out. Parse, verify and appraise stand in modules of their own.

bundle -> tpm.quote.verify_quote        authentic, for this exchange, over these PCR values?
       -> bootlog.judge.judge_boot_log  does the boot log explain PCRs 0 to 9, and is every event agreed?
       -> ima.appraise.appraise_log     does the log explain PCR 10, and is every line agreed?
       -> composite.judge_tee, judge_gpus  the TEE's and GPUs' parts, each by its kind's verify and appraise
       -> composite.binder_reasons      are TPM and TEE of one machine?
       -> appraise.appraise_parts       is it what the policy asks for?
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from perunml.evidence.appraise import (
    MEASURED,
    TpmFindings,
    appraise_parts,
    appraise_statement,
    appraise_unverified,
)
from perunml.evidence.baseline import Allowed, Baseline
from perunml.evidence.binding import shared_extra_data
from perunml.evidence.bootlog.judge import BootFindings, judge_boot_log
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.codes import BINDING_MISMATCH, IMA_OFFSET, PCR10_MISMATCH, WRONG_PROFILE
from perunml.evidence.composite import (
    DeviceFindings,
    Parts,
    binder_reasons,
    device_reasons,
    judge_gpus,
    judge_tee,
    sort_parts,
    vouched,
)
from perunml.evidence.endorsements import Endorsements, Seen
from perunml.evidence.ima.appraise import LogFindings, appraise_log, resume_log
from perunml.evidence.ima.state import LogState
from perunml.evidence.parts import HclPart
from perunml.evidence.policy import VTPM, Machine, Policy
from perunml.evidence.simulated.verify import verify_statement
from perunml.evidence.tee.codes import PART_MISSING
from perunml.evidence.tpm.attest import Clock
from perunml.evidence.tpm.keys import AttestationKey, check_ak, qualified_names
from perunml.evidence.tpm.public import parse_public
from perunml.evidence.tpm.quote import Quote, verify_quote
from perunml.evidence.types import Appraisal, Verified
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.rules import Reason

NO_ENDORSEMENTS = Endorsements()

MACHINES = 1024
"""Machines whose keys are kept read: a kilobyte or two each."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """appraisal  what the evidence is worth; good enough only when it has no reasons
    clock      (resetCount, restartCount, clock in ms) of a verified quote, or None
    log        the boot's IMA log from byte `start` on, to be kept when the appraisal has no reasons
    start      bytes of the log that are kept already and were not looked at again
    state      what the whole log was found to be, for `judge_new`; None when there are reasons
    seen       the vendors' collateral that accepted evidence was judged by: older one is not good enough afterwards
    """

    appraisal: Appraisal
    clock: tuple[int, int, int] | None
    log: bytes
    start: int = 0
    state: LogState | None = None
    seen: Mapping[str, Seen] = field(default_factory=dict)


def judge(
    bundle: Bundle,
    *,
    machine: Machine,
    policy: Policy,
    binding: bytes,
    now: int,
    prior_log: bytes = b"",
    endorsements: Endorsements = NO_ENDORSEMENTS,
) -> Judgement:
    """Judge what `machine` sent for `binding` (48 bytes) under `policy` at `now` (seconds since 1970); `prior_log` is the log kept of its newest
    accepted evidence, whose clock is `machine.last_clock`; `endorsements` is what TEEs and GPUs are judged with. A part that the
    policy does not ask for is not looked at.

    Never raises for bad evidence: everything wrong with it is in the appraisal's reasons.
    """
    if prior_log and machine.last_clock is None:
        raise ValueError("a log is kept with the clock of the quote that proved it")
    try:
        parts = sort_parts(bundle)
        if parts.simulated is not None:
            statement = verify_statement(parts.simulated, key=machine.key, binding=binding)
            return Judgement(appraise_statement(statement, machine=machine, policy=policy, binding=binding), None, b"")
        if policy.vouched:
            machine = vouched(machine, parts.tpm, parts.tee)
        tpm, log = _judge_tpm(parts.tpm, machine, policy, binding, now, prior_log)
        return _joined(parts, tpm, log, 0, machine, policy, binding, now, endorsements)
    except PerunError as exc:
        return Judgement(appraise_unverified(exc.reasons, machine=machine), None, b"")


def judge_new(
    bundle: Bundle,
    *,
    machine: Machine,
    policy: Policy,
    binding: bytes,
    now: int,
    state: LogState,
    endorsements: Endorsements = NO_ENDORSEMENTS,
) -> Judgement | None:
    """As `judge` with the log that `state` is of as `prior_log`, without that log: only what is new of it is read. None when
    that is not enough: the new part begins elsewhere, the machine booted, another baseline is in force, or anything is
    wrong. Then `judge` it all.
    """
    try:
        parts = sort_parts(bundle)
        if parts.tpm is None or parts.tpm.ima_offset != state.size or policy.baseline is None:
            return None
        if policy.vouched:
            machine = vouched(machine, parts.tpm, parts.tee)
        quote = _quote(parts.tpm, machine, binding)
        if not _same_boot(machine, quote.value.clock):
            return None
        findings = resume_log(parts.tpm.ima_log, state, quote.value.pcrs, policy.baseline.at(now))
        if findings is None:
            return None
        tpm = TpmFindings(quote, _boot_log(parts.tpm, quote, policy.baseline, now), findings)
        found = _joined(parts, tpm, parts.tpm.ima_log, state.size, machine, policy, binding, now, endorsements)
    except PerunError:
        return None
    return None if found.appraisal.reasons else found


def _joined(
    parts: Parts,
    tpm: TpmFindings | None,
    log: bytes,
    start: int,
    machine: Machine,
    policy: Policy,
    binding: bytes,
    now: int,
    endorsements: Endorsements,
) -> Judgement:
    """What the policy asks for beside the TPM, and all of it together. Raises `EvidenceRefusal` where a part is not authentic."""
    failed: list[Reason] = []
    tee = gpus = None
    try:
        tee = judge_tee(parts.tee, policy.tee, binding, endorsements, now) if policy.tee is not None else None
    except PerunError as exc:
        failed.extend(exc.reasons)
    try:
        if policy.gpu is not None:
            beside = tee.identities if tee is not None else ()
            gpus = judge_gpus(parts.gpus, policy.gpu, binding, endorsements, now, beside=beside, pinned=policy.pinned)
    except PerunError as exc:
        failed.extend(exc.reasons)
    if tpm is None and tee is None and gpus is None and not failed:
        failed.append(Reason(WRONG_PROFILE, "nothing was sent that the profile asks for", expected=policy.checks))
    if failed:
        raise error(failed)
    between = tuple(_between(parts, tee, machine, policy, binding))
    appraisal = appraise_parts(tpm, tee, gpus, machine=machine, policy=policy, binding=binding, now=now, joined=between)
    clock = _triple(tpm.quote.value.clock) if tpm is not None else None
    if appraisal.reasons:
        return Judgement(appraisal, clock, log, start)
    seen = {**(tee.seen if tee is not None else {}), **(gpus.seen if gpus is not None else {})}
    return Judgement(appraisal, clock, log, start, tpm.log.state if tpm is not None else None, seen)


def _between(
    parts: Parts, tee: DeviceFindings | None, machine: Machine, policy: Policy, binding: bytes
) -> Iterator[Reason]:
    if tee is None:
        return
    yield from device_reasons(machine, tee)
    if isinstance(parts.tee, HclPart) and (policy.binder != VTPM or policy.baseline is None):
        # such a TEE is bound to the exchange by its TPM's quote alone: without one that was judged, by nothing
        what = "a cloud's report measures its paravisor alone: the system is measured by its virtual TPM"
        yield Reason(PART_MISSING, what, expected="all_of with `binder: vtpm`")
    if parts.tpm is not None and policy.baseline is not None:
        yield from binder_reasons(policy.binder, parts.tpm, parts.tee, machine, binding)


def _judge_tpm(
    part: TpmPart | None, machine: Machine, policy: Policy, binding: bytes, now: int, prior_log: bytes
) -> tuple[TpmFindings | None, bytes]:
    """The TPM's findings and this boot's whole log. Raises `EvidenceRefusal` where the quote is not authentic."""
    if policy.baseline is None and (policy.tee is not None or policy.checks != MEASURED):
        return None, b""  # none is asked for
    if part is None:
        raise refuse(PART_MISSING, "the profile demands a TPM's evidence", expected="tpm", seen="none")
    quote = _quote(part, machine, binding)
    kept = prior_log if _same_boot(machine, quote.value.clock) else b""
    allowed = policy.baseline.at(now) if policy.baseline is not None else Allowed({}, {})
    try:
        log = _whole_log(part, kept)
        findings = appraise_log(log, len(kept), quote.value.pcrs, allowed)
    except PerunError as exc:
        log, findings = b"", LogFindings(0, 0, exc.reasons)
    return TpmFindings(quote, _boot_log(part, quote, policy.baseline, now), findings), log


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
