"""Where real captured evidence lies: beside the repository, or where PERUNML_VECTORS says. Read in place, never copied."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("PERUNML_VECTORS") or Path(__file__).resolve().parents[3] / "shared" / "vectors")

needs_vectors = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason="no folder of captured evidence (PERUNML_VECTORS); runs where the project is developed",
)
