"""Appraises a bundle's verified parts against a policy: the only place where an `Appraisal` is made.

Each branch begins with every reason it can know, and nothing is skipped because something else failed before, as far as
it can be looked at: only unverified bytes are never looked into.
"""

from __future__ import annotations

from collections.abc import Mapping

from perunml.evidence.bootlog.judge import BootFindings
from perunml.evidence.codes import SIMULATED_NOT_ALLOWED, WRONG_PROFILE
from perunml.evidence.ima.appraise import LogFindings
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.simulated.verify import Statement
from perunml.evidence.tpm.appraise import appraise_quote
from perunml.evidence.tpm.quote import Quote
from perunml.evidence.types import Appraisal, Verified, mint_appraisal
from perunml.wire.canonical import Json
from perunml.wire.rules import Reason

MEASURED, TEE, SIMULATED = "measured", "tee", "simulated"


def appraise_measured(
    quote: Verified[Quote],
    boot_log: BootFindings,
    log: LogFindings,
    *,
    machine: Machine,
    policy: Policy,
    binding: bytes,
    now: int,
) -> Appraisal:
    """A verified quote of a TPM and what its boot log and IMA log were found to be, at `now` (seconds since 1970)."""
    profile, imitates = (SIMULATED, MEASURED) if machine.simulated else (MEASURED, "")
    clock = quote.value.clock
    claims: dict[str, Json] = {
        "entries": log.lines,
        "entries_proven": log.proven,
        "reset_count": clock.reset,
        "restart_count": clock.restart,
        "clock_ms": str(clock.clock),
        "firmware": f"{quote.value.firmware:016x}",
        "banks": sorted(quote.value.pcrs),
        "tpm": dict(machine.tpm),
        "boot": boot_log.claims(),
    }
    reasons = (
        *profile_reasons(profile, MEASURED, policy),
        *appraise_quote(quote, policy.baseline, machine.last_clock, now, machine.tpm.get("kind", "")),
        *boot_log.reasons,
        *log.reasons,
    )
    boot = f"tpm:{clock.reset}.{clock.restart}"
    baseline = policy.baseline.digest if policy.baseline is not None else ""
    return _made(profile, imitates, machine, binding, claims, boot, reasons, baseline)


def appraise_statement(
    statement: Verified[Statement], *, machine: Machine, policy: Policy, binding: bytes
) -> Appraisal:
    """A bare key's statement: `simulated`, imitating `tee`."""
    assert statement.value.binding == binding
    reasons = profile_reasons(SIMULATED, TEE, policy)
    return _made(SIMULATED, TEE, machine, binding, {"entries": 0}, "", reasons)


def appraise_unverified(reasons: tuple[Reason, ...], *, machine: Machine) -> Appraisal:
    """What could not be verified: it proved no binding, and it is good for nothing."""
    if not reasons:
        raise ValueError("unverified evidence has a reason")
    return _made(SIMULATED, "", machine, b"", {}, "", reasons)


def profile_reasons(achieved: str, checks: str, policy: Policy) -> tuple[Reason, ...]:
    """Why evidence whose `checks` (``measured`` or ``tee``) were run and that `achieved` a profile is not what the policy
    asks for. A real machine may stand where a simulated one would do."""
    found = []
    if policy.profile == SIMULATED:
        wanted = policy.imitates or (MEASURED if policy.baseline is not None else TEE)
    else:
        wanted = policy.profile
    if checks != wanted:
        found.append(Reason(WRONG_PROFILE, "evidence of another kind", expected=wanted, seen=checks))
    if achieved == SIMULATED:
        if not policy.allow_simulated:
            found.append(Reason(SIMULATED_NOT_ALLOWED, "the machine is simulated", expected=policy.profile))
        if policy.profile != SIMULATED:
            found.append(Reason(WRONG_PROFILE, "the profile is not achieved", expected=policy.profile, seen=SIMULATED))
    return tuple(found)


def _made(
    profile: str,
    imitates: str,
    machine: Machine,
    binding: bytes,
    claims: Mapping[str, Json],
    boot: str,
    reasons: tuple[Reason, ...],
    baseline: str = "",
) -> Appraisal:
    return mint_appraisal(
        profile=profile,
        imitates=imitates,
        machine=machine.id,
        binding=binding,
        claims=claims,
        boot=boot,
        reasons=reasons,
        baseline=baseline,
    )
