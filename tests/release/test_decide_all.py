"""The decision, with every set of faults that there can be: released with none, and else refused with the reasons of exactly those."""

from __future__ import annotations

import itertools
from typing import Any

from agreements.sample import sha
from perunml.evidence.codes import NOT_IN_POLICY
from perunml.wire.rules import Reason
from release.test_decide import HONEST, PARAMETERS, TRAIN_UNTIL
from release.world import on

FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("agreement_not_in_force", {"state": {"in_force": False, "missing": {"acme": "ml"}}}),
    ("witness_quorum_missing", {"state": {"cosigned": False}}),
    ("asset_suspended", {"state": {"suspended": frozenset({"scans"})}}),
    ("owner_condition", {"state": {"conditions": on("scans", jobs=["serve"])}}),
    ("agreement_mismatch", {"run": {"agreement_digest": sha("0")}}),
    ("digest_not_agreed", {"run": {"assets": {"unet": sha("0")}}}),
    ("parameter_out_of_range", {"run": {"parameters": PARAMETERS | {"epochs": 51}}}),
    ("wrong_operator", {"run": {"operator": ""}}),
    ("runs_exhausted", {"usage": {"runs": {"train": 3}}}),
    ("boot_used_by_other_agreement", {"usage": {"other_agreement_this_boot": sha("0")}}),
    ("not_in_policy", {"appraisal": {"reasons": (Reason(NOT_IN_POLICY, "evil"),)}}),
    ("binding_mismatch", {"appraisal": {"binding": bytes(48)}}),
    ("agreement_expired", {"now": TRAIN_UNTIL}),
)
"""Each touches a place of its own, so that any of them can stand together."""


def together(faults: tuple[tuple[str, dict[str, Any]], ...]) -> dict[str, Any]:
    """All of them in one world."""
    made: dict[str, Any] = {}
    for _, parts in faults:
        for part, value in parts.items():
            if isinstance(value, dict):
                made[part] = made.get(part, {}) | value
            else:
                made[part] = value
    return made


def test_every_set_of_faults() -> None:
    """8,192 worlds: no fault hides another one, and none makes up for another one."""
    seen = 0
    for size in range(len(FAULTS) + 1):
        for faults in itertools.combinations(FAULTS, size):
            seen += 1
            if not faults:
                assert HONEST.release().inputs
                continue
            codes = HONEST.broken(**together(faults)).codes()
            assert sorted(codes) == sorted(code for code, _ in faults)
    assert seen == 2 ** len(FAULTS)
