"""The fuzz targets, without a fuzzer: every seed runs, and some mutations of each; `make fuzz` goes on from there."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from evidence.test_mutations import mutated

FUZZ = Path(__file__).parents[2] / "fuzz"
MUTATIONS = 60


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", FUZZ / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TARGETS = _load("targets")


def test_the_runner_and_the_targets_name_the_same() -> None:
    """A target that is not run is none."""
    assert tuple(TARGETS.TARGETS) == _load("run").NAMES


@pytest.mark.parametrize("name", TARGETS.TARGETS)
def test_d9_every_seed_and_some_mutations_of_it_are_read_or_refused_with_a_code(name: str) -> None:
    """D9: no other exception; at least one seed, unless all of them are captured ones."""
    chance = random.Random(7)
    seeds = [seed for seed in TARGETS.TARGETS[name].seeds() if len(seed) <= 64 * 1024]
    assert seeds or name == "bootlog"
    for seed in seeds:
        TARGETS.run_one(name, seed)
    for _ in range(MUTATIONS if seeds else 0):
        TARGETS.run_one(name, mutated(chance, chance.choice(seeds), chance.choice(seeds)))
