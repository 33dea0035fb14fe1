"""One software TPM for these tests, manufactured once and booted anew for each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from perunml.testing.machine import SimulatedMachine


@pytest.fixture(scope="session")
def powered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedMachine]:
    """A machine that is powered on."""
    if shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None:
        pytest.skip("no software TPM (Debian: swtpm swtpm-tools); runs where make test does")
    with SimulatedMachine(tmp_path_factory.mktemp("machine"), banks=("sha256", "sha384")) as machine:
        yield machine


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two agreed files."""
    made = [tmp_path / "python3", tmp_path / "a library"]
    for path in made:
        path.write_text(path.name)
    return made


@pytest.fixture
def machine(powered: SimulatedMachine, files: list[Path]) -> SimulatedMachine:
    """The machine, freshly booted with `files`."""
    powered.reboot(files)
    return powered
