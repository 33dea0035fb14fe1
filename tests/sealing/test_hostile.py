"""What a storage, another owner, a job or a full disk may try."""

from __future__ import annotations

import json
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.sealing import index
from perunml.sealing import store as stores
from perunml.sealing.chunks import BlobCipher
from perunml.sealing.index import Place, decode_index, encode_index
from perunml.sealing.keys import Wrap, WrappedKeys, new_data_key, unwrap_key, wrap_key
from perunml.sealing.manifest import BlobEntry, Manifest, open_manifest
from perunml.sealing.reader import SealedReader, verify_tree
from perunml.sealing.store import FolderStore, write_file
from perunml.sealing.views.files import unpack
from perunml.sealing.writer import collect, seal_files
from perunml.wire.canonical import canonical
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import IntegrityError, LimitReached, PerunError, UsageError
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey

OWNER = SigningKey.generate()
CHUNK = 64 * 1024
KEY = bytes(range(32))


def blobs_of(sizes: list[int]) -> list[BlobEntry]:
    return [BlobEntry(f"{number:032x}", bytes(32), size) for number, size in enumerate(sizes)]


def seal(folder: Path, files: dict[str, Any], **more: Any) -> tuple[FolderStore, Manifest, Envelope]:
    settings: dict[str, Any] = {"name": "x", "kind": "dataset", "owner": OWNER, "data_key": KEY, "chunk_size": CHUNK}
    found = FolderStore(folder)
    envelope = seal_files(files, found, **{**settings, **more})
    return found, open_manifest(envelope, [settings["owner"].public]), envelope


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses writes beyond `size` bytes of a file, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- the storage ---


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, dict[str, bytes]]:
    files = {"a": os.urandom(CHUNK + 100), "b/c": b"small", "b/empty": b""}
    folder = tmp_path_factory.mktemp("sample")
    return folder, seal(folder, files)[1], files


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flip_or_cut_of_any_blob_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, sample: tuple[Path, Manifest, dict[str, bytes]], data: st.DataObject
) -> None:
    """One bit anywhere, or any byte of the end gone, index included: a coded refusal, and no altered byte is given out."""
    folder, manifest, files = sample
    blob = data.draw(st.sampled_from(manifest.all_blobs))
    good = (folder / "blobs" / blob.id).read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    if data.draw(st.booleans()):
        del bad[place:]
    else:
        bad[place] ^= 1 << data.draw(st.integers(0, 7))
    other = tmp_path_factory.mktemp("bad")
    (other / "blobs").mkdir()
    for entry in manifest.all_blobs:
        (other / "blobs" / entry.id).write_bytes((folder / "blobs" / entry.id).read_bytes())
    (other / "blobs" / blob.id).write_bytes(bad)
    with FolderStore(other) as found:
        with pytest.raises(IntegrityError, match=r"tree_mismatch|blob_truncated"):
            verify_tree(manifest, found)
        if blob == manifest.index:
            with pytest.raises(IntegrityError, match=r"chunk_altered|blob_truncated"):
                SealedReader(manifest, KEY, found)
            return
        with SealedReader(manifest, KEY, found) as reader:
            read = {path: _read(reader, path) for path in files}
    assert set(read.values()) & {"chunk_altered", "blob_truncated"}
    for path, want in files.items():
        assert read[path] in (want, "chunk_altered", "blob_truncated")


def _read(reader: SealedReader, path: str) -> bytes | str:
    try:
        return reader.read_file(path)
    except IntegrityError as exc:
        return exc.code


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flip_of_the_manifest_is_noticed(
    sample: tuple[Path, Manifest, dict[str, bytes]], data: st.DataObject
) -> None:
    """One bit of the signed payload: it does not verify, or is no manifest."""
    envelope = _envelope(sample[1])
    payload = bytearray(envelope.payload)
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(PerunError):
        open_manifest(Envelope(envelope.payload_type, bytes(payload), envelope.signatures), [OWNER.public])


def _envelope(manifest: Manifest) -> Envelope:
    return signed("Manifest", manifest.as_json(), OWNER)


