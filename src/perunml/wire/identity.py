"""Identities: signing keys as text, ``ed25519:<base64url>`` by default and ``p384:<base64url>`` for HSMs.

A public key's text is its identity: 32 raw bytes for Ed25519, the 49-byte compressed point for P-384. Signatures are
64 bytes for Ed25519 (RFC 8032) and raw r || s, 96 bytes, for P-384 with SHA-384 (as RFC 9421 section 3.3.5 has it), so
each has one encoding.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from perunml.wire.codes import BAD_SIGNATURE, MALFORMED
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import refuse
from perunml.wire.points import sound_ed25519

_P384_WIDTH = 48


class Signer(Protocol):
    """Whoever can sign: a key in memory, or one day an HSM."""

    @property
    def public(self) -> PublicKey: ...

    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A verified-to-be-well-formed public key; equal when its text is equal."""

    text: str

    def __post_init__(self) -> None:
        self._key()

    def __str__(self) -> str:
        return self.text

    @property
    def algorithm(self) -> str:
        return self.text.partition(":")[0]

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raises `IntegrityError` (bad_signature) unless `signature` is this key's over `message`."""
        key = self._key()
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, message)
            else:
                if len(signature) != 2 * _P384_WIDTH:
                    raise InvalidSignature
                r, s = (int.from_bytes(part) for part in (signature[:_P384_WIDTH], signature[_P384_WIDTH:]))
                key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature:
            raise refuse(BAD_SIGNATURE, f"signature does not verify under {self.text}") from None

    def _key(self) -> ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey:
        return _public(self.text)


@functools.lru_cache(maxsize=1024)
def _public(text: str) -> ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey:
    algorithm, _, data = text.partition(":")
    try:
        if algorithm == "ed25519":
            raw = unb64(data, size=32)
            if not sound_ed25519(raw):
                raise ValueError
            return ed25519.Ed25519PublicKey.from_public_bytes(raw)
        if algorithm == "p384":
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), unb64(data, size=_P384_WIDTH + 1))
    except ValueError:
        raise refuse(MALFORMED, "not a point of the curve that can be a key", seen=text) from None
    raise refuse(MALFORMED, "not a public key", expected="ed25519:… or p384:…", seen=text[:80])


class SigningKey:
    """A private signing key in memory. `repr` shows the public half only."""

    __slots__ = ("_private", "public")

    def __init__(self, private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self._private = private
        if isinstance(private, ed25519.Ed25519PrivateKey):
            text = "ed25519:" + b64(private.public_key().public_bytes_raw())
        else:
            if not isinstance(private.curve, ec.SECP384R1):
                raise ValueError("EC signing keys are P-384")
            point = private.public_key().public_bytes(
                serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
            )
            text = "p384:" + b64(point)
        self.public = PublicKey(text)

    @classmethod
    def generate(cls, algorithm: str = "ed25519") -> SigningKey:
        if algorithm == "ed25519":
            return cls(ed25519.Ed25519PrivateKey.generate())
        if algorithm == "p384":
            return cls(ec.generate_private_key(ec.SECP384R1()))
        raise ValueError(f"no such algorithm: {algorithm}")

    @classmethod
    def from_secret(cls, secret: bytes) -> SigningKey:
        """From `secret()`'s bytes: the 32-byte Ed25519 seed, or the PKCS#8 DER of a P-384 key."""
        if len(secret) == 32:
            return cls(ed25519.Ed25519PrivateKey.from_private_bytes(secret))
        key = serialization.load_der_private_key(secret, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("not a P-384 key")
        return cls(key)

    def secret(self) -> bytes:
        """The private key's bytes, for sealing under a passphrase. Never logged, never sent."""
        if isinstance(self._private, ed25519.Ed25519PrivateKey):
            return self._private.private_bytes_raw()
        return self._private.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, message: bytes) -> bytes:
        if isinstance(self._private, ed25519.Ed25519PrivateKey):
            return self._private.sign(message)
        r, s = decode_dss_signature(self._private.sign(message, ec.ECDSA(hashes.SHA384())))
        return r.to_bytes(_P384_WIDTH) + s.to_bytes(_P384_WIDTH)

    def __repr__(self) -> str:
        return f"<SigningKey {self.public.text}>"

    def __reduce__(self) -> str:
        raise TypeError("a signing key is not pickled")
