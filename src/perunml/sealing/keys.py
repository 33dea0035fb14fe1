"""Data keys, and the detached document that holds them wrapped.

The document can be replaced without touching the asset: the asset's digest is the manifest's. A wrap opens only as that
owner's asset, name, version and content, so a copied wrap is worth nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from perunml.sealing.chunks import KEY
from perunml.sealing.codes import WRAP_MISSING
from perunml.sealing.manifest import Manifest
from perunml.wire.codes import MALFORMED, UNSEAL_FAILED
from perunml.wire.digests import parse_digest
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import refuse
from perunml.wire.hpke import HpkePrivateKey, HpkePublicKey

MAX_WRAPS = 64


def new_data_key() -> bytearray:
    """32 random bytes, in a buffer that can be wiped."""
    return bytearray(os.urandom(KEY))


def wipe(buffer: bytearray) -> None:
    """Overwrites a buffer of ours with zeros."""
    buffer[:] = bytes(len(buffer))


def wrap_info(manifest: Manifest) -> dict[str, Any]:
    """HPKE's `info`: what the key belongs to."""
    return {
        "label": "perunml/asset-key",
        "owner": manifest.owner,
        "asset": manifest.name,
        "version": manifest.version,
        "root": manifest.merkle_root,
    }


@dataclass(frozen=True, slots=True)
class Wrap:
    """A data key sealed to `recipient` (a receiving key's id)."""

    recipient: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class WrappedKeys:
    """The wraps of one asset, named by its digest."""

    asset: str
    wraps: tuple[Wrap, ...]

    def find(self, recipient: HpkePublicKey) -> Wrap:
        """Raises `IntegrityError` (wrap_missing)."""
        for wrap in self.wraps:
            if wrap.recipient == recipient.id:
                return wrap
        raise refuse(WRAP_MISSING, f"no wrap for {recipient.id}")

    def with_wrap(self, wrap: Wrap) -> WrappedKeys:
        return WrappedKeys(self.asset, (*(w for w in self.wraps if w.recipient != wrap.recipient), wrap))

    def as_json(self) -> dict[str, Any]:
        return {"asset": self.asset, "wraps": [{"recipient": w.recipient, "sealed": b64(w.sealed)} for w in self.wraps]}

    @classmethod
    def from_json(cls, data: Any) -> WrappedKeys:
        """Raises `UsageError` (malformed)."""
        try:
            if set(data) != {"asset", "wraps"} or len(data["wraps"]) > MAX_WRAPS:
                raise TypeError
            parse_digest(data["asset"])
            wraps = tuple(_wrap(item) for item in data["wraps"])
            if len({wrap.recipient for wrap in wraps}) != len(wraps):
                raise refuse(MALFORMED, "two wraps for one recipient")
            return cls(data["asset"], wraps)
        except (TypeError, KeyError, AttributeError):
            raise refuse(MALFORMED, "not a document of wrapped keys") from None


def _wrap(item: Any) -> Wrap:
    if set(item) != {"recipient", "sealed"} or not isinstance(item["recipient"], str):
        raise TypeError
    return Wrap(item["recipient"], unb64(item["sealed"]))


def wrap_key(data_key: bytes | bytearray, manifest: Manifest, recipient: HpkePublicKey) -> Wrap:
    """The data key, HPKE-sealed to `recipient` as this asset's."""
    return Wrap(recipient.id, recipient.seal(bytes(data_key), wrap_info(manifest)))


def unwrap_key(wrap: Wrap, manifest: Manifest, key: HpkePrivateKey) -> bytearray:
    """The data key. Raises `IntegrityError` (unseal_failed): another key, or a wrap of another asset."""
    found = bytearray(key.open(wrap.sealed, wrap_info(manifest)))
    if len(found) != KEY:
        raise refuse(UNSEAL_FAILED, "the wrap holds no data key")
    return found