@pytest.mark.parametrize("part", ["key", "asset", "blob", "salt", "index", "last"])
def test_s4_a_chunk_opens_only_in_its_own_place(part: str) -> None:
    """S4: everything the same but one of data key, asset, blob id, salt, place, last-flag: chunk_altered, buffer wiped."""
    sealed = BlobCipher(KEY, "a1" * 16, "b1" * 16, b"s" * 32).seal(3, False, b"secret")
    place: dict[str, Any] = {
        "key": KEY,
        "asset": "a1" * 16,
        "blob": "b1" * 16,
        "salt": b"s" * 32,
        "index": 3,
        "last": False,
    }
    other: dict[str, Any] = {
        "key": bytes(32),
        "asset": "a2" * 16,
        "blob": "b2" * 16,
        "salt": b"t" * 32,
        "index": 2,
        "last": True,
    }

    def opened(at: dict[str, Any]) -> bytes:
        buffer = bytearray(b"filled")
        cipher = BlobCipher(at["key"], at["asset"], at["blob"], at["salt"])
        try:
            cipher.open_into(at["index"], at["last"], sealed, memoryview(buffer))
        except IntegrityError as exc:
            return exc.code.encode() if not any(buffer) else b"not wiped"
        return bytes(buffer)

    assert opened(place) == b"secret"
    assert opened({**place, part: other[part]}) == b"chunk_altered"


def _large(path: Path) -> Path:
    """A file that gets a blob of its own, all holes."""
    with path.open("wb") as file:
        file.truncate((64 << 20) + 1)
    return path


def test_a_link_in_the_store_is_not_followed(tmp_path: Path) -> None:
    """A blob replaced by a link to something else is not read."""
    found, manifest, _ = seal(tmp_path / "s", {"a": b"1"})
    target = found.path(manifest.index.id)
    target.rename(tmp_path / "away")
    target.symlink_to(tmp_path / "away")
    with pytest.raises(IntegrityError, match="blob_missing"):
        SealedReader(manifest, KEY, found)


def test_many_blobs_need_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store holds a bounded number of files open and still reads all of them."""
    monkeypatch.setattr(stores, "MAX_OPEN", 2)
    found = FolderStore(tmp_path)
    for number in range(5):
        with found.create(f"{number:032x}") as file:
            file.write(bytes([number]))
    for number in (0, 1, 2, 3, 4, 0):
        buffer = bytearray(1)
        found.read(f"{number:032x}", 0, memoryview(buffer))
        assert buffer[0] == number
        assert len(found._open) <= 2


def test_a_blob_is_created_once(tmp_path: Path) -> None:
    """An id that is there already, or appears while one writes: blob_exists, and the first one stays."""
    found = FolderStore(tmp_path)
    with found.create("00" * 16) as file:
        file.write(b"first")
    with pytest.raises(IntegrityError, match="blob_exists"), found.create("00" * 16) as file:
        file.write(b"second")
    outer = found.create("11" * 16)
    outer.__enter__().write(b"loser")
    with found.create("11" * 16) as file:
        file.write(b"winner")
    with pytest.raises(IntegrityError, match="blob_exists"):
        outer.__exit__(None, None, None)
    assert found.path("00" * 16).read_bytes() == b"first"
    assert found.path("11" * 16).read_bytes() == b"winner"
    assert len(list((tmp_path / "blobs").iterdir())) == 2


# --- another owner ---


def test_a_wrap_is_worth_nothing_elsewhere(tmp_path: Path) -> None:
    """Copied to another owner's, name's, or version's manifest of the very same content: unseal_failed."""
    manager = HpkePrivateKey.generate()
    _, mine, envelope = seal(tmp_path, {"a": b"1"})
    wrap = wrap_key(KEY, mine, manager.public)
    assert unwrap_key(wrap, mine, manager) == KEY
    for other in (
        replace(mine, owner=SigningKey.generate().public.text),
        replace(mine, name="y"),
        replace(mine, version=2),
        replace(mine, merkle_root="sha256:" + "0" * 64),
    ):
        with pytest.raises(IntegrityError, match="unseal_failed"):
            unwrap_key(wrap, other, manager)
    twice = WrappedKeys(envelope.digest, (wrap, Wrap(wrap.recipient, b"other")))
    with pytest.raises(UsageError, match="malformed"):
        WrappedKeys.from_json(twice.as_json())


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        ([["a", 5, 0, 0], ["b", 5, 0, 0]], [5]),  # one over the other
        ([["a", 3, 0, 0], ["b", 2, 0, 0]], [5]),  # that many bytes in all, but not one after the other
        ([["a", 2, 0, 3], ["b", 3, 0, 0]], [5]),  # in another order
        ([["a", 2, 0, 0], ["b", 2, 0, 3]], [5]),  # a gap
        ([["a", 4, 0, 0]], [5]),  # not full
        ([["a", 6, 0, 0]], [5]),  # beyond
        ([["a", 5, 0, 0]], [5, 1]),  # a blob that nobody reads
        ([["a", 5, 1, 0]], [5, 5]),
        ([["a", 5, 0, 0], ["a", 1, 1, 0]], [5, 1]),
        ([["a", 5, 0, 0], ["a/b", 1, 1, 0]], [5, 1]),
        ([["../a", 5, 0, 0]], [5]),
        ([["/a", 5, 0, 0]], [5]),
        ([["a\x00", 5, 0, 0]], [5]),
        ([["a", -5, 0, 5]], [5]),
        ([["a", 5, -1, 0]], [5]),
        ([["a", 5, 7, 0]], [5]),
        ([["a", True, 0, 0]], [1]),
        ([["a", 5, 0]], [5]),
        ([["/".join("a" * 65), 5, 0, 0]], [5]),
        ("x", []),
        ({"a": 1}, []),
    ],
)
def test_an_owners_evil_index_is_refused(rows: Any, sizes: list[int]) -> None:
    """Files that overlap, leave gaps, reach out of their blob or of the folder: manifest_invalid, before anything unpacks."""
    with pytest.raises(IntegrityError, match="manifest_invalid"):
        decode_index(canonical({"files": rows}), blobs_of(sizes), 1 << 20)


