"""Chunks that follow records' borders: where they are cut, and that what is sealed so reads, resumes and is fetched like anything else."""

from __future__ import annotations

import io
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.sealing.borders import LEAST, Records, cut, find_table, fixed
from perunml.sealing.chunks import MIN_CHUNK, TAG, Layout, Table
from perunml.sealing.codes import CHUNK_ALTERED
from perunml.sealing.journal import Journal
from perunml.sealing.keys import new_data_key
from perunml.sealing.manifest import open_manifest
from perunml.sealing.reader import SealedReader, verify_tree
from perunml.sealing.store import FolderStore
from perunml.sealing.writer import seal_files
from perunml.wire.errors import IntegrityError
from perunml.wire.identity import SigningKey

CHUNK = 128 * 1024
OWNER = SigningKey.generate()


def ends(table: Table) -> set[int]:
    """Where chunks end."""
    found, at = set(), 0
    for size, count in table:
        for _ in range(count):
            at += size
            found.add(at)
    return found


def sound(table: Table, size: int, chunk_size: int = CHUNK) -> bool:
    sizes = [length for length, count in table for _ in range(count)]
    return (
        sum(sizes) == size
        and max(sizes) <= chunk_size
        and min(sizes[:-1], default=MIN_CHUNK) >= MIN_CHUNK
        and sizes[-1] >= 1
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 3 * CHUNK), max_size=60), st.integers(0, 2 * CHUNK))
def test_any_borders_give_chunks_within_the_bounds(lengths: list[int], rest: int) -> None:
    """Whatever they are, however many; and a border is met wherever the one before it and a whole chunk let it."""
    borders, at = [], 0
    for length in lengths:
        at += length
        borders.append(at)
    size = at + rest
    table = cut(borders, size, CHUNK)
    assert size == 0 or sound(table, size)
    at = 0
    for end in sorted(ends(table)):
        inside = [border for border in borders if at + MIN_CHUNK <= border <= at + CHUNK]
        if inside and end < size and end not in borders:
            # only where the next border beyond is so near that what is left before it must not become too small
            assert any(border > end for border in borders)
        at = end


def test_records_of_ten_kib_never_lie_in_two_chunks() -> None:
    """The plain case, with and without a header; the header goes with the first chunk."""
    for header in (0, 128):
        size = header + 10_240 * 1000
        table = fixed(size, header, 10_240, CHUNK)
        assert sound(table, size)
        assert all((end - header) % 10_240 == 0 for end in ends(table))
        assert table[0][0] - header == (CHUNK - header) // 10_240 * 10_240


@pytest.mark.parametrize(("header", "record"), [(0, CHUNK + 1), (CHUNK, 10), (0, 0), (0, -1), (CHUNK - 5, 10)])
def test_records_that_fit_no_chunk_change_nothing(header: int, record: int) -> None:
    """Too long, or behind too long a header."""
    assert fixed(10**8, header, record, CHUNK) == ()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, CHUNK), st.integers(0, 4096), st.integers(8 * CHUNK, 40 * CHUNK))
def test_fixed_records_give_chunks_within_the_bounds(record: int, header: int, size: int) -> None:
    """Also where the last record is cut off."""
    table = fixed(size, header, record, CHUNK)
    assert table == () or sound(table, size)


