"""A model trained once by the story's own code, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perunml.testing.service import World, load
from perunml.testing.story.data import write_scans

Train = Callable[..., subprocess.CompletedProcess[str]]
CODE = Path(__file__).parents[2] / "src/perunml/testing/story/code/train.py"


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An input folder with the story's table under scans/."""
    folder = tmp_path_factory.mktemp("in")
    write_scans(folder / "scans")
    return folder


@pytest.fixture(scope="session")
def train() -> Train:
    """Run train.py: train(source, target, **parameters)."""

    def run(source: Path, target: Path, **parameters: object) -> subprocess.CompletedProcess[str]:
        target.mkdir(parents=True, exist_ok=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith("PERUNML_")} | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(CODE), str(source), str(target), json.dumps(parameters)]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)

    return run


@pytest.fixture(scope="session")
def model(scans: Path, train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.pt2 after two epochs."""
    target = tmp_path_factory.mktemp("out")
    done = train(scans, target, epochs=2)
    assert done.returncode == 0, done.stderr
    return target / "model.pt2"


@pytest.fixture(scope="module")
def world(model: Path) -> Iterator[World]:
    """A service with the trained model behind a running gateway."""
    made = World(load(model))
    with made.gateway():
        yield made