K = 1024


@pytest.mark.parametrize(
    ("table", "size", "chunks"),
    [
        ([[64 * K, 2]], 128 * K, 3),
        ([[64 * K, 2]], 128 * K + 1, 2),
        ([[64 * K - 1, 2]], 128 * K - 2, 2),
        ([[64 * K - 1, 1], [64 * K + 1, 1]], 128 * K, 2),
        ([[1024 * K + 1, 1]], 1024 * K + 1, 1),
        ([[64 * K, 0], [64 * K, 2]], 128 * K, 2),
        ([[64 * K, 1], [-64 * K, 1], [64 * K, 2]], 128 * K, 4),
        ([[0, 1], [128 * K, 1]], 128 * K, 2),
        ([[64.0 * K, 2]], 128 * K, 2),
        ([[64 * K, True], [64 * K, 1]], 128 * K, 2),
        ([[64 * K]], 64 * K, 1),
        ([], 0, 1),
        ("x", 1, 1),
        (None, 1, 1),
    ],
)  # fmt: skip
def test_a_table_that_does_not_add_up_is_refused(table: Any, size: int, chunks: int) -> None:
    """Sizes out of bounds, sums that are not the blob's, and what are no numbers: manifest_invalid."""
    blobs = [BlobEntry("ab" * 16, bytes(32), size, chunks)]
    with pytest.raises(IntegrityError, match="manifest_invalid"):
        decode_index(json.dumps({"files": [["a", size, 0, 0]], "chunks": {"0": table}}).encode(), blobs, 1 << 20)


@pytest.mark.parametrize(
    "tables",
    [{}, {"1": [[64 * K, 2]]}, {"00": [[64 * K, 2]]}, {"-1": [[64 * K, 2]]}, {"0": [[64 * K, 2]], "1": [[5, 1]]}, None],
)
def test_tables_are_of_the_blobs_that_the_manifest_names(tables: Any) -> None:
    """None missing, none of another blob, none under two names."""
    blobs = [BlobEntry("ab" * 16, bytes(32), 128 * K, 2), BlobEntry("cd" * 16, bytes(32), 5)]
    rows = [["a", 128 * K, 0, 0], ["b", 5, 1, 0]]
    with pytest.raises(IntegrityError, match="manifest_invalid"):
        decode_index(canonical({"files": rows, **({"chunks": tables} if tables is not None else {})}), blobs, 1 << 20)


