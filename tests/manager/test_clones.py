"""Two managers that are one: the same folder, alive at the same time, asking the same witnesses."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from manager.test_witnesses import Majority, impatient
from manager.world import PASSPHRASE, World, tls_pem
from perunml.api.pin import Pin
from perunml.client.connection import Connection
from perunml.client.witness import witness
from perunml.host.protocol import ManagerLink
from perunml.manager.server import Server
from perunml.wire.errors import IntegrityError, PerunError

__all__ = ["impatient"]
LIVE = 1.5
"""Seconds for which both try."""


class Clone:
    """The second manager, and the same parties and host at it."""

    def __init__(self, road: Majority, folder: Path) -> None:
        self.server = Server(folder, PASSPHRASE)
        pin = road.world.pin.model_copy(update={"url": f"https://127.0.0.1:{self.server.start()[1]}"})
        self.road = Majority.__new__(Majority)
        self.road.__dict__.update(road.__dict__)
        self.road.world = SimpleNamespace(pin=pin, _closing=road.world._closing)  # type: ignore[assignment] # all that is asked of it
        self.road.party = {name: Connection(pin, key) for name, key in road.keys.items()}
        trainer = road.trainer
        link = ManagerLink(pin, (trainer.enrolled.certificate, tls_pem(trainer.tls)))
        self.road.trainer = replace(trainer, link=link)

    def close(self) -> None:
        for party in self.road.party.values():
            party.close()
        self.road.trainer.link.close()
        self.server.stop()


def try_to_release(road: Majority, stop: threading.Event, released: list[str]) -> None:
    """Submit, and ask for the keys, again and again."""
    while not stop.is_set():
        with contextlib.suppress(PerunError):
            run = road.submit().run
            road.release(run)
            released.append(run)
            return
        time.sleep(0.05)


def both(road: Majority, name: str, pins: list[Pin], seed: int, stop: threading.Event) -> None:
    """A witness that meets now this manager, now that one; what it saw of either it holds against the other."""
    random_ = random.Random(f"{seed}{name}")
    while not stop.is_set():
        pin = random_.choice(pins)
        with contextlib.suppress(PerunError, IntegrityError), Connection(pin, road.key(name)) as connection:
            witness(connection, road.home(name), road.key(name))
        time.sleep(0.02)


@pytest.mark.parametrize("seed", range(3))
def test_s5_of_two_at_once_one_at_most_releases(own_world: World, tmp_path: Path, seed: int) -> None:
    """S5: each has its own next run; whichever a majority of witnesses meets first goes on, the other is shown what it lacks."""
    road = Majority(own_world, tmp_path / "road")
    own_world.stop()
    shutil.copytree(own_world.folder, tmp_path / "clone")
    own_world.start()
    clone = Clone(road, tmp_path / "clone")
    stop, released = threading.Event(), ([], [])  # type: tuple[threading.Event, tuple[list[str], list[str]]]
    pins = [road.world.pin, clone.road.world.pin]
    work: list[tuple[Any, ...]] = [
        (try_to_release, one, stop, found) for one, found in zip((road, clone.road), released, strict=True)
    ]
    work += [(both, road, name, pins, seed, stop) for name in road.quorum["of"]]
    threads = [threading.Thread(target=do, args=arguments) for do, *arguments in work]
    for thread in threads:
        thread.start()
    time.sleep(LIVE)
    stop.set()
    for thread in threads:
        thread.join()
    stopped = [bool(found and found.services.rollback.seen) for found in (own_world.server, clone.server)]
    clone.close()
    assert not (released[0] and released[1])
    assert any(stopped)
