"""Parses TPMT_SIGNATURE (TPM 2.0 Library part 2, 11.3.4) and verifies it."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from perunml.evidence.codes import NON_CANONICAL, QUOTE_SIGNATURE, WEAK_SCHEME
from perunml.evidence.tpm.algorithms import (
    CRYPTOGRAPHY,
    CURVE_ORDERS,
    CURVE_WIDTHS,
    ECDSA,
    HASHES,
    RSAPSS,
    RSASSA,
    SIGNING_HASHES,
)
from perunml.evidence.tpm.public import PublicArea
from perunml.evidence.tpm.reader import Reader
from perunml.wire.errors import PerunError, refuse

MAX_RSA = 512
"""Bytes of an RSA-4096 signature."""
MAX_ECC = 48
"""Bytes of a P-384 scalar."""


@dataclass(frozen=True, slots=True)
class Signature:
    """`scheme` is RSASSA, RSAPSS or ECDSA; `parts` the RSA signature alone, or r and s."""

    scheme: int
    hash: str
    parts: tuple[bytes, ...]


def parse_signature(data: bytes) -> Signature:
    """Raises `EvidenceRefusal`: weak_scheme for any other scheme or hash, non_canonical."""
    reader = Reader(data, "TPMT_SIGNATURE")
    scheme = reader.u16()
    if scheme not in (RSASSA, RSAPSS, ECDSA):
        raise refuse(
            WEAK_SCHEME, "signature scheme is not accepted", expected="RSASSA, RSAPSS or ECDSA", seen=f"{scheme:04x}"
        )
    number = reader.u16()
    hash_name = HASHES.get(number, f"{number:04x}")
    if hash_name not in SIGNING_HASHES:
        raise refuse(WEAK_SCHEME, "signature hash is not accepted", expected=", ".join(SIGNING_HASHES), seen=hash_name)
    if scheme == ECDSA:
        parts: tuple[bytes, ...] = (reader.sized(MAX_ECC), reader.sized(MAX_ECC))
    else:
        parts = (reader.sized(MAX_RSA),)
    reader.end()
    return Signature(scheme, hash_name, parts)


def verify_signature(signature: Signature, public: PublicArea, message: bytes) -> None:
    """Raises `EvidenceRefusal`: weak_scheme when the signature is not of the key's own scheme and hash, non_canonical
    for numbers of a wrong width or range, quote_signature when it does not verify."""
    if (signature.scheme, signature.hash) != public.scheme:
        raise refuse(
            WEAK_SCHEME,
            "the signature is not of its key's scheme",
            expected=_scheme(public.scheme),
            seen=_scheme((signature.scheme, signature.hash)),
        )
    algorithm = CRYPTOGRAPHY[signature.hash]
    key = public.key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            if len(signature.parts[0]) * 8 != key.key_size:
                raise _width("an RSA signature", key.key_size // 8, len(signature.parts[0]))
            pad = (
                padding.PKCS1v15()
                if signature.scheme == RSASSA
                else padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
            )
            key.verify(signature.parts[0], message, pad, algorithm)
        else:
            key.verify(_der(signature.parts, public.curve), message, ec.ECDSA(algorithm))
    except InvalidSignature:
        raise refuse(QUOTE_SIGNATURE, "the quote's signature does not verify under the enrolled key") from None


def _der(parts: tuple[bytes, ...], curve: str) -> bytes:
    width, order = CURVE_WIDTHS[curve], CURVE_ORDERS[curve]
    for part in parts:
        if len(part) != width:
            raise _width("r and s", width, len(part))
        if not 0 < int.from_bytes(part) < order:
            raise refuse(NON_CANONICAL, "r or s is out of range", expected="1 to n-1")
    return encode_dss_signature(int.from_bytes(parts[0]), int.from_bytes(parts[1]))


def _width(what: str, expected: int, seen: int) -> PerunError:
    return refuse(NON_CANONICAL, f"{what} of a wrong width", expected=f"{expected} bytes", seen=f"{seen} bytes")


def _scheme(scheme: tuple[int, str] | None) -> str:
    return "none" if scheme is None else f"{scheme[0]:04x} with {scheme[1]}"
