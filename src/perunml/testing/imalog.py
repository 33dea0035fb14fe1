"""Writes IMA log lines as the kernel does (security/integrity/ima/ima_template_lib.c): for machines whose kernel keeps
none, and for the forge."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

BOOT_AGGREGATE = b"boot_aggregate"
_VIOLATION = bytes(20)


@dataclass(frozen=True, slots=True)
class ImaLine:
    """`encoded` as it stands in binary_runtime_measurements, `data` what the template hash covers."""

    encoded: bytes
    data: bytes
    violation: bool = False

    def extend_value(self, bank: str) -> bytes:
        """What the kernel extends into PCR 10 of a bank."""
        digest = hashlib.new(bank, self.data).digest()
        return b"\xff" * len(digest) if self.violation else digest


def ima_line(
    path: bytes,
    digest: bytes,
    *,
    algorithm: str = "sha256",
    template: str = "ima-ng",
    pcr: int = 10,
    violation: bool = False,
    template_hash: bytes | None = None,
) -> ImaLine:
    """One line. `template_hash` puts another value into that column than the data's."""
    kind = b"ima:" if template.endswith("v2") else b""
    fields = [kind + algorithm.encode() + b":\0" + digest, path + b"\0"]
    if template.startswith("ima-sig"):
        fields.append(b"")
    data = b"".join(struct.pack("<I", len(field)) + field for field in fields)
    column = _VIOLATION if violation else hashlib.sha1(data, usedforsecurity=False).digest()
    name = template.encode()
    encoded = (
        struct.pack("<I", pcr)
        + (column if template_hash is None else template_hash)
        + struct.pack("<I", len(name))
        + name
        + struct.pack("<I", len(data))
        + data
    )
    return ImaLine(encoded, data, violation)


def boot_aggregate(values: list[bytes], bank: str = "sha256", *, template: str = "ima-ng") -> ImaLine:
    """The first line, from the bank's PCRs 0 to 9."""
    digest = hashlib.new(bank, b"".join(values[:10])).digest()
    return ima_line(BOOT_AGGREGATE, digest, algorithm=bank, template=template)
