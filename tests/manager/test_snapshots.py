"""A hundred times an old copy of a manager: refused a hundred times, and the newest one goes on."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from manager.test_witnesses import Majority, refusal
from manager.world import World, code_of
from perunml.manager import quorum

TIMES = 100
COPIES = 5


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait a moment for witnesses who do not come."""
    monkeypatch.setattr(quorum, "PATIENCE", 0.02)
    monkeypatch.setattr(quorum, "IDLE", 0.2)
    monkeypatch.setattr(quorum.Witnessed.wait, "__kwdefaults__", {"size": 0, "within": None, "patience": 0.02})


def test_s1_an_old_copy_is_refused_each_time(own_world: World, tmp_path: Path) -> None:
    """S1: without witnesses nothing is released; with one that saw more, the copy stops for good, whichever it is, and however long it made its
    own history meanwhile."""
    road, random_ = Majority(own_world, tmp_path / "road"), random.Random(20270131)
    names = road.quorum["of"]
    copies = []
    for number in range(COPIES):
        own_world.stop()
        copies.append(tmp_path / f"copy-{number}")
        shutil.copytree(own_world.folder, copies[-1])
        own_world.start()
        with road.witnessing(*names):
            road.trained()
            for name in names:
                road.witness(name)

    def put(folder: Path) -> None:
        own_world.stop()
        shutil.rmtree(own_world.folder)
        shutil.copytree(folder, own_world.folder)
        own_world.start()

    own_world.stop()
    newest = tmp_path / "newest"
    shutil.copytree(own_world.folder, newest)
    own_world.start()
    for number in range(TIMES):
        put(copies[number % COPIES])
        run = road.submit().run
        for _ in range(random_.randrange(4)):
            road.submit()
        assert code_of(lambda run=run: road.release(run)) == "witnesses_unreachable"
        name = random_.choice(names)
        assert refusal(lambda name=name: road.witness(name)).code in (
            "ledger_rollback", "split_view", "bad_consistency_proof",
        )  # fmt: skip
        assert code_of(lambda run=run: road.release(run)) == "rollback_detected"
    put(newest)
    with road.witnessing(*names):
        road.trained()
