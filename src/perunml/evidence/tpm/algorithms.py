"""TPM algorithm identifiers (TCG Algorithm Registry) that are read, by Perun's names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes

RSA, ECC, NULL = 0x0001, 0x0023, 0x0010
AES, CFB = 0x0006, 0x0043
RSASSA, RSAPSS, ECDSA, ECDAA = 0x0014, 0x0016, 0x0018, 0x001A

HASHES = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
HASH_IDS = {name: number for number, name in HASHES.items()}
SIGNING_HASHES = ("sha256", "sha384", "sha512")
"""Hashes accepted in names and signatures."""
DIGEST: dict[str, Callable[[bytes], Any]] = {
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
}
CRYPTOGRAPHY: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}

CURVES = {0x0003: "p256", 0x0004: "p384", 0x0005: "p521"}
CURVE_IDS = {name: number for number, name in CURVES.items()}
CURVE_WIDTHS = {"p256": 32, "p384": 48, "p521": 66}
SIGNING_CURVES = ("p256", "p384")
"""Of attestation keys; P-521 is for EKs (template H-4)."""
CURVE_ORDERS = {
    "p256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "p384": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
}
"""FIPS 186-5 / SP 800-186, order n of the base point."""
