"""The package works from an installed wheel: what the story and the manager need besides modules is in it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
NEEDED = (
    "perunml/py.typed",
    "perunml/testing/story/code/train.py",
    "perunml/manager/store/migrations/env.py",
    "perunml/manager/store/migrations/versions/v0001_initial.py",
    "perunml/cli/quickstart.py",
)


def test_the_wheel_holds_all_that_an_installed_perunml_needs(tmp_path: Path) -> None:
    """`perunml quickstart` and a manager's database need files that nobody imports by name."""
    pytest.importorskip("hatchling", reason="the build backend comes with `make setup`")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    done = subprocess.run([*command, str(TOP)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("perunml-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert set(NEEDED) <= names
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]
