"""Attacks by witnesses: cosignatures of something else, as somebody else, or more often than once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from manager.test_witnesses import Majority
from manager.world import World, code_of
from perunml.api.witness import Accepted, Cosignature, WitnessView
from perunml.ledger.checkpoint import Checkpoint, parse_checkpoint
from perunml.ledger.notes import Note, parse_note
from perunml.ledger.witnessing import sign_as_witness
from perunml.manager import quorum
from perunml.wire.identity import SigningKey


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait half a second for witnesses who do not come."""
    monkeypatch.setattr(quorum.Witnessed.wait, "__kwdefaults__", {"size": 0, "within": None, "patience": 0.5})


@pytest.fixture
def road(own_world: World, tmp_path: Path) -> Majority:
    return Majority(own_world, tmp_path / "road")


def newest(road: Majority, by: str) -> Note:
    return parse_note(road.party[by].call("GET", "/v1/witness?size=0", WitnessView).checkpoint)


def send(road: Majority, by: str, note: Note, signer: SigningKey) -> Accepted:
    told = sign_as_witness(note, signer, int(time.time()))
    return road.party[by].call("POST", "/v1/witness", Accepted, Cosignature(note=str(told)))


@pytest.mark.parametrize(
    "other",
    [
        lambda seen: replace(seen, origin="perunml.ledger/" + "0" * 32),
        lambda seen: replace(seen, extensions=("and more",)),
        lambda seen: replace(seen, root=bytes(32)),
        lambda seen: replace(seen, size=seen.size + 1),
        lambda seen: replace(seen, size=0),
    ],
    ids=["origin", "extension", "root", "more", "fewer"],
)
def test_p16_cosigning_what_this_ledger_never_said(road: Majority, other: Callable[[Checkpoint], Checkpoint]) -> None:
    """P16: a cosignature of any other text than this ledger's is refused: an audit would find it bad, for everybody."""
    note = newest(road, "hospital")
    forged = Note(other(parse_checkpoint(note.text)).text, note.signatures)
    assert code_of(lambda: send(road, "hospital", forged, road.keys["hospital"])) in ("split_view", "bad_checkpoint")
    send(road, "hospital", note, road.keys["hospital"])


def test_one_party_counts_once_and_only_for_itself(road: Majority) -> None:
    """P4: a witness who cosigns twice, or sends another's cosignature, or one who is no witness, makes no quorum of two."""
    run = road.submit().run
    for _ in range(2):
        send(road, "hospital", newest(road, "hospital"), road.keys["hospital"])
    assert code_of(lambda: send(road, "hospital", newest(road, "hospital"), road.keys["startup"])) == "bad_checkpoint"
    send(road, "cloud", newest(road, "cloud"), road.keys["cloud"])
    assert code_of(lambda: road.release(run)) == "witnesses_unreachable"
