"""A road of its own for each test that stops, breaks or times something."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from host.road import Road


@pytest.fixture
def road(tmp_path: Path) -> Iterator[Road]:
    made = Road(tmp_path)
    yield made
    made.close()
