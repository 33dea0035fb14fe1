"""What a manager must prove besides its evidence's own rules: which machine it runs on, and who keeps its root key."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from perunml.agreements.profiles import AnyProfile
from perunml.api.trust import NEEDED_PCRS, RootCustody
from perunml.client.codes import CUSTODY_WEAK
from perunml.evidence.codes import WRONG_MACHINE
from perunml.evidence.types import Appraisal
from perunml.release.hosts import machines_of
from perunml.wire.rules import Reason

ADMITTED = {"simulated": ("passphrase", "tpm", "tee"), "measured": ("tpm", "tee"), "measured+tee": ("tpm", "tee")}
"""Who may keep the root key of a manager that achieved a profile, where the parties do not say it themselves."""
ELSE = ("tee",)
"""Of every other profile: a TPM beside a TEE is whosever machine it is."""


def more_reasons(
    appraisal: Appraisal, profile: AnyProfile, custody: RootCustody, admitted: Collection[str] | None
) -> Iterator[Reason]:
    """Why a manager is not what `profile` names, beyond `appraisal.reasons`. `admitted` are the parties' own words."""
    yield from _machine(appraisal, profile)
    wanted = ADMITTED.get(appraisal.profile, ELSE) if admitted is None else sorted(admitted)
    if custody.kind not in wanted:
        yield Reason(
            CUSTODY_WEAK,
            "its root key, and so every key that it has, is known to whoever knows a passphrase"
            if custody.kind == "passphrase"
            else "its root key is kept by something that the profile does not admit",
            expected=" or ".join(wanted),
            seen=custody.kind,
        )
    elif custody.kind == "tpm" and not set(custody.pcrs) >= NEEDED_PCRS:
        yield Reason(
            CUSTODY_WEAK,
            "its TPM gives the root key to a machine that was booted otherwise too",
            expected="PCRs " + ", ".join(map(str, sorted(NEEDED_PCRS))),
            seen=", ".join(map(str, custody.pcrs)) or "none",
        )


def _machine(appraisal: Appraisal, profile: AnyProfile) -> Iterator[Reason]:
    proven = set(identities(appraisal))
    for listed in machines_of(profile):
        if not any(proven >= set(name.split("+")) for name in listed):
            yield Reason(
                WRONG_MACHINE,
                "the manager runs on another machine than the profile names",
                expected=" or ".join(listed),
                seen="+".join(sorted(proven)) or "none",
            )


def identities(appraisal: Appraisal) -> tuple[str, ...]:
    """Which machine was proven: of its TPM, its CPU, its GPUs."""
    return tuple(name for name in appraisal.identities or (appraisal.machine,) if name)
