"""Writes IMA log lines as the kernel does (security/integrity/ima/ima_template_lib.c): for machines whose kernel keeps
none, and for the forge."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from perunml.evidence.ima.parse import TEMPLATES

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
    more: Sequence[bytes] = (),
) -> ImaLine:
    """One line. `template_hash` puts another value into that column than the data's; `more` are the fields after digest and
    path, left empty where the template has such. The template `ima` takes the digest's first 20 bytes for a SHA-1."""
    name = template.encode()
    if template == "ima":
        digest = digest[:20].ljust(20, b"\0")
        data, written = digest + path.ljust(256, b"\0"), digest + _sized(path)
    else:
        kind = b"ima:" if template.endswith("v2") else b""
        empty = [b""] * (len(TEMPLATES.get(name, (b"", b""))) - 2 - len(more))
        data = b"".join(map(_sized, [kind + algorithm.encode() + b":\0" + digest, path + b"\0", *more, *empty]))
        written = _sized(data)
    column = _VIOLATION if violation else hashlib.sha1(data, usedforsecurity=False).digest()
    column = column if template_hash is None else template_hash
    return ImaLine(struct.pack("<I", pcr) + column + _sized(name) + written, data, violation)


def buffer_line(name: bytes, content: bytes, *, algorithm: str = "sha256") -> ImaLine:
    """A line of the template ima-buf: a key that enters a keyring (its name), a policy, a command line for kexec."""
    return ima_line(
        name, hashlib.new(algorithm, content).digest(), algorithm=algorithm, template="ima-buf", more=[content]
    )


def _sized(field: bytes) -> bytes:
    return struct.pack("<I", len(field)) + field


def boot_aggregate(values: list[bytes], bank: str = "sha256", *, template: str = "ima-ng") -> ImaLine:
    """The first line, from the bank's PCRs 0 to 9."""
    digest = hashlib.new(bank, b"".join(values[:10])).digest()
    return ima_line(BOOT_AGGREGATE, digest, algorithm=bank, template=template)
