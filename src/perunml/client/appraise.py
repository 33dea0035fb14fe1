"""What a manager must prove besides its evidence's own rules: which machine it runs on, who keeps its root key, and where that key
came from."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from perunml.agreements.profiles import AnyProfile
from perunml.api.trust import RootCustody
from perunml.client.codes import CUSTODY_ORIGIN
from perunml.evidence.types import Appraisal
from perunml.release.managers import custody_reasons, machine_reasons, meets
from perunml.wire.rules import Reason


def more_reasons(
    appraisal: Appraisal, profile: AnyProfile, custody: RootCustody, admitted: Collection[str] | None
) -> Iterator[Reason]:
    """Why a manager is not what `profile` names, beyond `appraisal.reasons`. `admitted` are the parties' own words."""
    yield from machine_reasons(profile, identities(appraisal))
    yield from custody_reasons(appraisal.profile, custody.kind, custody.pcrs, admitted)


def origin_reasons(
    profiles: Collection[AnyProfile], custody: RootCustody, admitted: Collection[str] | None
) -> Iterator[Reason]:
    """Why a root key that others had before is not good enough: one of them proved none of the `profiles`, and whoever ran that one
    may have chosen the key."""
    for before in custody.origin:
        if not meets(profiles, before.proven, admitted):
            yield Reason(
                CUSTODY_ORIGIN,
                "its root key comes from a manager that the profile does not admit",
                expected=f"a profile for one judged by {before.judged_by or 'nothing'}",
                seen=f"{before.profile or 'nothing'} on {'+'.join(before.identities) or 'no machine'}, root key kept by {before.custody}",
            )


def identities(appraisal: Appraisal) -> tuple[str, ...]:
    """Which machine was proven: of its TPM, its CPU, its GPUs."""
    return tuple(name for name in appraisal.identities or (appraisal.machine,) if name)
