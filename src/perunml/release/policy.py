"""From what an agreement asks of a host to what evidence is judged by."""

from __future__ import annotations

from collections.abc import Mapping

from perunml.agreements.profiles import AnyOf, AnyProfile, allows_simulated, alternatives
from perunml.evidence.baseline import Baseline
from perunml.evidence.policy import Policy
from perunml.release import codes
from perunml.wire.errors import refuse


def policy_for(role: AnyProfile | AnyOf, baselines: Mapping[str, Baseline]) -> list[Policy]:
    """One policy for each alternative of the role, in its order. `baselines` by digest. Raises `EvidenceRefusal`
    (baseline_missing): a baseline that the role names is not there, or is not what its digest says."""
    found = []
    for profile in alternatives(role):
        baseline = None
        if wanted := profile.baseline_digest:
            baseline = baselines.get(wanted)
            if baseline is None or baseline.digest != wanted:
                raise refuse(
                    codes.BASELINE_MISSING,
                    "the agreed baseline is not at hand",
                    expected=wanted,
                    seen=baseline.digest if baseline else "none",
                    command="perunml document push FILE",
                )
        found.append(Policy(profile.profile, profile.imitated, baseline, allows_simulated(profile)))
    return found
