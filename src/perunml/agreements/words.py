"""DESIGN section 3's table in sentences: what each profile protects, and what it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perunml.agreements.profiles import AllOf, AnyOf, AnyProfile, Measured, alternatives

PROTECTION: Mapping[str, tuple[str, ...]] = {
    "simulated": (
        "simulated: proves nothing. Whoever runs this host can read what it gets; use it for development only.",
        "Sealed at rest and in transit: yes.",
        "In use, against other users of the host: no. Against root: no. Against one who can touch the TPM's bus: no.",
        "In use, against the hypervisor and probes at memory: no.",
        "What ran is proven to every party: no.",
    ),
    "measured": (
        "Sealed at rest and in transit: yes.",
        "In use, against other users of the host: yes, by the measured operating system.",
        "In use, against root: no, unless the measured image leaves root no login, shell, debugger or TPM access; a new file "
        "is seen at the next renewal, when it may have read everything.",
        "Against one who can touch the TPM's bus: no. Against the hypervisor and probes at memory: no.",
        "What ran is proven to every party: the boot chain and every loaded file, again and again while it runs.",
        "Speed: native, any GPU.",
    ),
    "tee": (
        "Sealed at rest and in transit: yes.",
        "In use, against other users of the host, against root, and against one who can touch the TPM's bus: yes.",
        "In use, against the hypervisor: yes; against probes at memory or bus: partly.",
        "What ran is proven to every party at load, not afterwards.",
        "Speed: the CPU's.",
    ),
    "gpu-cc": (
        "Sealed at rest and in transit: yes.",
        "In use, against other users of the host, against root, and against one who can touch the TPM's bus: yes.",
        "In use, against the hypervisor: yes; against probes at memory or bus: partly.",
        "What ran is proven to every party at load, not afterwards.",
        "Speed: the GPU's, with the overhead of its confidential mode.",
    ),
}
PIN_ADVICE = (
    "No machine is pinned here. Vendors' keys have been extracted from machines before: consider naming the machines' "
    "platform ids in `machines`."
)
REMAINS = (
    "Covert channels remain: a job's code can tell its operator something by timing and by the sizes of what it reads and "
    "writes.",
    "Side channels of the hardware and denial of service are not protected against.",
)


def about_role(role: AnyProfile | AnyOf) -> tuple[str, ...]:
    """What protects a host of this role, and on which machines, in sentences."""
    said: list[str] = []
    profiles = alternatives(role)
    if len(profiles) > 1:
        names = ", ".join(sorted({profile.profile for profile in profiles}))
        said.append(f"Any one of {len(profiles)} profiles will do ({names}): you are protected as by the weakest.")
    several = len({profile.profile for profile in profiles}) > 1
    kinds = [*PROTECTION, *sorted({profile.profile for profile in profiles} - set(PROTECTION))]  # the weakest first
    for name in kinds:
        sentences = _sentences(name)
        found = [profile for profile in profiles if profile.profile == name]
        if found:
            about = (*sentences, *(sentence for profile in found for sentence in _about(profile)))
            said.extend(f"As {name}: {sentence}" if several else sentence for sentence in dict.fromkeys(about))
    return tuple(said)


def _sentences(name: str) -> tuple[str, ...]:
    """What protects a host of a profile. Of a TEE with a TPM beside it: as the TEE does, and more is proven."""
    single = name.split("+")
    if len(single) == 1:
        return PROTECTION[name]
    (tee,) = (part for part in single if part != "measured")
    kept = [sentence for sentence in PROTECTION[tee] if not sentence.startswith("What ran")]
    return (*kept[:-1], BESIDE, kept[-1])


BESIDE = (
    "What ran is proven to every party: by the TEE at load; by the TPM beside it the boot chain and every loaded file, again and "
    "again while it runs."
)
BINDERS: Mapping[str, str] = {
    "machines": "TPM and TEE are of one machine because the parties approve the pair of their identities.",
    "pcr": "TPM and TEE are of one machine because the TEE's key was measured into the TPM's PCR 15 when it booted.",
    "tpm-key": "TPM and TEE are of one machine because a key of the TPM, usable in the agreed state and by this TEE alone, "
    "signs each exchange.",
    "vtpm": "The TEE vouches for the key of its cloud's virtual TPM.",
}


def _about(profile: AnyProfile) -> list[str]:
    said = []
    if profile.imitated:
        said.append(f"It goes through the checks of `{profile.imitated}`, on a root of trust that anybody can make up.")
    if isinstance(profile, AllOf):
        said.append(BINDERS[profile.binder])
        said.extend(f"Its TPM or TEE only of: {', '.join(part.machines)}." for part in profile.all_of if part.machines)
    said.extend(f"Its {kind} must show: {_rules(rules)}." for kind, rules in profile.rules.items())
    if profile.baseline_digest:
        by = f", which {profile.baseline_signer} must have signed" if profile.baseline_signer else ""
        said.append(f"Its agreed state is the baseline {profile.baseline_digest}{by}.")
    if profile.machines:
        said.append(f"Only on: {', '.join(profile.machines)}.")
        if isinstance(profile, Measured):
            said.append("The operator proposed these machines; an EK certificate proves a TPM, not a platform.")
    else:
        simulated = profile.profile == "simulated"
        said.append(PIN_ADVICE if not simulated else "On any simulated machine of the operator.")
    return said


def _rules(rules: Mapping[str, Any]) -> str:
    return "; ".join(f"{name.replace('_', ' ')}: {_value(value)}" for name, value in rules.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_rules(value)})"
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return "yes" if value is True else str(value)
