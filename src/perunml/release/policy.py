"""From what an agreement asks of a host to what evidence is judged by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from perunml.agreements.boards import in_words, satisfied
from perunml.agreements.profiles import AllOf, AnyOf, AnyProfile, Measured, allows_simulated, alternatives
from perunml.agreements.schema import Agreement
from perunml.evidence.baseline import Baseline
from perunml.evidence.dcap.rules import SgxRules, TdxRules
from perunml.evidence.nvidia.rules import GpuRules
from perunml.evidence.policy import Policy
from perunml.evidence.snp.rules import SnpRules
from perunml.release import codes
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import PerunError, refuse

READERS: Mapping[str, Callable[[Any], Any]] = {
    "sgx": SgxRules.from_json,
    "tdx": TdxRules.from_json,
    "snp": SnpRules.from_json,
    "gpu": GpuRules.from_json,
}
"""What reads a profile's rules, by kind."""


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
        found.append(_policy(profile, baseline))
    return found


def check_rules(agreement: Agreement) -> None:
    """Raises `UsageError` (malformed, unknown_key) for rules of a TEE or of GPUs that cannot be read, naming where they stand. Who proposes an
    agreement, and who takes it in, asks."""
    for name, role in {**agreement.hosts, "the manager": agreement.manager.profile}.items():
        check_judged(name, role)
        for profile in alternatives(role):
            for kind, rules in profile.rules.items():
                try:
                    READERS[kind](rules)
                except PerunError as exc:
                    reason = exc.reasons[0]
                    what = f"{name}: {kind}: {reason.message}"
                    raise refuse(reason.rule, what, expected=reason.expected, seen=reason.seen) from None


def check_judged(name: str, role: AnyProfile | AnyOf) -> None:
    """Raises `UsageError` (malformed) for what a profile asks for and no evidence of its kind can show: whoever wrote it would
    rely on it."""
    for profile in alternatives(role):
        for part in profile.all_of if isinstance(profile, AllOf) else (profile,):
            if isinstance(part, Measured) and part.min_driver is not None:
                what = f"{name}: min_driver: what a TPM proves tells no version of a GPU's driver"
                raise refuse(MALFORMED, what, expected="the driver's files in the baseline", seen=part.min_driver)


def _policy(profile: AnyProfile, baseline: Baseline | None) -> Policy:
    read = {kind: READERS[kind](rules) for kind, rules in profile.rules.items()}
    gpu = read.pop("gpu", None)
    (tee,) = read.values() or (None,)
    return Policy(
        profile.profile,
        profile.imitated,
        baseline,
        allows_simulated(profile),
        tee,
        gpu,
        profile.binder if isinstance(profile, AllOf) else "",
        profile.judged_by,
        tuple(frozenset(machine.split("+")) for machine in profile.machines),
    )
