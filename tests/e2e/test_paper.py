"""`make bench-paper` in small: made-up data, one round, the CPU rows; the whole road under Perun."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("bwrap") is None or shutil.which("swtpm") is None,
    reason="needs root, bubblewrap and a software TPM",
)


def test_the_papers_table_is_made(tmp_path: Path) -> None:
    """All rows that this machine has, of both trainings; the others are said not to have run."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    done = subprocess.run(
        [sys.executable, TOP / "bench" / "paper" / "run.py", "--quick", "--out", tmp_path],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "paper.json").read_text())
    page = (tmp_path / "paper.md").read_text()
    assert report["made_up"]
    assert "measures nothing" in page
    for task in ("cifar", "mri"):
        rows = report["tables"][task]
        assert {"plain CPU", "CPU under Perun"} <= set(rows)
        assert all(row["images_per_second"] > 0 and 0 <= row["score"] <= 1 for row in rows.values())
        assert "overhead" in rows["CPU under Perun"]
    if report["machine"]["gpu"] == "none":
        assert page.count("| not run |") == 4
    assert (tmp_path / "paper.svg").read_text().startswith("<svg")
