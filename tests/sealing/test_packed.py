"""Packed files: always of one size, back byte for byte, and no list of them leads astray."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.sealing.packed import HEADER, MAX_FILES, listed, pack, packed_size, unpack
from perunml.wire.canonical import canonical
from perunml.wire.errors import IntegrityError, PerunError

MOST = 4 << 20
NAMES = st.sampled_from(["a", "b", "deep/c", "deep/er/d", "model.pt", "last.json"])


def packed(files: dict[str, bytes], most: int = MOST) -> bytes:
    """What `pack` makes of them, over what another packing left."""
    with tempfile.TemporaryDirectory() as name:
        folder, opened = Path(name), {}
        for path, data in files.items():
            target = folder / "in" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            os.utime(target, ns=(1, 1_700_000_000_123_456_789))
            opened[path] = os.open(target, os.O_RDONLY)
        out = os.open(folder / "out", os.O_RDWR | os.O_CREAT)
        try:
            os.pwrite(out, b"\xff" * (most + HEADER + 7), 0)
            pack(opened, out, most)
            return (folder / "out").read_bytes()
        finally:
            for each in (*opened.values(), out):
                os.close(each)


def laid(data: bytes, folder: Path) -> dict[str, bytes]:
    def read(offset: int, buffer: memoryview) -> None:
        buffer[:] = data[offset : offset + len(buffer)]

    unpack(read, len(data), folder, os.geteuid())
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=3000), max_size=6))
def test_files_come_back_and_the_size_tells_nothing(files: dict[str, bytes]) -> None:
    """Whatever there is, the bytes are as many; and nothing of a packing before is left."""
    data = packed(files, 20_000)
    assert len(data) == packed_size(20_000)
    with tempfile.TemporaryDirectory() as folder:
        assert laid(data, Path(folder)) == files
    assert b"\xff" * 8 not in data or any(b"\xff" * 8 in each for each in files.values())


def test_times_are_kept(tmp_path: Path) -> None:
    """Code that looks for the newest file finds it."""
    laid(packed({"deep/a": b"x"}), tmp_path)
    assert (tmp_path / "deep" / "a").stat().st_mtime_ns == 1_700_000_000_123_456_789


def test_more_than_one_part(tmp_path: Path) -> None:
    """Files larger than what is copied at once."""
    files = {"big": os.urandom((2 << 20) + 17), "after": b"end"}
    assert laid(packed(files), tmp_path) == files


@pytest.mark.parametrize(
    "files", [{"a": bytes(101)}, {"a": bytes(60), "b": bytes(60)}, {str(n): b"" for n in range(MAX_FILES + 1)}]
)
def test_more_than_agreed_is_refused(files: dict[str, bytes]) -> None:
    """In bytes or in number."""
    with pytest.raises(PerunError) as caught:
        packed(files, 100)
    assert caught.value.code == "checkpoint_too_large"


def head(rows: object) -> bytes:
    text = canonical(rows)
    return (len(text).to_bytes(8) + text).ljust(HEADER, b"\0")


@pytest.mark.parametrize(
    "data",
    [
        b"", bytes(HEADER), bytes(HEADER - 1), b"\xff" * HEADER, head({}), head([["a", 1]]), head([["a", 1, "1", 2]]),
        head([["../a", 1, "1"]]), head([["/a", 1, "1"]]), head([["a", -1, "1"]]), head([["a", True, "1"]]), head([["a", 1, 1]]),
        head([["a", 1, "-1"]]), head([["a", 1, "9" * 30]]), head([["a", 1, "1"], ["a", 1, "1"]]), head([["a", 1, "1"], ["a/b", 1, "1"]]),
        head([["a", 101, "1"]]), head([["a", 100, "1"], ["b", 1, "1"]]), head([["a", "1", "1"]]), head([[1, 1, "1"]]),
    ],
)  # fmt: skip
def test_a_forged_list_is_refused_and_nothing_is_written(data: bytes, tmp_path: Path) -> None:
    """D: out of the folder, over the end, twice, a file that is a folder, numbers that are none."""
    with pytest.raises(IntegrityError):
        listed(data, HEADER + 100)
    with pytest.raises((IntegrityError, ValueError)):
        laid(data.ljust(HEADER, b"\0")[: HEADER + 100] if len(data) != HEADER else data, tmp_path)
    assert list(tmp_path.iterdir()) == []
