"""Agreements, conditions, limits and runs against an independent model, over thousands of steps (a million in `make test-long`)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from manager.audits import audited_by_all
from manager.road import Road
from manager.world import World, cached_keys
from models.machine import Governance

STEPS = 50
PARTS = 50
QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


@contextmanager
def machine(folder: Path) -> Iterator[type[Governance]]:
    """At a manager of its own."""
    (folder / "scratch").mkdir(parents=True)
    world = World(folder)

    class Here(Governance):
        road = Road(world, folder / "road", lease="1h")
        scratch = folder / "scratch"

    try:
        yield Here
        audited_by_all(world, last=12)
    finally:
        world.close()
        cached_keys.cache_clear()
        shutil.rmtree(folder)


MEMORY = Path("/dev/shm")
"""Where there is one: what is tried is the order of things, not the disk."""


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else tmp_path) as folder:
        yield Path(folder)


def test_thousands_of_steps(quick: Path) -> None:
    """The same ones each time: what fails here fails everywhere."""
    with machine(quick / "world") as made:
        run_state_machine_as_test(
            made,
            settings=settings(
                max_examples=60, phases=[Phase.generate], stateful_step_count=STEPS, deadline=None, derandomize=True, database=None,
                suppress_health_check=QUIET,
            ),
        )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_a_million_steps(quick: Path, part: int) -> None:
    """Others each time; hypothesis prints the way to what fails. A manager lives through twenty thousand of them."""
    with machine(quick / str(part)) as made:
        run_state_machine_as_test(
            made,
            settings=settings(
                max_examples=1_000_000 // STEPS // PARTS, stateful_step_count=STEPS, deadline=None, database=None,
                print_blob=True, suppress_health_check=QUIET,
            ),
        )  # fmt: skip
