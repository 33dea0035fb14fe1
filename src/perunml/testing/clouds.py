"""Makes Azure's HCL report around a TEE's report, every field settable."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable

from perunml.evidence.clouds.azure import HARDWARE
from perunml.wire.encoding import b64

HASHES = {1: "sha256", 2: "sha384", 3: "sha512"}
NV_SIZE = 2600
"""Bytes of the NV index, as Azure defines it."""


def runtime_data(modulus: int, exponent: int = 65537, *, kid: str = "HCLAkPub") -> bytes:
    """Runtime data that name an RSA attestation key."""
    n, e = (b64(value.to_bytes((value.bit_length() + 7) // 8)) for value in (modulus, exponent))
    key = {"kid": kid, "key_ops": ["sign"], "kty": "RSA", "e": e, "n": n}
    return json.dumps({"keys": [key], "vm-configuration": {"secure-boot": True}, "user-data": "00" * 64}).encode()


def hcl_report(
    report: Callable[[bytes], bytes],
    runtime: bytes,
    *,
    kind: int = 2,
    hash_kind: int = 1,
    told: bytes | None = None,
    version: int = 1,
    signature: bytes = b"HCLA",
) -> bytes:
    """The blob. `report` makes a TEE's report over 64 bytes; `told` stands in the blob instead of the `runtime` data that were
    reported."""
    data = hashlib.new(HASHES[hash_kind], runtime).digest().ljust(64, b"\0")
    shown = runtime if told is None else told
    head = struct.pack("<4sIIII12s", signature, version, 32 + HARDWARE + 20 + len(shown), 2, 0, bytes(12))
    made = (
        head
        + report(data).ljust(HARDWARE, b"\0")
        + struct.pack("<IIIII", 20 + len(shown), 1, kind, hash_kind, len(shown))
    )
    return (made + shown).ljust(NV_SIZE, b"\0")
