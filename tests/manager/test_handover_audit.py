"""The audit of a root key that was handed over: accepted as it was, and found out where a manager lies about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manager.joining import Led, joined
from manager.test_audit import Altered, exported
from manager.test_witnesses import refusal
from manager.world import World, cached_keys
from perunml.client.audit_verify import verify_export
from perunml.wire.identity import PublicKey


@pytest.fixture(scope="module")
def handed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Led:
    """Two agreements, and a key that was handed over under both."""
    road = Led(world, tmp_path_factory.mktemp("road"))
    road.other("beside", {"profile": "simulated"})
    joined(world, tmp_path_factory.mktemp("joined"))
    return road


def altered(road: Led, folder: Path, change: Any) -> str:
    key = cached_keys(road.world.folder).identity
    made = Altered.of(exported(road, "hospital", folder), key)
    change(made, [item for item in made.entries if item["entry"]["type"] == "handover"])
    exc = refusal(lambda: verify_export(made.write(folder / "altered.zip"), PublicKey(road.world.pin.identity)))
    assert exc.code == "history_inconsistent"
    return exc.reasons[0].message


def test_the_audit_accepts_it(handed: Led, tmp_path: Path) -> None:
    """Nothing is left to believe."""
    report = verify_export(exported(handed, "hospital", tmp_path), PublicKey(handed.world.pin.identity))
    assert report.unchecked == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [("profile", "measured"), ("imitates", "measured"), ("judged_by", "sha256:" + "0" * 64), ("simulated", False)],
)
def test_the_audit_finds_a_machine_that_was_not_named(handed: Led, tmp_path: Path, field: str, value: Any) -> None:
    """What it proved is held against the version that was in force then."""

    def change(made: Altered, found: list[dict[str, Any]]) -> None:
        found[0]["entry"]["body"]["verdict"][field] = value

    assert "handed to what this version does not name" in altered(handed, tmp_path, change)


def test_the_audit_finds_an_agreement_that_was_not_asked(handed: Led, tmp_path: Path) -> None:
    """One entry is made to be of another attempt: then each lacks an agreement."""

    def change(made: Altered, found: list[dict[str, Any]]) -> None:
        found[0]["entry"]["body"]["handover"] = "sha256:" + "0" * 64

    assert "did not admit who got the root key" in altered(handed, tmp_path, change)


def test_the_audit_finds_a_version_that_was_not_in_force(handed: Led, tmp_path: Path) -> None:
    """Entered before everybody had approved."""

    def change(made: Altered, found: list[dict[str, Any]]) -> None:
        place = next(i for i, item in enumerate(made.entries) if item["entry"]["type"] == "in-force")
        where = made.entries.index(found[0])
        one, other = made.entries[place], made.entries[where]
        one["entry"], other["entry"] = (
            {**other["entry"], "time": one["entry"]["time"]},
            {**one["entry"], "time": other["entry"]["time"]},
        )

    assert "a version that was not in force" in altered(handed, tmp_path, change)
