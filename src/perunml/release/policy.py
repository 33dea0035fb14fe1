"""From what an agreement asks of a host to what evidence is judged by."""

from __future__ import annotations

from collections.abc import Mapping

from perunml.agreements.boards import in_words, satisfied
from perunml.agreements.profiles import AnyOf, AnyProfile, allows_simulated, alternatives
from perunml.agreements.schema import Agreement
from perunml.evidence.baseline import Baseline
from perunml.evidence.policy import Policy
from perunml.release import codes
from perunml.wire.errors import refuse


def check_signed(agreement: Agreement, role: AnyProfile | AnyOf, signers: Mapping[str, frozenset[str]]) -> None:
    """Raises `EvidenceRefusal` (baseline_unsigned) unless each baseline of the role is signed as the agreement demands.
    `signers` are the keys whose signatures a baseline bears, verified, by its digest."""
    for profile in alternatives(role):
        if not profile.baseline_signer:
            continue
        party = agreement.parties[profile.baseline_signer]
        signed = {name for name, key in party.keys.items() if key in signers.get(profile.baseline_digest, ())}
        if not satisfied(party.board, signed):
            raise refuse(
                codes.BASELINE_UNSIGNED,
                f"the baseline is not signed by {profile.baseline_signer}",
                expected=in_words(party.board),
                seen=", ".join(sorted(signed)) or "no signature of theirs",
                command="perunml document push FILE",
            )


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
