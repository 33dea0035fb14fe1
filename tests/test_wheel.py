"""The package works from an installed wheel: every file of the source is in it, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

import wheel
from wheel import TOP

NEEDED = {
    "perunml/py.typed",
    "perunml/testing/story/code/train.py",
    "perunml/manager/store/migrations/env.py",
    "perunml/manager/store/migrations/versions/v0001_initial.py",
    "perunml/cli/quickstart.py",
}
"""What nobody imports by name, of each sort: a list that is empty by mistake would lack these."""


def sources() -> set[str]:
    """Every file under src, as git knows them where there is a checkout (new ones too), else as they lie there."""
    top = TOP / "src"
    if (TOP / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "."]
        said = subprocess.run(command, cwd=top, capture_output=True, text=True, check=True, timeout=60).stdout
        return {name for name in said.split("\0") if name and (top / name).exists()}
    files = (path for path in top.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(top)) for path in files}


def test_the_wheel_holds_every_file_of_the_source_and_no_other(tmp_path: Path) -> None:
    """Migrations, the story's training code, the mark of types: what is in `src` is in the wheel, file by file."""
    pytest.importorskip("hatchling", reason="the build backend comes with `make setup`")
    names = set(zipfile.ZipFile(wheel.build(tmp_path)).namelist())
    told = {name for name in names if ".dist-info/" in name}
    expected = sources()
    assert expected >= NEEDED
    assert sorted(names - told) == sorted(expected)
    assert {name.partition(".dist-info/")[2] for name in told} >= {"METADATA", "RECORD", "entry_points.txt"}


def test_an_installed_perunml_runs_away_from_its_checkout(tmp_path: Path) -> None:
    """In a new virtual environment the command answers, and what answers is the wheel's. The whole story is told from it
    in tests/e2e."""
    pytest.importorskip("hatchling", reason="the build backend comes with `make setup`")
    (tmp_path / "elsewhere").mkdir()
    binaries = wheel.install(wheel.build(tmp_path), tmp_path / "venv")

    def said(*command: object) -> str:
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd=tmp_path / "elsewhere",
            env=wheel.environment(),
        )
        return done.stdout

    where = said(binaries / "python", "-c", "import perunml; print(perunml.__file__)")
    assert Path(where.strip()).is_relative_to(tmp_path / "venv")
    assert said(binaries / "perunml", "--version").startswith("perunml ")
    assert '"Agreement"' in said(binaries / "perunml", "agreement", "schema")
