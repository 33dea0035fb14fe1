"""What is sealed comes back byte for byte, and every altered byte is noticed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.sealing.keys import WrappedKeys, new_data_key, unwrap_key, wrap_key
from perunml.sealing.manifest import Manifest, open_manifest
from perunml.sealing.reader import SealedReader
from perunml.sealing.store import FolderStore
from perunml.sealing.views.files import unpack
from perunml.sealing.writer import collect, seal_files
from perunml.wire.dsse import Envelope
from perunml.wire.errors import IntegrityError, UsageError
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey

OWNER = SigningKey.generate()
CHUNK = 64 * 1024


def sealed(
    tmp_path: Path, files: dict[str, bytes], key: bytearray, name: str = "scans"
) -> tuple[FolderStore, Envelope]:
    store = FolderStore(tmp_path)
    return store, seal_files(files, store, name=name, kind="dataset", owner=OWNER, data_key=key, chunk_size=CHUNK)


def opened(store: FolderStore, envelope: Envelope, key: bytearray) -> SealedReader:
    return SealedReader(open_manifest(envelope, [OWNER.public]), key, store)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}|d[0-9]/[a-z0-9]{9}", fullmatch=True),
        st.integers(0, 3 * CHUNK),
        min_size=0,
        max_size=6,
    ),
    st.integers(0, 2**32),
)
def test_random_folders_come_back(tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, int], seed: int) -> None:
    """Any files, read whole and at random places, equal what was sealed."""
    rng = random.Random(seed)
    files = {path: rng.randbytes(size) for path, size in sizes.items()}
    key = new_data_key()
    store, envelope = sealed(tmp_path_factory.mktemp("s"), files, key)
    with store, opened(store, envelope, key) as reader:
        reader.verify_tree()
        assert reader.files == sizes
        for path, data in files.items():
            assert reader.read_file(path) == data
            offset, length = rng.randint(0, len(data)), rng.randint(0, 2 * CHUNK)
            buffer = bytearray(length)
            count = reader.read_into(path, offset, buffer)
            assert buffer[:count] == data[offset : offset + length]


def test_a_folder_unpacks_to_the_same_tree(tmp_path: Path) -> None:
    """Sub-folders, empty files and large files come back as files."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "a/b").mkdir(parents=True)
    target.mkdir()
    (source / "a/b/big").write_bytes(os.urandom(5 * CHUNK + 7))
    (source / "a/empty").write_bytes(b"")
    (source / "top.csv").write_bytes(b"1,2\n")
    key, store, seen = new_data_key(), FolderStore(tmp_path / "store"), []
    envelope = seal_files(
        collect(source), store, name="x", kind="code", owner=OWNER, data_key=key, chunk_size=CHUNK,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    with store, opened(store, envelope, key) as reader:
        unpack(reader, target)
    for path in ("a/b/big", "a/empty", "top.csv"):
        assert (target / path).read_bytes() == (source / path).read_bytes()
    assert seen[-1] == (5 * CHUNK + 11, 5 * CHUNK + 11)


def test_every_altered_byte_of_a_blob_is_noticed(tmp_path: Path) -> None:
    """One bit flipped anywhere: reading raises chunk_altered with the buffer wiped, the tree raises tree_mismatch."""
    key = new_data_key()
    store, envelope = sealed(tmp_path, {"f": b"secret" * 20_000}, key)
    manifest = open_manifest(envelope, [OWNER.public])
    path = store.path(manifest.blobs[0].id)
    good = path.read_bytes()
    for place in (0, 1, CHUNK - 1, CHUNK, CHUNK + 15, CHUNK + 16, len(good) - 1):
        bad = bytearray(good)
        bad[place] ^= 1
        path.write_bytes(bad)
        with FolderStore(tmp_path) as again, SealedReader(manifest, key, again) as reader:
            buffer = bytearray(120_000)
            with pytest.raises(IntegrityError, match="chunk_altered"):
                reader.read_into("f", 0, buffer)
            chunk = slice(0, CHUNK) if place < CHUNK + 16 else slice(CHUNK, None)
            assert not any(buffer[chunk])
            with pytest.raises(IntegrityError, match="tree_mismatch"):
                reader.verify_tree()


def test_truncated_missing_and_swapped_blobs_are_refused(tmp_path: Path) -> None:
    """A shorter blob, none, and another of the same asset in its place each have their code; so do swapped chunks."""
    key = new_data_key()
    files = {"a": os.urandom(65 << 20), "b": os.urandom(2 * CHUNK)}
    store, envelope = sealed(tmp_path, files, key)
    manifest = open_manifest(envelope, [OWNER.public])
    assert len(manifest.blobs) == 2
    small = store.path(manifest.blobs[1].id)
    good = small.read_bytes()
    cases = {
        "blob_truncated": good[:-1],
        "chunk_altered": good[CHUNK + 16 :] + good[: CHUNK + 16],
    }
    for code, bad in cases.items():
        small.write_bytes(bad)
        with (
            FolderStore(tmp_path) as again,
            SealedReader(manifest, key, again) as reader,
            pytest.raises(IntegrityError, match=code),
        ):
            reader.read_file("b")
    with store.path(manifest.blobs[0].id).open("rb") as other:
        small.write_bytes(other.read(len(good)))
    with (
        FolderStore(tmp_path) as again,
        SealedReader(manifest, key, again) as reader,
        pytest.raises(IntegrityError, match="chunk_altered"),
    ):
        reader.read_file("b")
    small.unlink()
    with (
        FolderStore(tmp_path) as again,
        SealedReader(manifest, key, again) as reader,
        pytest.raises(IntegrityError, match="blob_missing"),
    ):
        reader.read_file("b")


def test_s4_ciphertext_of_another_asset_is_refused(tmp_path: Path) -> None:
    """S4: the same data key, another asset's blob under this one's id: the additional data differs."""
    key = new_data_key()
    one, first = sealed(tmp_path / "one", {"f": b"x" * 1000}, key)
    two, second = sealed(tmp_path / "two", {"f": b"y" * 1000}, key)
    mine, other = (open_manifest(e, [OWNER.public]) for e in (first, second))
    one.path(mine.blobs[0].id).write_bytes(two.path(other.blobs[0].id).read_bytes())
    with opened(one, first, key) as reader, pytest.raises(IntegrityError, match="chunk_altered"):
        reader.read_file("f")


def test_a_wrong_data_key_opens_nothing(tmp_path: Path) -> None:
    """Not even the list of files."""
    store, envelope = sealed(tmp_path, {"f": b"x"}, new_data_key())
    with pytest.raises(IntegrityError, match="chunk_altered"):
        opened(store, envelope, new_data_key())


def test_a_manifest_is_only_its_owners(tmp_path: Path) -> None:
    """Another key's signature, an altered payload, an owner who is not asked for: refused."""
    key = new_data_key()
    _, envelope = sealed(tmp_path, {"f": b"x"}, key)
    with pytest.raises(IntegrityError, match="bad_signature"):
        open_manifest(envelope, [SigningKey.generate().public])
    forged = Envelope(
        envelope.payload_type, envelope.payload.replace(b'"version":1', b'"version":2'), envelope.signatures
    )
    with pytest.raises(IntegrityError, match="bad_signature"):
        open_manifest(forged, [OWNER.public])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        ["asset_id", "name", "asset_kind", "version", "owner", "chunk_size", "blobs", "index", "merkle_root", "size"]
    ),
    st.sampled_from([None, -1, 0, 2**60, "", "x", [], {}, [{}], True, 1.5]),
)
def test_a_manifest_out_of_its_form_is_refused(member: str, value: object) -> None:
    """Each member, each wrong type or bound: manifest_invalid, never another exception."""
    good = {
        "apiVersion": "perunml/v1", "kind": "Manifest", "format": "perunml/sealed-v1", "asset_id": "0" * 32, "name": "n",
        "asset_kind": "code", "version": 1, "owner": OWNER.public.text, "chunk_size": CHUNK, "blobs": [],
        "index": {"id": "1" * 32, "salt": "A" * 43, "size": 12}, "merkle_root": "sha256:" + "0" * 64, "size": 0,
    }  # fmt: skip
    Manifest.from_json(good)
    unchanged = (member, value) in (("size", 0), ("name", "x")) or (member == "blobs" and value == [])
    if not unchanged:
        with pytest.raises(IntegrityError, match="manifest_invalid"):
            Manifest.from_json({**good, member: value})
    with pytest.raises(IntegrityError, match="manifest_invalid"):
        Manifest.from_json({k: v for k, v in good.items() if k != member})


