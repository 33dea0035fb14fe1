"""One world for all: images, a manager, three parties. What the machines' consoles said is kept, with the seconds, in build/vm/logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vm import images, machine
from vm.images import BUILD, DOOR
from vm.machine import Vm
from vm.world import World


@pytest.fixture(scope="session")
def needed() -> None:
    """Skips, saying so, where no image can be built or no machine can be emulated."""
    lacks = ", ".join(filter(None, (images.missing(), machine.missing())))
    if lacks:
        pytest.skip(f"no virtual machine can be made here, it lacks: {lacks}; `make setup IMAGES=1` installs it")


@pytest.fixture(scope="session")
def image(needed: None) -> Path:
    """The host's image."""
    return images.built("host")


@pytest.fixture(scope="session")
def door_image(needed: None) -> Path:
    """The host's image with a hole in it."""
    return images.built("door", "--layer", str(DOOR))


@pytest.fixture(scope="session")
def logs() -> Path:
    folder = BUILD / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keep_log(logs: Path, vm: Vm) -> None:
    (logs / f"{vm.folder.name}.log").write_text(vm.log())


@pytest.fixture(scope="module")
def world(needed: None, tmp_path_factory: pytest.TempPathFactory, logs: Path) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    try:
        yield made
    finally:
        for vm in made.machines:
            keep_log(logs, vm)
        made.close()
