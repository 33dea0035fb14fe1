"""A second reader, written from docs/sealed-format.md alone: it shares no code with the first."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from perunml.sealing.keys import new_data_key
from perunml.sealing.store import FolderStore
from perunml.sealing.writer import seal_files
from perunml.wire.identity import SigningKey

PAGE = Path(__file__).parents[2] / "docs" / "sealed-format.md"


def unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def root(leaves: list[bytes]) -> bytes:
    """Section 5, by the recursive definition of RFC 6962."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + root(leaves[:split]) + root(leaves[split:])).digest()


def read(manifest: dict, data_key: bytes, blobs: dict[str, bytes]) -> dict[str, bytes]:
    """Sections 2 to 5: every file of an asset."""
    step = manifest["chunk_size"]

    def opened(entry: dict, sizes: list[int]) -> bytes:
        key = HKDF(SHA256(), 32, unbase64(entry["salt"]), b"perunml/blob-key/v1").derive(data_key)
        text, at = b"", 0
        for i, size in enumerate(sizes):
            chunk = blobs[entry["id"]][at : at + size + 16]
            at += size + 16
            context = bytes.fromhex(manifest["asset_id"]) + bytes.fromhex(entry["id"]) + i.to_bytes(8, "big")
            aad = b"perunml/chunk/v1" + context + bytes([i == len(sizes) - 1])
            text += AESGCM(key).decrypt(i.to_bytes(12, "big"), chunk, aad)
        assert at == len(blobs[entry["id"]])
        return text

    def usual(size: int) -> list[int]:
        return [min(step, size - at) for at in range(0, size, step)] or [0]

    index = json.loads(opened(manifest["index"], usual(manifest["index"]["size"])))
    tables = {
        int(blob): [size for size, count in rows for _ in range(count)]
        for blob, rows in index.get("chunks", {}).items()
    }
    plain, leaves = [], []
    for number, entry in enumerate(manifest["blobs"]):
        assert len(tables.get(number, [])) == entry.get("chunks", 0)
        plain.append(opened(entry, tables.get(number) or usual(entry["size"])))
    for entry in [*manifest["blobs"], manifest["index"]]:
        stored = blobs[entry["id"]]
        leaves += [stored[at : at + step + 16] for at in range(0, len(stored), step + 16)]
    assert "sha256:" + root(leaves).hex() == manifest["merkle_root"]
    return {path: plain[blob][offset : offset + size] for path, size, blob, offset in index["files"]}


def test_the_second_reader_reads_what_the_writer_wrote(tmp_path: Path) -> None:
    """Large, small and empty files, from nothing but the page's words."""
    files = {"a/large": os.urandom(1_000_000), "b": b"", "c.txt": b"small", "d": os.urandom(65_536 * 2)}
    key = new_data_key()
    envelope = seal_files(
        files,
        FolderStore(tmp_path),
        name="n",
        kind="dataset",
        owner=SigningKey.generate(),
        data_key=key,
        chunk_size=65_536,
    )
    blobs = {path.name: path.read_bytes() for path in (tmp_path / "blobs").iterdir()}
    assert read(json.loads(envelope.payload), bytes(key), blobs) == files


def test_the_second_reader_reads_chunks_that_follow_records(tmp_path: Path) -> None:
    """Sections 3 and 4: a table's sizes, beside files without one."""
    files = {"a": os.urandom(100), "b.npy": os.urandom(400_000), "c": os.urandom(200_000)}
    key, table = new_data_key(), ((65_540, 1), (65_536, 5), (6_780, 1))
    envelope = seal_files(
        files, FolderStore(tmp_path), name="n", kind="dataset", owner=SigningKey.generate(), data_key=key, chunk_size=70_000,
        tables={"b.npy": table},
    )  # fmt: skip
    manifest = json.loads(envelope.payload)
    assert [entry.get("chunks") for entry in manifest["blobs"]] == [None, 7, None]
    blobs = {path.name: path.read_bytes() for path in (tmp_path / "blobs").iterdir()}
    assert read(manifest, bytes(key), blobs) == files


def test_the_worked_example_is_true() -> None:
    """Section 8's bytes are what sections 2 to 5 give."""
    text = PAGE.read_text()
    chunk, index = (text.split(f"{name} only chunk")[1].split()[0] for name in ("blob's", "index's"))
    manifest = {
        "asset_id": "aa" * 16,
        "chunk_size": 65_536,
        "blobs": [{"id": "bb" * 16, "salt": base64.urlsafe_b64encode(b"\xcc" * 32).decode().rstrip("="), "size": 5}],
        "index": {"id": "dd" * 16, "salt": base64.urlsafe_b64encode(b"\xee" * 32).decode().rstrip("="), "size": 34},
        "merkle_root": text.split("    merkle_root          ")[1].split()[0],
    }
    blobs = {"bb" * 16: bytes.fromhex(chunk), "dd" * 16: bytes.fromhex(index)}
    assert read(manifest, bytes(range(32)), blobs) == {"greeting.txt": b"hello"}
