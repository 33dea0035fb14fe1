"""Files whose records are looked for, made to loop, recurse, fill the memory or crash; and more of them than an asset has room for."""

from __future__ import annotations

import io
import os
import struct
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.sealing import index, writer
from perunml.sealing.borders import Records, find_table
from perunml.sealing.chunks import MIN_CHUNK, Table, within_bounds
from perunml.sealing.keys import new_data_key
from perunml.sealing.manifest import Manifest, open_manifest
from perunml.sealing.npy import read_header
from perunml.sealing.reader import SealedReader
from perunml.sealing.store import FolderStore
from perunml.sealing.tars import BLOCK, MAX_EXTRA, members
from perunml.sealing.writer import seal_files
from perunml.wire.errors import UsageError
from perunml.wire.identity import SigningKey

CHUNK = 2 * MIN_CHUNK
LARGE = 16 * CHUNK
OWNER = SigningKey.generate()


def header(name: bytes = b"a.jpg", size: bytes = b"00000000000\0", kind: bytes = b"0") -> bytes:
    """A tar's header with a sum that is right."""
    block = bytearray(BLOCK)
    block[: len(name)] = name
    block[124:136], block[156:157], block[257:265], block[148:156] = size, kind, b"ustar\x0000", b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def negative(size: int) -> bytes:
    return b"\xff" + (256**11 + size).to_bytes(12, "big")[-11:]


def large(size: int) -> bytes:
    return b"\x80" + size.to_bytes(11, "big")


def pax(records: bytes) -> bytes:
    return header(b"pax", b"%011o\0" % len(records), b"x") + records + bytes(-len(records) % BLOCK)


TARS = {
    "a step back": header() + header(size=negative(-BLOCK)),
    "a step back by a sign": header() + header(size=b"-0000001000\0"),
    "a step back by pax": header() + pax(b"14 size=-1536\n") + header(),
    "long names of long names": (header(b"L", b"00000000002\0", b"L") + b"a\0" + bytes(510)) * 1500,
    "records of records": pax(b"9 a=bcde\n") * 1500,
    "a name as long as the disk": header(size=large(2**62), kind=b"L"),
    "a record longer than all": pax(b"99 a=b\n"),
    "a record of nothing": pax(b"0 a=b\n"),
    "records without an end": pax(b"x" * 100),
    "a number of many digits": pax(b"5021 size=" + b"9" * 5010 + b"\n"),
    "sparse": header(kind=b"S"),
    "another sum": header()[:-1] + b"x",
    "a size beyond any file": header(size=large(2**87)),
    "sparse by pax": pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n") + header(),
}
READ = {"long names of long names", "records of records", "a size beyond any file", "sparse by pax"}
"""Those in which there is a next header, though an odd one."""


@pytest.mark.parametrize("what", TARS)
def test_a_tar_that_leads_astray_is_only_a_file(tmp_path: Path, what: str) -> None:
    """It ends, whatever it says, and its chunks have one size."""
    path = tmp_path / "x.tar"
    path.write_bytes(TARS[what] + bytes(LARGE))
    table = find_table(path, CHUNK)
    if what in READ:
        assert table == () or within_bounds(table, CHUNK)
        assert len(list(members(path))) <= 1
    else:
        assert table == ()
        with pytest.raises(ValueError):
            list(members(path))