def write_tar(path: Path, sizes: list[int]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, size in enumerate(sizes):
            for suffix, length in (("jpg", size), ("cls", 2), ("seg.png", 700)):
                member = tarfile.TarInfo(f"train/{number:06}.{suffix}")
                member.size = length
                tar.addfile(member, io.BytesIO(bytes(length)))


def test_a_webdatasets_samples_stay_whole(tmp_path: Path) -> None:
    """Each chunk ends before a sample's first header, large samples apart."""
    rng = random.Random(3)
    path = tmp_path / "shard.tar"
    write_tar(path, [rng.randrange(1000, 60_000) for _ in range(80)])
    table = find_table(path, CHUNK)
    assert sound(table, path.stat().st_size)
    with tarfile.open(path) as tar:
        firsts = {member.offset for member in tar if member.name.endswith(".jpg")}
    assert ends(table) - {path.stat().st_size} <= firsts
    path.write_bytes(path.read_bytes()[:700] + bytes(2_000_000))  # cut off: what it says is not there
    assert find_table(path, CHUNK) == () or sound(find_table(path, CHUNK), path.stat().st_size)


def test_numpys_rows_stay_whole(tmp_path: Path) -> None:
    """The header is read; what is no array, or has no rows of numbers, has chunks of one size."""
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((1000, 31, 17), np.float32))
    table = find_table(path, CHUNK)
    header = path.stat().st_size - 1000 * 31 * 17 * 4
    assert table
    assert all((end - header) % (31 * 17 * 4) == 0 for end in ends(table))
    np.save(path, np.asfortranarray(np.zeros((3000, 400))))
    assert find_table(path, CHUNK) == ()
    path.write_bytes(os.urandom(LEAST * CHUNK))
    assert find_table(path, CHUNK) == ()
    np.save(path, np.zeros(10))
    assert find_table(path, CHUNK) == ()


