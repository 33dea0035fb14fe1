"""`perunml push`, `asset`, `document` against a real manager."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.kit import Party
from cli.world import SECRET, World
from perunml.api.codes import UNREACHABLE
from perunml.client import assets
from perunml.client.connection import Connection
from perunml.wire.errors import refuse


def test_what_was_pushed_is_whole_and_sealed(world: World) -> None:
    """The manager holds every byte and can read none of it in its folder."""
    shown = world["st-vitus"].ok("asset", "show", "scans")
    assert shown["complete"] is True
    assert shown["asset"] == world.assets["scans"]
    for file in world.manager.folder.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()


def test_pushing_again_changes_nothing(world: World) -> None:
    """The same asset, the same digest; only its wraps are renewed."""
    again = world["st-vitus"].ok("push", "scans")
    assert (again["asset"], again["complete"]) == (world.assets["scans"], True)


def test_an_interrupted_push_goes_on(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was acknowledged is not sent again."""
    party = world["st-vitus"]
    source = tmp_path / "big"
    source.mkdir()
    (source / "a.bin").write_bytes(bytes(600_000))
    digest = party.ok("seal", source, "--name", "big", "--kind", "dataset")["asset"]
    monkeypatch.setattr(assets, "PART_SIZE", 100_000)
    sent: list[str] = []
    raw = Connection.raw

    def flaky(self: Connection, method: str, path: str, *args: Any, **kwargs: Any) -> bytes:
        if method == "PUT":
            if len(sent) == 3:
                sent.append("cut")
                raise refuse(UNREACHABLE, "the network went away")
            sent.append(path)
        return raw(self, method, path, *args, **kwargs)

    monkeypatch.setattr(Connection, "raw", flaky)
    assert party("push", "big").code == 16
    assert not party.ok("asset", "show", digest)["complete"]
    assert party.ok("push", "big")["complete"] is True
    assert len(sent) == len(set(sent))


def test_an_unknown_asset(world: World) -> None:
    """Neither here nor there."""
    assert world["acme"].refused("push", "nothing") == (2, "not_found")
    assert world["acme"].refused("push", "unet", "--version", "9") == (2, "not_found")
    assert world["acme"].refused("asset", "show", "sha256:" + "0" * 64)[0] in (2, 10)


def test_somebody_elses_asset_in_this_home(world: World, tmp_path: Path) -> None:
    """A folder copied from another party is not this party's to push."""
    import shutil

    thief = world.manager.party(tmp_path / "thief", "thief")
    shutil.copytree(world["st-vitus"].home / "assets", thief.home / "assets")
    assert thief.refused("push", "scans") == (14, "bad_signature")


def test_a_truncated_blob_is_not_pushed(world: World, tmp_path: Path, scans: Path) -> None:
    """A sealed file that was cut: exit code 14, and the manager's copy stays incomplete."""
    party: Party = world.manager.party(tmp_path / "home", "careless")
    party.ok("seal", scans, "--name", "scans", "--kind", "dataset")
    blob = next((party.home / "assets" / "scans" / "v1" / "blobs").iterdir())
    blob.write_bytes(blob.read_bytes()[:-1])
    assert party.refused("push", "scans") == (14, "blob_truncated")


def test_push_a_baseline(world: World, tmp_path: Path) -> None:
    """Signed by the party, named by digest."""
    from perunml.evidence.baseline import Baseline

    baseline = Baseline({"sha256": {i: bytes([i]) * 32 for i in range(10)}}, {})
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps({"apiVersion": "perunml/v1", "kind": "Baseline", **baseline.as_json()}))
    assert world["gpu-cloud"].ok("document", "push", path) == {"digest": baseline.digest, "kind": "Baseline"}
