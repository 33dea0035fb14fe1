"""Parties with identities whose passphrase is stretched less, so that tests are quick; a world for those that need one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.kit import Party
from cli.world import World, living
from perunml.wire import passphrase


@pytest.fixture(autouse=True, scope="session")
def _quick_passphrases() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passphrase, "LOG_N", 10)
        patch.delenv("PERUNML_HOME", raising=False)
        yield


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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A manager, four parties, a machine; assets pushed."""
    with living(tmp_path_factory.mktemp("world")) as made:
        yield made
