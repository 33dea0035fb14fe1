"""A manager in a TEE (forged evidence) takes the root key over, and says where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manager.audits import audited_by_all
from manager.joining import Led, joined
from manager.test_handover import entries, many, refusals
from manager.test_tees import RULES, ChipSource, TeeWorld
from manager.world import code_of
from perunml.api.trust import Origin
from perunml.attesters.tee import TeeAttester
from perunml.manager.custody import Kept
from perunml.manager.custody_tee import TeeCustody
from perunml.manager.device import Device
from perunml.manager.keys import Keys

__all__ = ["many"]


@pytest.fixture
def tee(tmp_path: Path) -> Any:
    """A manager that was told of a development root of TEEs; its agreement admits one measurement beside what is simulated."""
    world = TeeWorld(tmp_path)
    led = {"profile": "simulated", "imitates": "tee", "snp": RULES}
    yield Led(world, tmp_path / "road", led)
    audited_by_all(world)
    world.close()


def test_a_manager_in_a_tee_gets_it(tee: Led, tmp_path: Path) -> None:
    """No name, no key, no credential: the report says it all, and the ledger has its chip."""
    custody = TeeCustody("snp", lambda: b"k" * 32)
    joined(tee.world, tmp_path / "new", TeeAttester(ChipSource(1)), custody=custody, device=Device("snp"))
    body = next(entry["body"] for entry in entries(tee) if entry["type"] == "handover")
    assert body["machine"].startswith("chip:sha256:")
    assert (body["verdict"]["profile"], body["verdict"]["imitates"]) == ("simulated", "tee")
    assert body["custody"] == {"kind": "tee", "pcrs": []}
    root, kept = custody.open((tmp_path / "new" / "root.json").read_bytes())
    assert Keys(root).identity.public.text == tee.world.pin.identity
    assert kept == Kept("tee")


def test_t2_another_measurement_does_not(tee: Led, tmp_path: Path) -> None:
    """T2: nor a bare key, which shows nothing of what the rules ask for."""
    source = ChipSource(2)
    source.told["measurement"] = b"\x22" * 48
    custody = TeeCustody("snp", lambda: b"k" * 32)
    other = TeeAttester(source)
    assert (
        code_of(lambda: joined(tee.world, tmp_path / "a", other, custody=custody, device=Device("snp")))
        == "handover_refused"
    )
    assert code_of(lambda: joined(tee.world, tmp_path / "b")) == "handover_refused"
    told = [{reason["code"] for reason in one["reasons"]} for one in refusals(tee)]
    assert len(told) == 2
    assert "part_missing" in told[1]


def test_where_a_key_came_from_is_kept_and_judged(tmp_path: Path) -> None:
    """In a TEE's or TPM's keeping, bound to the seal: altered or left off, it does not open."""
    before = Origin(
        profile="tee", imitates="", judged_by="sha256:" + "1" * 64, identities=["chip:x"], custody="tee", pcrs=[]
    )
    custody = TeeCustody("snp", lambda: b"k" * 32)
    data = custody.seal(b"r" * 32, [before])
    assert custody.open(data) == (b"r" * 32, Kept("tee", (), (before,)))
    document = json.loads(data)
    for change in ({}, {"origin": []}, {"origin": [{**document["origin"][0], "profile": "measured"}]}, {"origin": 3}):
        changed = {**{name: value for name, value in document.items() if name != "origin"}, **change}
        assert code_of(lambda d=changed: custody.open(json.dumps(d).encode())) == "custody_elsewhere"
