"""Every step of the second worked example of docs/sealed-format.md, signature included, is what the writer makes."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from perunml.sealing import writer
from perunml.sealing.store import FolderStore
from perunml.sealing.writer import seal_files
from perunml.wire.dsse import Envelope
from perunml.wire.identity import SigningKey

PAGE = Path(__file__).parents[2] / "docs/sealed-format.md"
DATA_KEY = bytes(range(32))
FILES: dict[str, Path | bytes] = {"a.txt": b"hello\n", "b/zeros.bin": bytes(65536)}


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def steps(folder: Path, owner: str, data_key: bytes) -> tuple[dict[str, bytes], dict[str, str]]:
    """The files of a sealed folder, read by the page's words alone, and the numbers on the way."""
    envelope = json.loads((folder / "manifest.json").read_bytes())
    kind, payload = envelope["payloadType"].encode(), unb64(envelope["payload"])
    assert kind == b"application/vnd.perunml.manifest+json"
    (signature,) = (s["sig"] for s in envelope["signatures"] if s["keyid"] == owner)
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    Ed25519PublicKey.from_public_bytes(unb64(owner.removeprefix("ed25519:"))).verify(unb64(signature), signed)
    manifest = json.loads(payload)
    assert manifest["owner"] == owner
    assert manifest["format"] == "perunml/sealed-v1"
    leaves: list[bytes] = []
    seen = {"payload": payload.decode(), "asset": "sha256:" + hashlib.sha256(payload).hexdigest(), "sig": signature}

    def open_blob(entry: dict[str, Any], name: str) -> bytes:
        size, step = entry["size"], manifest["chunk_size"]
        count = max(1, -(-size // step))
        data = (folder / "blobs" / entry["id"]).read_bytes()
        assert len(data) == size + 16 * count
        key = HKDF(hashes.SHA256(), 32, unb64(entry["salt"]), b"perunml/blob-key/v1").derive(data_key)
        seen[f"{name} key"] = key.hex()
        plain = b""
        for i in range(count):
            chunk = data[i * (step + 16) : (i + 1) * (step + 16)]
            leaves.append(hashlib.sha256(b"\x00" + chunk).digest())
            aad = b"perunml/chunk/v1" + bytes.fromhex(manifest["asset_id"]) + bytes.fromhex(entry["id"])
            aad += i.to_bytes(8, "big") + (b"\x01" if i == count - 1 else b"\x00")
            plain += AESGCM(key).decrypt(i.to_bytes(12, "big"), chunk, aad)
            seen[f"{name} chunk {i} AAD"] = aad.hex()
            seen[f"{name} chunk {i} begins"] = chunk[:16].hex()
            seen[f"{name} chunk {i} tag"] = chunk[-16:].hex()
            seen[f"{name} chunk {i} leaf"] = leaves[-1].hex()
        return plain

    blobs = [open_blob(entry, f"blob {number}") for number, entry in enumerate(manifest["blobs"])]
    index = open_blob(manifest["index"], "index")

    def root(part: list[bytes]) -> bytes:
        if len(part) == 1:
            return part[0]
        split = 1 << (len(part) - 1).bit_length() - 1
        return hashlib.sha256(b"\x01" + root(part[:split]) + root(part[split:])).digest()

    assert manifest["merkle_root"] == "sha256:" + root(leaves).hex()
    seen["index"] = index.decode()
    rows = json.loads(index)["files"]
    return {path: blobs[blob][offset : offset + size] for path, size, blob, offset in rows}, seen


def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's numbers where the writer draws random ones: counted ids, counted salts."""
    ids, salts = itertools.count(0xA0), itertools.count(0xB0)
    monkeypatch.setattr(writer.secrets, "token_hex", lambda n: f"{next(ids):02x}" * n)
    monkeypatch.setattr(writer.os, "urandom", lambda n: bytes([next(salts)]) * n)


def seal(folder: Path, files: dict[str, Path | bytes], owner: SigningKey, **more: Any) -> Envelope:
    store = FolderStore(folder)
    made = seal_files(
        files, store, name="example", kind="dataset", owner=owner, data_key=DATA_KEY, chunk_size=65536, **more
    )
    (folder / "manifest.json").write_bytes(made.encode())
    return made


def example(folder: Path, patch: Callable[[], None]) -> dict[str, str]:
    """Every number of the worked example by its name."""
    owner = SigningKey.from_secret(bytes([1]) * 32)
    patch()
    seal(folder, FILES, owner, asset_id="0f" * 16)
    files, seen = steps(folder, owner.public.text, DATA_KEY)
    assert files == FILES
    return {"data key": DATA_KEY.hex(), "owner's Ed25519 seed": "01" * 32, **seen}


def test_the_worked_example_is_what_the_writer_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of the page's example is the number that sealing and the page's words come to, and none is missing."""
    block = PAGE.read_text().split("With every step:")[1].split("```text\n")[1].split("\n```")[0]
    written = dict(line.split(" = ", 1) for line in block.splitlines())
    with monkeypatch.context() as patch:
        made = example(tmp_path, lambda: fixed(patch))
    assert written == made
