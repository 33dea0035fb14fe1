"""The baseline's document: one spelling per meaning, and windows for updates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from evidence.judging import BINDING, NOW, codes, judged
from perunml.evidence.baseline import Baseline, Until
from perunml.evidence.rules import BootRules, ImaRules, TpmRules
from perunml.testing.forge import ForgedTpm
from perunml.wire.errors import UsageError

DIGEST = "sha256:" + "5a" * 32
FULL = Baseline(
    {"sha256": {0: bytes(32)}},
    {"/bin/x": frozenset([DIGEST])},
    BootRules(secure_boot=True, dbx=frozenset([DIGEST]), cmdline=frozenset(["ima_policy=tcb"]), open=frozenset([1, 5])),
    ImaRules(require=frozenset(["/init"]), kexec=True),
    TpmRules(unsafe_clock=True, denied_firmware=frozenset(["0000000000000001"])),
    (Until(NOW, {"sha256": {0: b"\x01" * 32}}, {"/bin/y": frozenset([DIGEST])}),),
)


def test_a_baseline_reads_back() -> None:
    """Every rule, and the bare form."""
    assert Baseline.from_json(FULL.as_json()) == FULL
    bare = Baseline(FULL.pcrs, FULL.files)
    assert set(bare.as_json()) == {"pcrs", "files"}
    assert Baseline.from_json(bare.as_json()) == bare
    assert bare.digest != FULL.digest


BROKEN: dict[str, dict[str, Any]] = {
    "an-unknown-rule": {"boot": {"secureboot": True}},
    "an-unknown-member": {"windows": []},
    "an-empty-list": {"ima": {"require": []}},
    "a-list-twice": {"boot": {"open": [1, 1]}},
    "an-unsorted-list": {"boot": {"open": [5, 1]}},
    "a-pcr-of-no-boot": {"boot": {"open": [10]}},
    "a-bool-for-a-pcr": {"boot": {"open": [True]}},
    "a-false-flag": {"ima": {"kexec": False}},
    "a-text-for-a-flag": {"tpm": {"discrete": "yes"}},
    "a-short-digest": {"boot": {"dbx": ["sha256:00"]}},
    "a-word-with-a-blank": {"boot": {"cmdline": ["a b"]}},
    "an-empty-window-list": {"until": []},
    "rules-that-say-nothing": {"ima": {}},
    "a-window-without-end": {"until": [{"pcrs": {}, "files": {}}]},
    "a-window-of-another-time": {"until": [{"end": "2027-01-01", "pcrs": {}, "files": {}}]},
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_baseline_of_another_form_is_refused(change: dict[str, Any]) -> None:
    """Strict reading: nothing unknown, nothing twice, one spelling."""
    with pytest.raises(UsageError, match="malformed"):
        Baseline.from_json(FULL.as_json() | change)


def test_i31_a_window_allows_the_older_state_until_its_end() -> None:
    """I31: an update in which machines have the old or the new files; after the end only the new ones."""
    old = ForgedTpm()
    new = replace(old.baseline(), pcrs={"sha256": {i: bytes(32) for i in range(10)}}, files={})
    window = Until(NOW + 1, old.baseline().pcrs, old.baseline().files)
    assert codes(judged(old, old.bundle(BINDING), replace(new, until=(window,)))) == []
    shut = codes(judged(old, old.bundle(BINDING), replace(new, until=(replace(window, end=NOW),))))
    assert set(shut) == {"pcr_mismatch", "not_in_policy"}
