"""`judge`: one bundle of evidence in, one appraisal out. Parse, verify and appraise stand in modules of their own."""

from __future__ import annotations

from dataclasses import dataclass

from perunml.evidence.bundle import Bundle
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.types import Appraisal


@dataclass(frozen=True, slots=True)
class Judgement:
    """appraisal  what the evidence is worth; good enough only when it has no reasons
    clock      (resetCount, restartCount, clock in ms) of a verified quote, or None
    log        the boot's whole IMA log, to be kept when the appraisal has no reasons
    """

    appraisal: Appraisal
    clock: tuple[int, int, int] | None
    log: bytes


def judge(bundle: Bundle, *, machine: Machine, policy: Policy, binding: bytes, prior_log: bytes = b"") -> Judgement:
    """Judge what `machine` sent for `binding` under `policy`; `prior_log` is what was kept of its newest accepted boot.

    Never raises for bad evidence: everything wrong with it is in the appraisal's reasons.
    """
    raise AssertionError("comes with the next commit")