def test_a_tar_or_array_with_an_endless_name_fills_no_memory(tmp_path: Path) -> None:
    """3 GiB that say of themselves that they are a name, or a header: neither is read."""
    heads = {
        "x.tar": header(size=b"%011o\0" % (3 << 30), kind=b"L"),
        "x.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 3 << 30),
    }
    for name, head in heads.items():
        with (tmp_path / name).open("wb") as file:
            file.write(head)
            file.truncate(3 << 30)
        tracemalloc.start()
        try:
            assert find_table(tmp_path / name, CHUNK) == ()
            assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
        finally:
            tracemalloc.stop()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_change_to_a_tar_leaves_its_reader_going_forward(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Members that begin one after the other, or `ValueError`, and nothing else."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=data.draw(st.sampled_from([0, 1, 2]))) as tar:
        for name in ("a" * 90 + "/b.jpg", "c.cls", "d/" + "e" * 60):
            member = tarfile.TarInfo(name)
            member.size = 700
            tar.addfile(member, io.BytesIO(bytes(700)))
    body = bytearray(out.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        block = data.draw(st.integers(0, len(body) // BLOCK - 1)) * BLOCK
        body[block + data.draw(st.integers(0, BLOCK - 1))] = data.draw(st.integers(0, 255))
        body[block + 148 : block + 156] = b" " * 8
        body[block + 148 : block + 156] = b"%06o\0 " % sum(body[block : block + BLOCK])
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    path.write_bytes(body)
    found = []
    try:
        for begin, _ in members(path):
            found.append(begin)
    except ValueError:
        pass
    assert found == sorted(set(found))
    assert all(begin < len(body) for begin in found)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_honest_tar_is_read_as_pythons_reader_reads_it(tmp_path: Path, form: int) -> None:
    """Long names, names that are no ASCII, folders, links, empty files; in each of the formats."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=form) as tar:
        for number, name in enumerate(["a.jpg", "b" * 80 + "/" + "c" * 80 + ".txt", "d/e.tar.gz", "ä/ö.cls", "f" * 99]):
            member = tarfile.TarInfo(name)
            member.size = 1000 * number
            tar.addfile(member, io.BytesIO(bytes(1000 * number)))
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo("folder/it")
            member.type, member.linkname = kind, "a.jpg"
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("last"))
    with tarfile.open(path) as tar:
        expected = [(member.offset, member.name.encode()) for member in tar]
    assert [(begin, name.rstrip(b"/")) for begin, name in members(path)] == expected
    assert len(expected) == 9


def test_a_name_is_read_up_to_its_bound(tmp_path: Path) -> None:
    """The longest that is taken, and one byte more."""
    path = tmp_path / "x.tar"
    for size in (MAX_EXTRA, MAX_EXTRA + 1):
        path.write_bytes(header(size=b"%011o\0" % size, kind=b"L") + b"n" * size + bytes(-size % BLOCK) + header())
        if size == MAX_EXTRA:
            assert list(members(path)) == [(0, b"n" * size)]
        else:
            with pytest.raises(ValueError, match="too long"):
                list(members(path))


@pytest.mark.parametrize(
    "text",
    ["{'descr': (", "'''", "[1,\n 2", "{[]: 1}", "{1: 2, 'a': 3}", "-" * 60_000 + "1", "\0", "  1\n 2\n  3",
     "{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 3)}",
     "{'descr': '<f4', 'fortran_order': False, 'shape': (5, -3)}",
     "{'descr': '|O', 'fortran_order': False, 'shape': (5, 3)}"],
)  # fmt: skip
@pytest.mark.parametrize("form", [1, 2, 3])
def test_a_header_that_is_no_arrays_is_refused(tmp_path: Path, text: str, form: int) -> None:
    """As `ValueError`, whatever NumPy and Python make of it; and the file is sealed all the same."""
    body = text.encode()
    data = b"\x93NUMPY" + bytes((form, 0)) + struct.pack("<H" if form == 1 else "<I", len(body)) + body + bytes(LARGE)
    with pytest.raises(ValueError):
        read_header(io.BytesIO(data))
    (tmp_path / "x.npy").write_bytes(data)
    assert find_table(tmp_path / "x.npy", CHUNK) == ()


def test_without_numpy_an_array_is_only_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client is installed without it: a large `.npy` file is sealed as any other."""
    (tmp_path / "x.npy").write_bytes(bytes(LARGE))
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert find_table(tmp_path / "x.npy", CHUNK) == ()


@pytest.mark.parametrize("body", [b"PAR1%bPAR1", b"PARE%bPARE", b"%b"])
def test_a_parquet_file_that_cannot_be_read_is_only_a_file(tmp_path: Path, body: bytes) -> None:
    """Encrypted, broken, or none at all."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra test-views)")
    (tmp_path / "x.parquet").write_bytes(body % (bytes(LARGE) + b"\x10\0\0\0"))
    assert find_table(tmp_path / "x.parquet", CHUNK) == ()


@pytest.mark.parametrize(("size", "before"), [(0, 0), (-1, 0), (10, -1000)])
def test_records_of_no_length_are_refused(size: int, before: int) -> None:
    """A header below nothing made chunks larger than chunks are."""
    with pytest.raises(ValueError, match="a byte at least"):
        Records(size, before)


def seal(folder: Path, files: dict[str, Any], tables: dict[str, Table]) -> tuple[Manifest, Callable[[], SealedReader]]:
    key = new_data_key()
    store = FolderStore(folder)
    envelope = seal_files(
        files, store, name="n", kind="dataset", owner=OWNER, data_key=key, chunk_size=CHUNK, tables=tables
    )
    manifest = open_manifest(envelope, [OWNER.public])
    return manifest, lambda: SealedReader(manifest, key, store)


@pytest.mark.parametrize(
    "table",
    [((CHUNK + 1, 1), (CHUNK - 1, 1)), ((MIN_CHUNK - 1, 1), (CHUNK + 1, 1)), ((2, CHUNK),), ((0, 5), (CHUNK, 2))],
)
def test_chunks_that_the_format_has_not_are_never_sealed(tmp_path: Path, table: Table) -> None:
    """Nobody could read them: the caller hears it before anything is written."""
    with pytest.raises(ValueError, match="too small or too large"):
        seal(tmp_path / "s", {"x": bytes(sum(size * count for size, count in table))}, {"x": table})
    assert not (tmp_path / "s").exists()


def test_more_files_with_borders_than_blobs_are_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wants a blob of its own: the larger ones get it, the others share, and all are read."""
    monkeypatch.setattr(writer, "MAX_BLOBS", 8)
    files = {f"{number:02}": os.urandom(MIN_CHUNK + 10 + number) for number in range(12)}
    tables: dict[str, Table] = {name: ((MIN_CHUNK, 1), (len(data) - MIN_CHUNK, 1)) for name, data in files.items()}
    manifest, reader = seal(tmp_path, files, tables)
    assert [bool(blob.chunks) for blob in manifest.blobs] == [False] + [True] * 6
    with reader() as opened:
        assert {name: opened.read_file(name) for name in opened.files} == files
        opened.verify_tree()


def test_more_borders_than_the_index_holds_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the smaller files; by their number, and by the bytes that they take."""
    files = {"a": os.urandom(3 * MIN_CHUNK), "b": os.urandom(2 * MIN_CHUNK + 1)}
    tables: dict[str, Table] = {"a": ((MIN_CHUNK, 3),), "b": ((MIN_CHUNK, 2), (1, 1))}
    for where, name, value in ((writer, "MAX_RUNS", 2), (index, "MAX_INDEX", 75)):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, value)
            manifest, reader = seal(tmp_path / name, files, tables)
            assert [bool(blob.chunks) for blob in manifest.blobs] == [True, False]
            with reader() as opened:
                assert {path: opened.read_file(path) for path in opened.files} == files


def test_too_many_files_are_heard_of_before_anything_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after hours: their list is made first."""
    monkeypatch.setattr(index, "MAX_INDEX", 30)
    with pytest.raises(UsageError, match="too many files"):
        seal(tmp_path / "s", {"a": b"1", "b": b"2", "c": b"3"}, {})
    assert not (tmp_path / "s").exists()