def test_a_wrap_opens_only_as_its_own_asset(tmp_path: Path) -> None:
    """A wrap copied to another asset, or for another key, is worth nothing."""
    key, manager = new_data_key(), HpkePrivateKey.generate()
    _, envelope = sealed(tmp_path / "1", {"f": b"x"}, key)
    _, other = sealed(tmp_path / "2", {"f": b"x"}, key)
    mine, theirs = open_manifest(envelope, [OWNER.public]), open_manifest(other, [OWNER.public])
    wrap = wrap_key(key, mine, manager.public)
    document = WrappedKeys(envelope.digest, (wrap,))
    assert WrappedKeys.from_json(document.as_json()) == document
    assert unwrap_key(document.find(manager.public), mine, manager) == key
    for manifest, private in ((theirs, manager), (mine, HpkePrivateKey.generate())):
        with pytest.raises(IntegrityError, match="unseal_failed"):
            unwrap_key(wrap, manifest, private)
    with pytest.raises(IntegrityError, match="wrap_missing"):
        document.find(HpkePrivateKey.generate().public)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a//b", "a/./b", "", "a\x00b", "a\nb", "x" * 256, "a\\b", "\udcff"]
)
def test_file_names_that_lead_astray_are_not_sealed(tmp_path: Path, path: str) -> None:
    """C13: neither by name, nor (below) by link."""
    with pytest.raises(UsageError, match="path_refused"):
        sealed(tmp_path, {path: b""}, new_data_key())


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A symbolic link in the source is refused by name, and nothing is registered."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "link").symlink_to("/etc/shadow")
    with pytest.raises(UsageError, match="path_refused"):
        seal_files(
            collect(source),
            FolderStore(tmp_path / "store"),
            name="x",
            kind="code",
            owner=OWNER,
            data_key=new_data_key(),
        )
    assert not (tmp_path / "store").exists()


def test_many_chunks_at_once_equal_one_after_the_other(tmp_path: Path) -> None:
    """Two threads open the chunks of a long read: the bytes are the same from any offset, and an altered chunk in either
    half is refused and wiped."""
    data, key = os.urandom(11 * CHUNK + 5), new_data_key()
    store, envelope = sealed(tmp_path, {"f": data}, key)
    manifest = open_manifest(envelope, [OWNER.public])
    with store, opened(store, envelope, key) as reader:
        for offset in (0, 1, CHUNK, 3 * CHUNK + 7):
            buffer = bytearray(len(data))
            count = reader.read_into("f", offset, buffer)
            assert buffer[:count] == data[offset:]
    path = store.path(manifest.blobs[0].id)
    good = path.read_bytes()
    for chunk in (1, 9):
        bad = bytearray(good)
        bad[chunk * (CHUNK + 16)] ^= 1
        path.write_bytes(bad)
        with FolderStore(tmp_path) as again, SealedReader(manifest, key, again) as reader:
            buffer = bytearray(len(data))
            with pytest.raises(IntegrityError, match=f"chunk {chunk} does not open"):
                reader.read_into("f", 0, buffer)
            assert not any(buffer[chunk * CHUNK : (chunk + 1) * CHUNK])
