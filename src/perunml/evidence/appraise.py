"""Appraises a bundle's verified parts against a policy: the only place where an `Appraisal` is made.

Each branch begins with every reason it can know, and nothing is skipped because something else failed before, as far as
it can be looked at: only unverified bytes are never looked into.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from perunml.evidence.bootlog.judge import BootFindings
from perunml.evidence.codes import SIMULATED_NOT_ALLOWED, WRONG_PROFILE
from perunml.evidence.composite import DeviceFindings
from perunml.evidence.ima.appraise import LogFindings
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.simulated.verify import Statement
from perunml.evidence.tee.codes import PART_MISSING
from perunml.evidence.tpm.appraise import appraise_quote
from perunml.evidence.tpm.quote import Quote
from perunml.evidence.types import Appraisal, Verified, mint_appraisal
from perunml.wire.canonical import Json
from perunml.wire.rules import Reason

MEASURED, TEE, GPU_CC, SIMULATED = "measured", "tee", "gpu-cc", "simulated"
UNNAMED = "tee"
"""A TEE's machine that nobody enrolled and whose hardware tells no identity."""
TPM_NAMES = "ek:"
"""How a machine's name begins that is its TPM's."""


@dataclass(frozen=True, slots=True)
class TpmFindings:
    """A verified quote of a TPM, and what its boot log and IMA log were found to be."""

    quote: Verified[Quote]
    boot_log: BootFindings
    log: LogFindings

    @property
    def boot(self) -> str:
        """Names this boot."""
        clock = self.quote.value.clock
        return f"tpm:{clock.reset}.{clock.restart}"


def appraise_parts(
    tpm: TpmFindings | None,
    tee: DeviceFindings | None,
    gpus: DeviceFindings | None,
    *,
    machine: Machine,
    policy: Policy,
    binding: bytes,
    now: int,
    joined: tuple[Reason, ...] = (),
) -> Appraisal:
    """Parts that were verified, each for the same binding, at `now` (seconds since 1970); at least one. `joined` is what was
    found wrong between them."""
    devices = [found for found in (tee, gpus) if found is not None]
    checks = "+".join(sorted(_checked(tpm, tee, gpus)))
    simulated = (tpm is not None and machine.simulated) or any(found.simulated for found in devices)
    profile, imitates = (SIMULATED, checks) if simulated else (checks, "")
    claims: dict[str, Json] = {"entries": 0}
    reasons = list(profile_reasons(profile, checks, policy))
    if tpm is not None:
        claims = tpm_claims(tpm, machine)
        kind = machine.tpm.get("kind", "")
        reasons += appraise_quote(tpm.quote, policy.baseline, machine.last_clock, now, kind)
        reasons += [*tpm.boot_log.reasons, *tpm.log.reasons]
    for found in devices:
        reasons += found.reasons
    if tee is not None:
        claims["tee"] = tee.claims
    if gpus is not None:
        claims["gpus"] = gpus.claims
    own = (machine.id,) if tpm is not None and machine.id else ()
    # where the hardware tells no name, the one of an enrolled key stands; a TPM's is proven by a TPM's quote alone
    bare = machine.id if machine.id and not machine.id.startswith(TPM_NAMES) else UNNAMED
    identities = tuple(dict.fromkeys((*own, *(name for found in devices for name in found.identities))))
    return mint_appraisal(
        profile=profile,
        imitates=imitates,
        machine=machine.id or "+".join(identities) or UNNAMED,
        binding=binding,
        claims=claims,
        boot=tpm.boot if tpm is not None else tee.boot if tee is not None else "",
        reasons=(*reasons, *joined),
        baseline=policy.judged_by,
        identities=identities or (bare,),
    )


def tpm_claims(tpm: TpmFindings, machine: Machine) -> dict[str, Json]:
    """What a TPM's evidence tells."""
    clock = tpm.quote.value.clock
    return {
        "entries": tpm.log.lines,
        "entries_proven": tpm.log.proven,
        "reset_count": clock.reset,
        "restart_count": clock.restart,
        "clock_ms": str(clock.clock),
        "firmware": f"{tpm.quote.value.firmware:016x}",
        "banks": sorted(tpm.quote.value.pcrs),
        "tpm": dict(machine.tpm),
        "boot": tpm.boot_log.claims(),
    }


def _checked(tpm: TpmFindings | None, tee: DeviceFindings | None, gpus: DeviceFindings | None) -> Iterator[str]:
    if tpm is not None:
        yield MEASURED
    if tee is not None:
        yield GPU_CC if gpus is not None else TEE


def appraise_statement(
    statement: Verified[Statement], *, machine: Machine, policy: Policy, binding: bytes
) -> Appraisal:
    """A bare key's statement: `simulated`, imitating `tee`."""
    assert statement.value.binding == binding
    reasons = profile_reasons(SIMULATED, TEE, policy)
    if policy.tee is not None or policy.gpu is not None:
        # a key may stand for a TEE of which nothing is demanded, never for one that must show something
        what = "a bare key's statement shows nothing of what the rules ask for"
        reasons = (*reasons, Reason(PART_MISSING, what, expected="a TEE's evidence", seen="simulated"))
    return _bare(TEE, machine, binding, {"entries": 0}, reasons)


def appraise_unverified(reasons: tuple[Reason, ...], *, machine: Machine) -> Appraisal:
    """What could not be verified: it proved no binding, and it is good for nothing."""
    if not reasons:
        raise ValueError("unverified evidence has a reason")
    return _bare("", machine, b"", {}, reasons)


def profile_reasons(achieved: str, checks: str, policy: Policy) -> tuple[Reason, ...]:
    """Why evidence whose `checks` (a profile's name) were run and that `achieved` a profile is not what the policy asks for.
    A real machine may stand where a simulated one would do."""
    found = []
    wanted = policy.checks
    if checks != wanted:
        found.append(Reason(WRONG_PROFILE, "evidence of another kind", expected=wanted, seen=checks))
    if achieved == SIMULATED:
        if not policy.allow_simulated:
            found.append(Reason(SIMULATED_NOT_ALLOWED, "the machine is simulated", expected=policy.profile))
        if policy.profile != SIMULATED:
            found.append(Reason(WRONG_PROFILE, "the profile is not achieved", expected=policy.profile, seen=SIMULATED))
    return tuple(found)


def _bare(
    imitates: str, machine: Machine, binding: bytes, claims: Mapping[str, Json], reasons: tuple[Reason, ...]
) -> Appraisal:
    return mint_appraisal(
        profile=SIMULATED,
        imitates=imitates,
        machine=machine.id,
        binding=binding,
        claims=claims,
        boot="",
        reasons=reasons,
    )