def test_parquets_columns_begin_chunks(tmp_path: Path) -> None:
    """Row groups and their columns, as far as they are not too small."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra test-views)")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    rng = np.random.default_rng(0)
    table = pyarrow.table({name: rng.random(100_000) for name in "abc"})
    parquet.write_table(table, path, row_group_size=20_000, compression="none", use_dictionary=False)
    found = find_table(path, CHUNK)
    assert sound(found, path.stat().st_size)
    begins = {
        parquet.ParquetFile(path).metadata.row_group(g).column(c).data_page_offset for g in range(5) for c in range(3)
    }
    assert begins - {4} <= ends(found)


def sealed(
    folder: Path, files: dict[str, Path], tables: dict[str, Table], key: bytearray, journal: Journal | None = None
) -> SealedReader:
    with FolderStore(folder) as store:
        envelope = seal_files(files, store, name="n", kind="dataset", owner=OWNER, data_key=key, asset_id="ab" * 16, chunk_size=CHUNK,
                              tables=tables, journal=journal)  # fmt: skip
    return SealedReader(open_manifest(envelope, [OWNER.public]), key, FolderStore(folder))


def test_what_is_sealed_so_reads_like_anything_else(tmp_path: Path) -> None:
    """At random, whole, over borders, beside files without a table; and its tree is what a host that fetches it finds."""
    rng = random.Random(5)
    plain = {"a": rng.randbytes(50_000), "b": rng.randbytes(2_000_000), "c": rng.randbytes(3_000_001), "d": b""}
    for name, data in plain.items():
        (tmp_path / name).write_bytes(data)
    tables = {
        "b": fixed(2_000_000, 100, 777, CHUNK),
        "c": cut(sorted(rng.sample(range(1, 3_000_000), 70)), 3_000_001, CHUNK),
    }
    with sealed(tmp_path / "store", {name: tmp_path / name for name in plain}, tables, new_data_key()) as reader:
        manifest = reader.manifest
        assert [bool(blob.chunks) for blob in manifest.blobs] == [False, True, True, False]
        for blob in manifest.all_blobs:
            assert (tmp_path / "store" / "blobs" / blob.id).stat().st_size == manifest.sealed_size(blob)
        reader.verify_tree()
        for name, data in plain.items():
            assert reader.read_file(name) == data
            for _ in range(100):
                at, size = rng.randrange(len(data) + 2), rng.randrange(3 * CHUNK)
                buffer = bytearray(size)
                got = reader.read_into(name, at, buffer)
                assert buffer[:got] == data[at : at + size]
                assert sum(span.count for span in reader.spans(name, at, size)) == got


def test_swapped_chunks_of_one_size_do_not_open(tmp_path: Path) -> None:
    """The index of a chunk is in its nonce and context, whatever its size; and the tree tells it first."""
    path = tmp_path / "x"
    path.write_bytes(os.urandom(20 * CHUNK))
    with sealed(tmp_path / "store", {"x": path}, {"x": fixed(20 * CHUNK, 0, 1000, CHUNK)}, new_data_key()) as reader:
        blob = tmp_path / "store" / "blobs" / reader.manifest.blobs[0].id
        data, step = blob.read_bytes(), CHUNK // 1000 * 1000 + TAG
        blob.write_bytes(data[step : 2 * step] + data[:step] + data[2 * step :])
        with pytest.raises(IntegrityError) as caught:
            reader.read_file("x")
        assert caught.value.code == CHUNK_ALTERED.code
        with pytest.raises(IntegrityError, match="tree_mismatch"):
            verify_tree(reader.manifest, FolderStore(tmp_path / "store"))


def test_a_journal_knows_tables(tmp_path: Path) -> None:
    """What is sealed already is taken with its table; with another one it is sealed anew."""
    path, key, store = tmp_path / "x.bin", new_data_key(), tmp_path / "store"
    path.write_bytes(os.urandom(10 * CHUNK))
    os.utime(path, ns=(1, 1))
    settle = tmp_path / "journal"

    def again(table: Table) -> SealedReader:
        return sealed(store, {"x": path}, {"x": table}, key, Journal(settle, key, "ab" * 16, CHUNK))

    import time

    time.sleep(2.1)  # a journal trusts no file that was changed a moment ago
    first = again(fixed(10 * CHUNK, 0, 1000, CHUNK)).manifest.blobs[0]
    second = again(fixed(10 * CHUNK, 0, 1000, CHUNK))
    assert second.manifest.blobs[0] == first
    assert second.read_file("x") == path.read_bytes()
    verify_tree(second.manifest, FolderStore(store))
    third = again(fixed(10 * CHUNK, 0, 3000, CHUNK))
    assert third.manifest.blobs[0].id != first.id
    assert third.read_file("x") == path.read_bytes()


def test_a_file_that_grew_since_it_was_looked_at_has_chunks_of_one_size(tmp_path: Path) -> None:
    """Its table no longer adds up."""
    path = tmp_path / "x"
    path.write_bytes(os.urandom(9 * CHUNK))
    with sealed(tmp_path / "store", {"x": path}, {"x": fixed(8 * CHUNK, 0, 1000, CHUNK)}, new_data_key()) as reader:
        assert reader.manifest.blobs[0].chunks == 0
        assert reader.read_file("x") == path.read_bytes()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 5)), min_size=1, max_size=6))
def test_a_layout_finds_every_byte(table: list[tuple[int, int]]) -> None:
    """By its runs, as by counting."""
    sizes = [size for size, count in table for _ in range(count)]
    layout, at = Layout(sum(sizes), 1 << 20, tuple(table)), 0
    assert layout.count == len(sizes)
    for index, size in enumerate(sizes):
        for offset in range(at, at + size):
            chunk = layout.find(offset)
            assert (chunk.index, chunk.start, chunk.size, chunk.stored) == (index, at, size, at + index * TAG)
            assert sizes[index : index + chunk.alike] == [size] * chunk.alike
        at += size


def test_small_chunks_follow_no_borders(tmp_path: Path) -> None:
    """Where a chunk has no room for two of the least, cutting could leave less than that."""
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((10_000, 100)))
    assert find_table(path, 2 * MIN_CHUNK)
    assert find_table(path, 2 * MIN_CHUNK - 1) == ()


def test_records_of_a_told_length(tmp_path: Path) -> None:
    """`--record-size` is for files of no known format."""
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(32 + 3073 * 1000))
    assert find_table(path, CHUNK) == ()
    table = find_table(path, CHUNK, Records(3073, 32))
    assert all((end - 32) % 3073 == 0 for end in ends(table))
