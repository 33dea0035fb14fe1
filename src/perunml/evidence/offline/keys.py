"""The keys that an auditor holds in files: the attestation key, and what an EK certificate's key is as a TPM object.

A certificate holds a bare key; a quote names its signer by TPM names, which hash whole public areas. The TCG's templates
fix everything in an EK's public area but the key, so the area, and with it the name, follows from the certificate.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from perunml.evidence.codes import NON_CANONICAL, WEAK_SCHEME
from perunml.evidence.tpm.algorithms import (
    AES,
    CFB,
    CURVE_IDS,
    CURVE_WIDTHS,
    ECC,
    ECDSA,
    HASH_IDS,
    NULL,
    RSA,
    RSAPSS,
    RSASSA,
)
from perunml.evidence.tpm.keys import AttestationKey, check_ak
from perunml.evidence.tpm.public import PublicArea
from perunml.evidence.tpm.signature import Signature
from perunml.evidence.tpm.template import STANDARD
from perunml.wire.errors import refuse

MAX_PUBLIC = 4096
"""Bytes of a TPM2B_PUBLIC (RSA-4096: some 600) or of a PEM file."""

_CURVES: dict[str, str] = {"secp256r1": "p256", "secp384r1": "p384", "secp521r1": "p521"}
_SCHEMES = {RSA: (RSASSA, RSAPSS), ECC: (ECDSA,)}
_AK_ATTRIBUTES = (0x00050072, 0x00050472)
"""fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign; the second with noDA too."""
_Key = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


def read_ak(data: bytes, signature: Signature | None) -> tuple[AttestationKey, bool]:
    """The attestation key in a TPM2B_PUBLIC or a PEM file, and whether its attributes are known: a PEM file holds the bare
    key, so its attributes are the word of whoever gave it, and its scheme is the `signature`'s.

    Raises `EvidenceRefusal`: ak_attributes, weak_scheme, non_canonical.
    """
    if len(data) > MAX_PUBLIC:
        raise refuse(NON_CANONICAL, "the attestation key is too long", expected=f"{MAX_PUBLIC} bytes")
    if not data.lstrip().startswith(b"-----BEGIN"):
        return check_ak(data), True
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise refuse(NON_CANONICAL, "the attestation key is not a public key in PEM") from None
    area = bare_area(key, signature)
    if signature is not None and signature.scheme not in _SCHEMES[area.kind]:
        raise refuse(WEAK_SCHEME, "the signature is of another kind of key", seen=f"{signature.scheme:04x}")
    area.key()
    return AttestationKey(b"", area), False


def possible_aks(ak: AttestationKey) -> tuple[AttestationKey, ...]:
    """The keys with names that a bare key may be in a TPM, by the templates in use; a quote's signer tells which it is."""
    area, width = ak.public, len(ak.public.unique[0])
    scheme = _u16(area.scheme[0]) + _u16(HASH_IDS[area.scheme[1]]) if area.scheme is not None else _u16(NULL)
    if area.kind == RSA:
        tail = _u16(NULL) + scheme + _u16(width * 8) + bytes(4) + _sized(area.unique[0])
    else:
        tail = _u16(NULL) + scheme + _u16(CURVE_IDS[area.curve]) + _u16(NULL) + b"".join(map(_sized, area.unique))
    heads = (_u16(area.kind) + _u16(HASH_IDS["sha256"]) + found.to_bytes(4) + _sized(b"") for found in _AK_ATTRIBUTES)
    return tuple(check_ak(_sized(head + tail)) for head in heads)


def bare_area(key: object, signature: Signature | None) -> PublicArea:
    """A bare key in the shape of a public area that has no name. Raises `EvidenceRefusal` (weak_scheme)."""
    scheme = (signature.scheme, signature.hash) if signature is not None else None
    if isinstance(key, rsa.RSAPublicKey):
        found = key.public_numbers()
        modulus = found.n.to_bytes((found.n.bit_length() + 7) // 8)
        return PublicArea(b"", RSA, "sha256", 0, b"", None, scheme, key.key_size, found.e, "", (modulus,))
    curve = _CURVES.get(key.curve.name) if isinstance(key, ec.EllipticCurvePublicKey) else None
    if not isinstance(key, ec.EllipticCurvePublicKey) or curve not in ("p256", "p384"):
        raise refuse(WEAK_SCHEME, "key type is not accepted", expected="RSA, P-256 or P-384")
    return PublicArea(b"", ECC, "sha256", 0, b"", None, scheme, 0, 0, curve, _point(key, curve))


def standard_publics(key: object) -> tuple[bytes, ...]:
    """The TPM2B_PUBLICs that an EK with this key has under the standard templates for its type; none for others."""
    if isinstance(key, rsa.RSAPublicKey) and key.public_numbers().e == 65537:
        kind, name = RSA, f"rsa{key.key_size}"
    elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        kind, name = ECC, _CURVES[key.curve.name]
    else:
        return ()
    made = []
    for (of, name_hash, bits), templates in STANDARD.items():
        if of != name:
            continue
        for attributes, policy in templates:
            head = _u16(kind) + _u16(HASH_IDS[name_hash]) + attributes.to_bytes(4) + _sized(policy)
            area = head + _u16(AES) + _u16(bits) + _u16(CFB) + _u16(NULL) + _unique(key, name)
            made.append(_sized(area))
    return tuple(made)


def _unique(key: _Key, name: str) -> bytes:
    if isinstance(key, rsa.RSAPublicKey):  # exponent 0 stands for 65537
        modulus = key.public_numbers().n.to_bytes(key.key_size // 8)
        return _u16(key.key_size) + bytes(4) + _sized(modulus)
    x, y = _point(key, name)
    return _u16(CURVE_IDS[name]) + _u16(NULL) + _sized(x) + _sized(y)


def _point(key: ec.EllipticCurvePublicKey, curve: str) -> tuple[bytes, bytes]:
    found, width = key.public_numbers(), CURVE_WIDTHS[curve]
    return found.x.to_bytes(width), found.y.to_bytes(width)


def _u16(value: int) -> bytes:
    return value.to_bytes(2)


def _sized(data: bytes) -> bytes:
    return _u16(len(data)) + data
