"""The engine in its sandbox: same answers, and what goes wrong inside stays inside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perunml.testing.story.data import patient

pytestmark = [
    pytest.mark.torch,
    pytest.mark.sandbox,
    pytest.mark.skipif(os.geteuid() != 0, reason="the runner makes mounts, so it runs as root, here and in CI"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed; `make setup` installs it"),
]
PROGRAM = Path(__file__).with_name("confined.py")


def talk(folder: Path, *lines: Any) -> list[Any]:
    """What the program answers: first the engine's description or refusal, then one answer per line."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder)],
        input=text,
        capture_output=True,
        text=True,
        env=env,
        timeout=240,
        check=False,
    )
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_confined_engine_answers_and_comes_back_after_its_death(model: Path, tmp_path: Path) -> None:
    """Predictions, a refusal of its own, death in the middle, a refusal meanwhile, and life after `tend`."""
    shutil.copy(model, tmp_path)
    told, first, refused, _, gone, _, again = talk(tmp_path, patient(), {"x": 1}, "kill", patient(), "tend", patient())
    assert told["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 30]}]
    assert sum(first["probabilities"][0]) == pytest.approx(1, abs=1e-5)
    assert refused["code"] == "inputs_refused"
    assert gone["code"] == "engine_gone"
    assert again == first


def test_a_confined_engine_refuses_a_bad_model(tmp_path: Path) -> None:
    """A model that is no archive is refused by the process inside, and the reason comes out."""
    (tmp_path / "model.pt2").write_bytes(b"no archive")
    assert talk(tmp_path) == [{"code": "model_refused"}]
