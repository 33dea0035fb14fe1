"""The manifest: what a sealed asset consists of, signed by its owner. docs/sealed-format.md is the specification."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from perunml.sealing.chunks import DEFAULT_CHUNK, MAX_CHUNK, MAX_CHUNKS, MIN_CHUNK, SALT, chunk_count, sealed_size
from perunml.sealing.codes import MANIFEST_INVALID
from perunml.wire.digests import parse_digest
from perunml.wire.dsse import Envelope
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey

FORMAT = "perunml/sealed-v1"
KINDS = ("dataset", "code", "model", "output", "checkpoint")
MAX_BLOBS = 20_000
"""A manifest of this many blobs has 3 MB; more files than that share blobs."""
MAX_SIZE = 2**50
_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_MEMBERS = {
    "apiVersion", "kind", "format", "asset_id", "name", "asset_kind", "version", "owner", "chunk_size", "blobs", "index",
    "merkle_root", "size",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """A blob: `size` plaintext bytes in chunks of the manifest's size, sealed under a key of its own. Where its chunks follow records'
    borders there are `chunks` of them, and the index says of what sizes; else that is 0."""

    id: str
    salt: bytes
    size: int
    chunks: int = 0

    def as_json(self) -> dict[str, Any]:
        more = {"chunks": self.chunks} if self.chunks else {}
        return {"id": self.id, "salt": b64(self.salt), "size": self.size, **more}


@dataclass(frozen=True, slots=True)
class Manifest:
    """`index` is the blob that holds the sealed list of files; `merkle_root` is over all ciphertext chunks, blobs in this
    order and the index last; `size` sums the files' plaintext bytes."""

    asset_id: str
    name: str
    kind: str
    version: int
    owner: str
    chunk_size: int
    blobs: tuple[BlobEntry, ...]
    index: BlobEntry
    merkle_root: str
    size: int

    @property
    def all_blobs(self) -> tuple[BlobEntry, ...]:
        return (*self.blobs, self.index)

    def chunks(self, blob: BlobEntry) -> int:
        return blob.chunks or chunk_count(blob.size, self.chunk_size)

    def sealed_size(self, blob: BlobEntry) -> int:
        """Ciphertext bytes of `blob`."""
        return sealed_size(blob.size, self.chunks(blob))

    @property
    def total_sealed(self) -> int:
        return sum(self.sealed_size(blob) for blob in self.all_blobs)

    def as_json(self) -> dict[str, Any]:
        """The DSSE payload's members, without apiVersion and kind."""
        return {
            "format": FORMAT,
            "asset_id": self.asset_id,
            "name": self.name,
            "asset_kind": self.kind,
            "version": self.version,
            "owner": self.owner,
            "chunk_size": self.chunk_size,
            "blobs": [blob.as_json() for blob in self.blobs],
            "index": self.index.as_json(),
            "merkle_root": self.merkle_root,
            "size": self.size,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Manifest:
        """Raises `IntegrityError` (manifest_invalid)."""
        try:
            return _parse(data)
        except (KeyError, TypeError, AttributeError) as exc:
            raise refuse(MANIFEST_INVALID, f"the manifest lacks or mistypes a member: {exc}") from None
        except PerunError as exc:
            raise refuse(MANIFEST_INVALID, exc.reasons[0].message) from None


def open_manifest(envelope: Envelope, owners: Iterable[PublicKey]) -> Manifest:
    """The manifest, signed by the key that it names as owner, which must be one of `owners`. Raises `IntegrityError`."""
    manifest = Manifest.from_json(envelope.unverified("Manifest"))
    envelope.verify("Manifest", [key for key in owners if key.text == manifest.owner])
    return manifest


def _parse(data: dict[str, Any]) -> Manifest:
    if set(data) != _MEMBERS or data["format"] != FORMAT:
        raise refuse(MANIFEST_INVALID, f"not a manifest of {FORMAT}")
    if not isinstance(data["blobs"], list) or len(data["blobs"]) > MAX_BLOBS:
        raise refuse(MANIFEST_INVALID, f"blobs is no list, or one of more than {MAX_BLOBS}")
    manifest = Manifest(
        _matching(_ID, data["asset_id"], "asset_id"),
        _matching(_NAME, data["name"], "name"),
        data["asset_kind"],
        _integer(data["version"], 1, 2**31, "version"),
        PublicKey(data["owner"]).text,
        _integer(data["chunk_size"], MIN_CHUNK, MAX_CHUNK, "chunk_size"),
        tuple(_blob(item) for item in data["blobs"]),
        _blob(data["index"]),
        data["merkle_root"],
        _integer(data["size"], 0, MAX_SIZE, "size"),
    )
    parse_digest(manifest.merkle_root)
    if manifest.kind not in KINDS:
        raise refuse(MANIFEST_INVALID, "no such kind of asset", seen=str(manifest.kind))
    if len({blob.id for blob in manifest.all_blobs}) != len(manifest.all_blobs):
        raise refuse(MANIFEST_INVALID, "one blob stands twice")
    if manifest.size != sum(blob.size for blob in manifest.blobs):
        raise refuse(MANIFEST_INVALID, "the blobs' sizes do not add up to the asset's")
    for blob in manifest.all_blobs:
        least = chunk_count(blob.size, manifest.chunk_size)
        if not least <= manifest.chunks(blob) <= min(MAX_CHUNKS, max(least, blob.size // MIN_CHUNK + 1)):
            raise refuse(MANIFEST_INVALID, "a blob has too many chunks, or too few")
    if manifest.index.chunks:
        raise refuse(MANIFEST_INVALID, "the index has chunks of one size")
    return manifest


def _blob(data: dict[str, Any]) -> BlobEntry:
    if set(data) not in ({"id", "salt", "size"}, {"id", "salt", "size", "chunks"}):
        raise refuse(MANIFEST_INVALID, "a blob's entry has other members")
    return BlobEntry(
        _matching(_ID, data["id"], "blob id"),
        unb64(data["salt"], size=SALT),
        _integer(data["size"], 0, MAX_SIZE, "size"),
        _integer(data["chunks"], 1, MAX_CHUNKS, "chunks") if "chunks" in data else 0,
    )


def _matching(form: re.Pattern[str], text: Any, what: str) -> str:
    if not isinstance(text, str) or not form.fullmatch(text):
        raise refuse(MANIFEST_INVALID, f"{what} is not of its form", seen=str(text))
    return text


def _integer(value: Any, low: int, high: int, what: str) -> int:
    if type(value) is not int or not low <= value <= high:
        raise refuse(MANIFEST_INVALID, f"{what} is not within {low} to {high}", seen=str(value))
    return value


__all__ = ["DEFAULT_CHUNK", "BlobEntry", "Manifest", "open_manifest"]
