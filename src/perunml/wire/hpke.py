"""Sealing to a key: HPKE (RFC 9180), single-shot, KEM ML-KEM-768 + X25519, HKDF-SHA256, AES-256-GCM.

The hybrid holds as long as one of the two problems is hard. A public key's text is ``hpke:<base64url>`` of the 1,184-byte
ML-KEM-768 encapsulation key followed by the 32-byte X25519 key; the private half is the 64-byte ML-KEM seed and the
32-byte X25519 scalar. `info` says what is sealed for whom and must be the same at both ends, so that a ciphertext is worth nothing
anywhere else.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from perunml.wire.canonical import canonical
from perunml.wire.codes import MALFORMED, UNSEAL_FAILED
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import refuse
from perunml.wire.points import sound_x25519

MLKEM_PUBLIC = 1184
MLKEM_SEED = 64
X25519_SIZE = 32
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True)
class HpkePublicKey:
    """Somebody's receiving key; equal when its text is equal."""

    text: str

    def __post_init__(self) -> None:
        _public(self.text)

    def __str__(self) -> str:
        return self.text

    @property
    def id(self) -> str:
        """A short name: ``hpke-`` and 16 hex digits of the key text's SHA-256. For people and lookups, not for trust."""
        return "hpke-" + hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def seal(self, plaintext: bytes | bytearray, info: dict[str, Any]) -> bytes:
        """`plaintext` sealed to this key under canonical `info`, 1,120 + 16 bytes longer."""
        return _SUITE.encrypt(plaintext, _public(self.text), info=canonical(info))


@functools.lru_cache(maxsize=256)
def _public(text: str) -> MLKEM768X25519PublicKey:
    if not text.startswith("hpke:"):
        raise refuse(MALFORMED, "not a receiving key", expected="hpke:…", seen=text[:40])
    raw = unb64(text[5:], size=MLKEM_PUBLIC + X25519_SIZE)
    try:
        if not sound_x25519(raw[MLKEM_PUBLIC:]):
            raise ValueError
        return MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(raw[:MLKEM_PUBLIC]),
            x25519.X25519PublicKey.from_public_bytes(raw[MLKEM_PUBLIC:]),
        )
    except ValueError:
        raise refuse(MALFORMED, "not a receiving key: a half of it is not a key of its kind") from None


class HpkePrivateKey:
    """A receiving key's private half in memory. `repr` shows the public half's id only."""

    __slots__ = ("_pair", "_secret", "public")

    def __init__(self, secret: bytes) -> None:
        """From `secret`'s 96 bytes: ML-KEM seed, then X25519 scalar. Raises `ValueError` for another length."""
        if len(secret) != MLKEM_SEED + X25519_SIZE:
            raise ValueError("an HPKE private key has 96 bytes")
        kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(secret[:MLKEM_SEED])
        dh = x25519.X25519PrivateKey.from_private_bytes(secret[MLKEM_SEED:])
        self._secret = bytes(secret)
        self._pair = MLKEM768X25519PrivateKey(kem, dh)
        self.public = HpkePublicKey(
            "hpke:" + b64(kem.public_key().public_bytes_raw() + dh.public_key().public_bytes_raw())
        )

    @classmethod
    def generate(cls) -> HpkePrivateKey:
        kem, dh = mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate()
        return cls(kem.private_bytes_raw() + dh.private_bytes_raw())

    def secret(self) -> bytes:
        """The private key's 96 bytes, for sealing under a passphrase. Never logged, never sent."""
        return self._secret

    def open(self, sealed: bytes, info: dict[str, Any]) -> bytes:
        """The plaintext. Raises `IntegrityError` (unseal_failed): sealed to another key, under other `info`, or altered."""
        try:
            return _SUITE.decrypt(sealed, self._pair, info=canonical(info))
        except (InvalidTag, ValueError):
            raise refuse(UNSEAL_FAILED, f"does not open with {self.public.id} in this context") from None

    def __repr__(self) -> str:
        return f"<HpkePrivateKey {self.public.id}>"

    def __reduce__(self) -> str:
        raise TypeError("a private key is not pickled")
