"""Writes TPM structures as a TPM would (TPM 2.0 Library part 2), right by default and wrong where a caller says so."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from perunml.evidence.tpm.algorithms import (
    AES,
    CFB,
    CURVE_IDS,
    CURVE_WIDTHS,
    ECC,
    HASH_IDS,
    NULL,
    RSA,
)
from perunml.evidence.tpm.attest import ST_ATTEST_QUOTE, TPM_GENERATED
from perunml.evidence.tpm.keys import (
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    USER_WITH_AUTH,
)

AK_ATTRIBUTES = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | RESTRICTED | SIGN
EK_ATTRIBUTES = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | 1 << 7 | RESTRICTED | DECRYPT
EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def sized(data: bytes) -> bytes:
    """A TPM2B: 16-bit length and bytes."""
    return len(data).to_bytes(2) + data


def curve_of(key: ec.EllipticCurvePrivateKey) -> str:
    return {256: "p256", 384: "p384", 521: "p521"}[key.curve.key_size]


def public_area(
    key: Private,
    *,
    attributes: int,
    policy: bytes = b"",
    scheme: tuple[int, str] | None = None,
    storage: bool = False,
    aes: int = 128,
    name_hash: str = "sha256",
    exponent: int = 0,
) -> bytes:
    """TPMT_PUBLIC; `storage` gives AES-CFB (of `aes` bits) as parents and EKs have it."""
    symmetric = struct.pack(">HHH", AES, aes, CFB) if storage else NULL.to_bytes(2)
    signing = NULL.to_bytes(2) if scheme is None else struct.pack(">HH", scheme[0], HASH_IDS[scheme[1]])
    kind = RSA if isinstance(key, rsa.RSAPrivateKey) else ECC
    out = struct.pack(">HHI", kind, HASH_IDS[name_hash], attributes) + sized(policy) + symmetric + signing
    if isinstance(key, rsa.RSAPrivateKey):
        modulus = key.public_key().public_numbers().n
        return out + struct.pack(">HI", key.key_size, exponent) + sized(modulus.to_bytes(key.key_size // 8))
    curve, point = curve_of(key), key.public_key().public_numbers()
    width = CURVE_WIDTHS[curve]
    return (
        out
        + struct.pack(">HH", CURVE_IDS[curve], NULL)
        + sized(point.x.to_bytes(width))
        + sized(point.y.to_bytes(width))
    )


def bitmap(indices: Sequence[int], size: int = 3) -> bytes:
    """A PCR bitmap with its length before it."""
    return bytes([size]) + sum(1 << i for i in indices).to_bytes(max(size, 3), "little")[:size]


def selection(banks: Sequence[tuple[str, Sequence[int]]]) -> bytes:
    """TPML_PCR_SELECTION."""
    chosen = [HASH_IDS[bank].to_bytes(2) + bitmap(indices) for bank, indices in banks]
    return len(chosen).to_bytes(4) + b"".join(chosen)


def attest(
    *,
    signer: bytes,
    extra_data: bytes,
    clock: tuple[int, int, int, int],
    firmware: int,
    selected: bytes,
    pcr_digest: bytes,
    magic: int = TPM_GENERATED,
    kind: int = ST_ATTEST_QUOTE,
    trailing: bytes = b"",
) -> bytes:
    """TPMS_ATTEST; `clock` is (clock in ms, resetCount, restartCount, safe), `selected` a TPML_PCR_SELECTION."""
    return (
        struct.pack(">IH", magic, kind)
        + sized(signer)
        + sized(extra_data)
        + struct.pack(">QIIBQ", *clock, firmware)
        + selected
        + sized(pcr_digest)
        + trailing
    )
