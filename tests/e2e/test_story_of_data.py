"""`make demo DATA=folder`: the story with somebody's own tables, three classes in files of two folders."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from perunml.testing.story.tell import missing_programs

TIMEOUT = 400
COLUMNS, CLASSES, ROWS = 4, 3, 90


def write_tables(folder: Path) -> None:
    """Two files, one of them in a folder of its own; the label is a function of the columns."""
    made = random.Random(5)
    header = ",".join([*(f"c{i}" for i in range(COLUMNS)), "label"])
    for name in ("2024.csv", "older/2023.csv"):
        rows = []
        for _ in range(ROWS):
            values = [made.uniform(-1, 1) for _ in range(COLUMNS)]
            rows.append(",".join([*(f"{value:.4f}" for value in values), str(values.index(max(values[:CLASSES])))]))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([header, *rows]) + "\n")


@pytest.mark.e2e
def test_the_story_is_told_with_any_tables(tmp_path: Path) -> None:
    """From two commands' `DATA=` to an answer of three probabilities, with the weights of the unsealed run."""
    if absent := missing_programs():
        pytest.skip(f"the story needs {', '.join(absent)}; `make setup` installs them")
    write_tables(tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-m", "perunml", "quickstart", "-o", "json", "--data", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert told["weights_identical"] is True
    ((probabilities,),) = told["answer"].values()
    assert len(probabilities) == CLASSES
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
