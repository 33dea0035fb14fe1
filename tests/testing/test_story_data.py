"""The story's own data, and what it says of data that its training code could not read."""

from __future__ import annotations

from pathlib import Path

import pytest

from perunml.testing.story.data import check, shape, write_scans
from perunml.wire.errors import UsageError

ROWS = "".join(f"{i},{i % 2}\n" for i in range(12))


def test_the_bundled_table_is_usable(tmp_path: Path) -> None:
    """What the story writes itself, it accepts."""
    write_scans(tmp_path)
    check(tmp_path)
    assert shape(tmp_path) == (30, 2)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"notes.txt": "hello"},
        {"a.csv": "x,y\n" + ROWS, "b.csv": "x,z\n" + ROWS},
        {"a.csv": "x,y\n1,one\n"},
        {"a.csv": "x,y\n1,0\n2,1\n"},
        {"a.csv": "x,y\n" + "1,0\n" * 12},
        {"a.csv": "x,y\n" + ROWS + "1\n"},
        {"a.csv": "y\n" + "1\n0\n" * 9},
    ],
    ids=["empty", "no csv", "two headers", "words", "few rows", "one class", "ragged", "no features"],
)
def test_data_that_cannot_be_trained_on_is_refused_before_anything_starts(
    tmp_path: Path, files: dict[str, str]
) -> None:
    """One coded line at once, not a failed job after a minute."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match="data_unusable"):
        check(tmp_path)
