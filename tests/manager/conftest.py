"""A manager for each module, another one for tests that stop it; what they did is audited in the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.audits import audited_by_all
from manager.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    yield made
    try:
        audited_by_all(made)
    finally:
        made.close()


@pytest.fixture
def own_world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    try:
        audited_by_all(made)
    finally:
        made.close()
