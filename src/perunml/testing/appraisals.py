"""Appraisals as tests of deciding need them: the one place outside of `appraise` that mints them, and never in a product."""

from __future__ import annotations

from collections.abc import Mapping

from perunml.evidence.types import Appraisal, mint_appraisal
from perunml.wire.canonical import Json
from perunml.wire.rules import Reason


def appraisal(
    *,
    profile: str = "simulated",
    imitates: str = "tee",
    machine: str = "simulated:sha256:" + "00" * 32,
    binding: bytes = bytes(48),
    claims: Mapping[str, Json] | None = None,
    boot: str = "",
    reasons: tuple[Reason, ...] = (),
    baseline: str = "",
) -> Appraisal:
    """An appraisal that says what a test wants it to say."""
    return mint_appraisal(
        profile=profile,
        imitates=imitates,
        machine=machine,
        binding=binding,
        claims=claims or {},
        boot=boot,
        reasons=reasons,
        baseline=baseline,
    )
