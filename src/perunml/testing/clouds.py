"""Makes Azure's HCL report around a TEE's report, SNP's or a TD report, every field settable."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable

from perunml.evidence.clouds.azure import HARDWARE
from perunml.testing.dcap import TDX_FIELDS
from perunml.wire.encoding import b64

HASHES = {1: "sha256", 2: "sha384", 3: "sha512"}
CAPABILITIES = (7).to_bytes(4, "little")
"""What a paravisor asks of its host in data of version 2."""
TD_INFO = (
    "td_attributes",
    "xfam",
    "mr_td",
    "mr_config_id",
    "mr_owner",
    "mr_owner_config",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
)
"""TDINFO_STRUCT's fields in their order."""
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
    data_version: int = 1,
) -> bytes:
    """The blob. `report` makes a TEE's report over 64 bytes; `told` stands in the blob instead of the `runtime` data that were
    reported; data of version 2 have an extension."""
    data = hashlib.new(HASHES[hash_kind], runtime).digest().ljust(64, b"\0")
    shown = runtime if told is None else told
    extension = CAPABILITIES if data_version == 2 else b""
    size = 20 + len(extension) + len(shown)
    head = struct.pack("<4sIIII12s", signature, version, 32 + HARDWARE + size, 2, 0, bytes(12))
    sizes = struct.pack("<IIIII", size, data_version, kind, hash_kind, len(shown))
    return (head + report(data).ljust(HARDWARE, b"\0") + sizes + extension + shown).ljust(NV_SIZE, b"\0")


def td_report(report_data: bytes, **fields: bytes) -> bytes:
    """TDREPORT_STRUCT of the domain that `testing.dcap` quotes; `fields` are those of `TDX_FIELDS`. Nobody checks its MAC but the
    processor that made it."""
    told = {**TDX_FIELDS, **fields}
    info = b"".join(told[name] for name in TD_INFO).ljust(512, b"\0")
    mac = bytes([0x81]).ljust(128, b"\0") + report_data
    return mac.ljust(512, b"\0") + info
