"""What these tests have in common: a policy that takes a software TPM, and the codes of a judgement."""

from __future__ import annotations

import secrets

from perunml.evidence.baseline import Baseline
from perunml.evidence.bundle import Bundle
from perunml.evidence.judge import Judgement, judge
from perunml.evidence.policy import Policy
from perunml.testing.forge import ForgedTpm

BINDING = b"\x5a" * 48
NOW = 1_800_000_000
"""2027-01-15: windows of a baseline are open or shut by it."""


def policy_of(baseline: Baseline | None, **changes: object) -> Policy:
    return Policy(
        **{"profile": "simulated", "imitates": "measured", "baseline": baseline, "allow_simulated": True} | changes
    )  # type: ignore[arg-type]


def judged(
    tpm: ForgedTpm, bundle: Bundle, baseline: Baseline | None = None, binding: bytes = BINDING, **changes: object
) -> Judgement:
    """Judge a bundle, made for `BINDING` if not told otherwise, under the machine's own baseline."""
    return judge(
        bundle,
        machine=tpm.enrolled(),
        policy=policy_of(baseline or tpm.baseline(), **changes),
        binding=binding,
        now=NOW,
    )


def codes(judgement: Judgement) -> list[str]:
    return [reason.code for reason in judgement.appraisal.reasons]


def fresh_binding() -> bytes:
    return secrets.token_bytes(48)