@pytest.mark.parametrize("tables", [[], [[0, 1]], 1, "0", None, True])
def test_tables_that_are_no_object_are_refused(tables: Any) -> None:
    """As anything else that is not of its form: manifest_invalid."""
    blobs = [BlobEntry("ab" * 16, bytes(32), 128 * K, 2)]
    with pytest.raises(IntegrityError, match="manifest_invalid"):
        decode_index(canonical({"files": [["a", 128 * K, 0, 0]], "chunks": tables}), blobs, 1 << 20)


def test_an_index_of_too_many_runs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all blobs together; as many as there may be are taken."""
    blobs = [BlobEntry(f"{number:032x}", bytes(32), 128 * K, 2) for number in range(2)]
    rows = [["a", 128 * K, 0, 0], ["b", 128 * K, 1, 0]]
    data = canonical({"files": rows, "chunks": {"0": [[64 * K, 2]], "1": [[64 * K, 1], [64 * K, 1]]}})
    monkeypatch.setattr(index, "MAX_RUNS", 3)
    assert len(decode_index(data, blobs, 1 << 20).tables) == 2
    monkeypatch.setattr(index, "MAX_RUNS", 2)
    with pytest.raises(IntegrityError, match="runs of chunks"):
        decode_index(data, blobs, 1 << 20)


def test_honest_indexes_are_accepted() -> None:
    """No files, empty files at every border, several blobs."""
    assert decode_index(b'{"files":[]}', [], 1 << 20).files == {}
    places = {
        "a": Place(0, 0, 0), "b": Place(3, 0, 0), "c": Place(0, 0, 3), "d": Place(0, 1, 0), "e": Place(0, 2, 0),
        "f": Place(9, 2, 0),
    }  # fmt: skip
    assert decode_index(encode_index(places), blobs_of([3, 0, 9]), 1 << 20).files == places


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,files0123e-. a/', max_size=80).map(str.encode))
def test_an_index_of_any_bytes_is_refused_by_code(data: bytes) -> None:
    """Whatever the bytes: a list of files or manifest_invalid, no other exception."""
    code = "manifest_invalid"
    try:
        decode_index(data, blobs_of([5]), 1 << 20)
    except IntegrityError as exc:
        code = exc.code
    assert code == "manifest_invalid"


# --- the source folder ---


def test_an_empty_folder_seals_and_unpacks(tmp_path: Path) -> None:
    """No file at all is an asset too: no blob but the index."""
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    found = FolderStore(tmp_path / "s")
    envelope = seal_files(collect(tmp_path / "source"), found, name="x", kind="code", owner=OWNER, data_key=KEY)
    manifest = open_manifest(envelope, [OWNER.public])
    assert manifest.blobs == ()
    with SealedReader(manifest, KEY, found) as reader:
        reader.verify_tree()
        unpack(reader, tmp_path / "target")
    assert not list((tmp_path / "target").iterdir())


def test_nothing_is_unpacked_over_what_is_there(tmp_path: Path) -> None:
    """A folder with a link in it could lead out of it: only an empty one is unpacked into."""
    found, manifest, _ = seal(tmp_path / "s", {"d/a": b"evil"})
    (tmp_path / "out").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target/d").symlink_to(tmp_path / "out")
    with SealedReader(manifest, KEY, found) as reader, pytest.raises(ValueError, match="not empty"):
        unpack(reader, tmp_path / "target")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("make", ["link", "loop", "fifo", "folder link"])
def test_links_and_special_files_are_refused(tmp_path: Path, make: str) -> None:
    """A link, a pipe, a link to a folder, named by themselves or found in a folder: path_refused, and no hang."""
    source = tmp_path / "source"
    source.mkdir()
    path = source / "it"
    if make == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to({"link": "/etc/hostname", "loop": path, "folder link": "/etc"}[make])
    sink = FolderStore(tmp_path / "s")
    with pytest.raises(UsageError, match="path_refused"):
        seal_files(collect(source), sink, name="x", kind="code", owner=OWNER, data_key=KEY)
    with pytest.raises(UsageError, match="path_refused"):
        seal(tmp_path / "s", {"it": path})


class Growing(type(Path())):  # type: ignore[misc]
    """A file that has become longer or shorter, or a link, between being looked at and being opened."""

    change: Any

    def lstat(self) -> os.stat_result:
        found = os.lstat(self)
        type(self).change(self)
        return found


@pytest.mark.parametrize("change", ["longer", "much longer", "shorter", "link"])
def test_a_file_that_changes_while_it_is_sealed_is_refused(tmp_path: Path, change: str) -> None:
    """Its neighbour in the blob must not get its bytes: path_refused, and no blob stays."""
    path = tmp_path / "a"
    path.write_bytes(b"1" * 100)

    def link(target: Path) -> None:
        target.rename(tmp_path / "elsewhere")
        target.symlink_to(tmp_path / "elsewhere")

    changes = {
        "longer": lambda p: os.truncate(p, 101),
        "much longer": lambda p: os.truncate(p, 10 * CHUNK),
        "shorter": lambda p: os.truncate(p, 99),
        "link": link,
    }
    changing = type("Changing", (Growing,), {"change": staticmethod(changes[change])})(path)
    with pytest.raises(UsageError, match="path_refused"):
        seal(tmp_path / "s", {"a": changing, "b": b"2" * CHUNK})
    assert not list((tmp_path / "s/blobs").iterdir())


# --- a full disk ---


def test_s9_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """S9: the second blob finds no room: disk_full, and the first one is taken away again; later all goes well."""
    large = _large(tmp_path / "large")
    with files_no_larger_than(3 * CHUNK), pytest.raises(LimitReached, match="disk_full"):
        seal(tmp_path / "s", {"a": b"1", "b": large})
    assert not list((tmp_path / "s/blobs").iterdir())
    assert not (tmp_path / "s/manifest.json").exists()
    found, manifest, _ = seal(tmp_path / "s", {"a": b"1"})
    with SealedReader(manifest, KEY, found) as reader:
        assert reader.read_file("a") == b"1"


def test_s9_a_full_disk_keeps_the_old_document(tmp_path: Path) -> None:
    """S9: a document that cannot be written whole is not written at all, and unpacking says disk_full too."""
    write_file(tmp_path / "keys.json", b"old")
    found, manifest, _ = seal(tmp_path / "s", {"a": bytes(5000)})
    (tmp_path / "t").mkdir()
    with files_no_larger_than(1000):
        with pytest.raises(LimitReached, match="disk_full"):
            write_file(tmp_path / "keys.json", bytes(2000))
        with SealedReader(manifest, KEY, found) as reader, pytest.raises(LimitReached, match="disk_full"):
            unpack(reader, tmp_path / "t")
    assert (tmp_path / "keys.json").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys.json", "s", "t"]


def test_a_sealing_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C in the progress callback: no blob, no thread stays."""

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        seal(tmp_path, {"a": bytes(20 * CHUNK)}, progress=interrupt)
    assert not list((tmp_path / "blobs").iterdir())
    assert threading.active_count() == before


def test_wrong_names_are_said_before_anything_is_written(tmp_path: Path) -> None:
    """A name, kind or asset id that no reader would take."""
    for wrong in ({"name": "X"}, {"kind": "thing"}, {"asset_id": "x"}, {"version": 0}):
        with pytest.raises(IntegrityError, match="manifest_invalid"):
            seal(tmp_path / "s", {"a": b"1"}, **wrong)
    assert not (tmp_path / "s").exists()


def test_a_name_that_is_a_file_and_a_folder_is_not_sealed(tmp_path: Path) -> None:
    """The caller hears path_refused, before anything is written."""
    with pytest.raises(UsageError, match="path_refused"):
        seal(tmp_path / "s", {"a": b"", "a/b": b""})
    assert not (tmp_path / "s").exists()


def test_a_closed_reader_holds_no_key(tmp_path: Path) -> None:
    """After `close` key and plaintext buffer are zeros."""
    found, manifest, _ = seal(tmp_path, {"a": b"secret"})
    reader = SealedReader(manifest, new := bytearray(KEY), found)
    reader.read_file("a")
    reader.close()
    assert not any(reader._key)
    assert not any(reader._plain)
    assert any(new), "the caller's key is the caller's to wipe"
    assert any(new_data_key())
