"""The rules about the host: what it proved, which machine it is, who runs it, what it served before."""

from __future__ import annotations

import hmac
from collections.abc import Iterator

from perunml.agreements.jobs import AnyJob
from perunml.agreements.profiles import AllOf, AnyOf, AnyProfile, alternatives
from perunml.agreements.schema import Agreement
from perunml.evidence.codes import BINDING_MISMATCH
from perunml.evidence.types import Appraisal
from perunml.release import codes
from perunml.release.types import Run, Usage
from perunml.wire.rules import Reason

BINDING_SIZE = 48
"""Bytes of a binding (SHA-384, DESIGN section 6)."""


def bound(run: Run, appraisal: Appraisal) -> Iterator[Reason]:
    """The evidence was made for this very exchange. An empty binding on both sides is not a match."""
    if len(run.binding) != BINDING_SIZE or not hmac.compare_digest(run.binding, appraisal.binding):
        yield Reason(
            BINDING_MISMATCH,
            "the evidence is not bound to this exchange",
            run.binding.hex() or "a binding",
            appraisal.binding.hex() or "none",
        )


def good_enough(role: AnyProfile | AnyOf, role_name: str, appraisal: Appraisal) -> Iterator[Reason]:
    """The appraisal has no reasons of its own, and one of the role's profiles is met on a machine that it names."""
    yield from appraisal.reasons
    profiles = alternatives(role)
    met = [profile for profile in profiles if _meets(profile, appraisal)]
    if not met:
        yield Reason(
            codes.PROFILE_NOT_MET,
            f"the host did not prove what {role_name} asks for",
            " or ".join(_wanted(profile) for profile in profiles),
            _proved(appraisal),
        )
        met = list(profiles)  # a machine that none of them names is a second fault, said at once
    if not any(_names(profile, appraisal) for profile in met):
        machines = sorted({machine for profile in met for listed in machines_of(profile) for machine in listed})
        yield Reason(
            codes.MACHINE_NOT_AGREED,
            f"the agreement does not name this machine for {role_name}",
            ", ".join(machines),
            "+".join(appraisal.identities) if appraisal.machine else "no machine",
        )


def right_operator(agreement: Agreement, run: Run, job: AnyJob) -> Iterator[Reason]:
    party = agreement.parties[job.operator]
    if run.operator not in party.keys.values():
        yield Reason(
            codes.WRONG_OPERATOR,
            f"the host was not enrolled by {job.operator}",
            " or ".join(party.keys.values()),
            run.operator or "nobody",
        )


def fresh_boot(agreement: Agreement, job: AnyJob, usage: Usage) -> Iterator[Reason]:
    other = usage.other_agreement_this_boot
    if other is None or other == agreement.digest:
        return
    if not (job.tenancy == "shared" and usage.other_agreement_shares):
        yield Reason(codes.BOOT_USED, "the machine has served another agreement since it booted", "a fresh boot", other)


def machines_of(profile: AnyProfile) -> tuple[tuple[str, ...], ...]:
    """The lists of machines of which a host must be on each: a profile's own, and those inside `all_of`."""
    inside = [part.machines for part in profile.all_of] if isinstance(profile, AllOf) else []
    return tuple(listed for listed in (profile.machines, *inside) if listed)


def _meets(profile: AnyProfile, appraisal: Appraisal) -> bool:
    """What was achieved is what this profile names, under what the agreement names. `simulated` is met by a host that
    went through the checks it imitates, and by real hardware under the very same rules: never the other way round."""
    return profile.judged_by == appraisal.baseline and achieved(profile, appraisal.profile, appraisal.imitates)


def achieved(profile: AnyProfile, proven: str, imitates: str) -> bool:
    """Whether what a host proved (`imitates`: and only pretended to be) is what this profile names, whatever it was judged by."""
    if profile.profile != "simulated":
        return proven == profile.profile and not imitates
    if proven == "simulated":
        return imitates == (profile.imitated or "tee")  # as evidence.policy.Policy reads a bare `simulated`
    return bool(profile.judged_by) and proven == profile.imitated


def _names(profile: AnyProfile, appraisal: Appraisal) -> bool:
    """`measured` always names machines; a profile without a list takes every enrolled machine of its operator. A pair of
    identities wants both of them proven."""
    proven = set(appraisal.identities)
    return bool(appraisal.machine) and all(
        any(set(machine.split("+")) <= proven for machine in listed) for listed in machines_of(profile)
    )


def _wanted(profile: AnyProfile) -> str:
    text: str = profile.profile
    if profile.imitated:
        text += f" (imitating {profile.imitated})"
    return f"{text} under {profile.judged_by}" if profile.judged_by else text


def _proved(appraisal: Appraisal) -> str:
    text = appraisal.profile or "nothing"
    if appraisal.imitates:
        text += f" (imitating {appraisal.imitates})"
    return f"{text} under {appraisal.baseline}" if appraisal.baseline else text
