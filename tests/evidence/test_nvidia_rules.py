"""What a profile may say of NVIDIA's devices: one spelling for each meaning, and no word that is not known."""

from __future__ import annotations

from typing import Any

import pytest

from perunml.evidence.nvidia.rules import GpuRules
from perunml.wire.errors import UsageError

WHOLE: dict[str, Any] = {
    "architectures": ["blackwell", "hopper"],
    "count": 8,
    "drivers": ["550.90.07", "575.32"],
    "excused": {"driver:545.00": "2027-01-01T00:00:00Z", "ocsp": "2027-01-01T00:00:00Z"},
    "max_age": "7d",
    "min_driver": "550.54",
    "modes": ["ppcie"],
    "switches": 4,
    "vbios": ["96.00.9F.00.01"],
}


def test_rules_are_written_as_they_were_read() -> None:
    """All members, none, and each alone."""
    for written in ({}, WHOLE, *({name: value} for name, value in WHOLE.items())):
        assert GpuRules.from_json(written).as_json() == written


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"counts": 2},
        {"count": 1},
        {"count": 0},
        {"count": True},
        {"count": 17},
        {"switches": 0},
        {"switches": "4"},
        {"architectures": []},
        {"architectures": ["volta"]},
        {"architectures": ["hopper", "blackwell"]},
        {"architectures": ["hopper", "hopper"]},
        {"architectures": [1]},
        {"drivers": ["550.90.07 "]},
        {"drivers": [["550"]]},
        {"vbios": ["96.00.9f.00.01"]},
        {"modes": ["cc", "mpt", "spt"]},
        {"modes": ["off"]},
        {"max_age": "one day"},
        {"max_age": 7},
        {"min_driver": "550.x"},
        {"min_driver": ""},
        {"excused": {}},
        {"excused": []},
        {"excused": {"rim": "2027-01-01T00:00:00Z"}},
        {"excused": {"driver:*": "2027-01-01T00:00:00Z"}},
        {"excused": {"ocsp": "forever"}},
        {"excused": {"ocsp": 1_800_000_000}},
    ],
    ids=str,
)
def test_what_is_no_rule_or_another_spelling_is_refused(wrong: Any) -> None:
    """Unknown members and items, defaults written out, lists out of order, excuses without a version or an end."""
    with pytest.raises(UsageError) as caught:
        GpuRules.from_json(wrong)
    assert caught.value.code == "malformed"


def test_an_unknown_member_is_told_its_nearest_known_one() -> None:
    """`driver` is meant as `drivers`."""
    with pytest.raises(UsageError) as caught:
        GpuRules.from_json({"driver": ["550.90.07"]})
    assert caught.value.reasons[0].expected == "drivers"
