"""Parties with identities whose passphrase is stretched less, so that tests are quick."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.kit import Party
from perunml.wire import passphrase


@pytest.fixture(autouse=True)
def _quick_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passphrase, "LOG_N", 10)
    monkeypatch.delenv("PERUNML_HOME", raising=False)


@pytest.fixture
def nobody(tmp_path: Path) -> Party:
    """A home folder that does not exist yet."""
    return Party(tmp_path / "home")


@pytest.fixture
def vitus(nobody: Party) -> Party:
    """A party with an identity."""
    nobody.ok("id", "create", "--name", "st-vitus")
    return nobody


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A small folder to seal."""
    folder = tmp_path / "scans"
    (folder / "more").mkdir(parents=True)
    (folder / "a.csv").write_text("PATIENT-MARKER,1\n")
    (folder / "more" / "b.csv").write_text("PATIENT-MARKER,2\n")
    return folder
