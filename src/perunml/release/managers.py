"""What a manager must prove besides its evidence's own rules: which machine it runs on, and who keeps its root key.

Three ask: a party that is to trust a manager, a manager that is to hand its root key to another one, and whoever audits that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from perunml.agreements.profiles import AnyProfile
from perunml.evidence.codes import WRONG_MACHINE
from perunml.release.codes import CUSTODY_WEAK
from perunml.release.hosts import achieved, machines_of
from perunml.wire.rules import Reason

NEEDED_PCRS = frozenset({0, 2, 4, 7})
"""PCRs that a TPM must keep a root key by: without them the operator chooses what runs (TCG PC Client Platform Firmware
Profile, 3.3.4)."""
ADMITTED = {"simulated": ("passphrase", "tpm", "tee"), "measured": ("tpm", "tee"), "measured+tee": ("tpm", "tee")}
"""Who may keep the root key of a manager that achieved a profile, where the parties do not say it themselves."""
ELSE = ("tee",)
"""Of every other profile: a TPM beside a TEE is whosever machine it is."""


@dataclass(frozen=True, slots=True)
class Proven:
    """What a manager once proved, as it is told afterwards.

    profile, imitates  what was achieved, as an `Appraisal` has it
    judged_by   digest of what it was judged by
    identities  which machine it was
    custody     who kept its root key: ``passphrase``, ``tpm`` (by `pcrs`) or ``tee``
    """

    profile: str
    imitates: str
    judged_by: str
    identities: tuple[str, ...]
    custody: str
    pcrs: tuple[int, ...] = ()


def custody_reasons(
    proven: str, custody: str, pcrs: Collection[int], admitted: Collection[str] | None
) -> Iterator[Reason]:
    """Why whoever keeps the root key is not who may, for a manager that achieved the profile `proven`. `admitted` are the parties'
    own words, None: what the profile implies."""
    wanted = ADMITTED.get(proven, ELSE) if admitted is None else sorted(admitted)
    if custody not in wanted:
        yield Reason(
            CUSTODY_WEAK,
            "its root key, and so every key that it has, is known to whoever knows a passphrase"
            if custody == "passphrase"
            else "its root key is kept by something that the profile does not admit",
            expected=" or ".join(wanted),
            seen=custody,
        )
    elif custody == "tpm" and not set(pcrs) >= NEEDED_PCRS:
        yield Reason(
            CUSTODY_WEAK,
            "its TPM gives the root key to a machine that was booted otherwise too",
            expected="PCRs " + ", ".join(map(str, sorted(NEEDED_PCRS))),
            seen=", ".join(map(str, pcrs)) or "none",
        )


def machine_reasons(profile: AnyProfile, identities: Collection[str]) -> Iterator[Reason]:
    """Why the machine with these identities is none that `profile` names."""
    proven = set(identities)
    for listed in machines_of(profile):
        if not any(proven >= set(name.split("+")) for name in listed):
            yield Reason(
                WRONG_MACHINE,
                "the manager runs on another machine than the profile names",
                expected=" or ".join(listed),
                seen="+".join(sorted(proven)) or "none",
            )


def meets(profiles: Iterable[AnyProfile], proven: Proven, admitted: Collection[str] | None = None) -> bool:
    """Whether what was proven is what one of the profiles names, on a machine that it names, with a root key kept as it asks."""
    return any(
        profile.judged_by == proven.judged_by
        and achieved(profile, proven.profile, proven.imitates)
        and not [*machine_reasons(profile, proven.identities)]
        and not [*custody_reasons(proven.profile, proven.custody, proven.pcrs, admitted)]
        for profile in profiles
    )
