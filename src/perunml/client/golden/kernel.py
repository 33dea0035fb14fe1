"""The certificates that a kernel brings with it: IMA measures each when it enters the keyring .builtin_trusted_keys.

They lie in the kernel's compressed payload (Linux, Documentation/arch/x86/boot.rst: payload_offset, payload_length).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zlib
from collections.abc import Iterator

from perunml.client.golden.pe import odd

MAX_KERNEL = 256 * 1024 * 1024
"""Bytes of a kernel, unpacked."""
MAX_CERTIFICATE = 4096
"""Bytes of a certificate (DER): an RSA-4096 one has some 1,300."""
TIMEOUT = 120
_TOOLS = {b"\x02\x21\x4c\x18": ("lz4", "lz4"), b"\xfd7zX": ("xz", "xz-utils"), b"\x28\xb5\x2f\xfd": ("zstd", "zstd")}
"""By the payload's first four bytes: the program that unpacks it, and its Debian package."""


def builtin_keys(kernel: bytes) -> tuple[str, ...]:
    """``sha256:`` of each certificate (DER) in a bzImage. Raises `UsageError` (image_odd)."""
    found = sorted({"sha256:" + hashlib.sha256(one).hexdigest() for one in _certificates(_unpacked(kernel))})
    if not found:
        raise odd("the kernel brings no certificate", expected="a kernel that trusts the keys of its modules")
    return tuple(found)


def _unpacked(kernel: bytes) -> bytes:
    if kernel[0x202:0x206] != b"HdrS":
        raise odd("the section .linux holds no bzImage")
    setup = (kernel[0x1F1] or 4) + 1
    at = setup * 512 + int.from_bytes(kernel[0x248:0x24C], "little")
    payload = kernel[at : at + int.from_bytes(kernel[0x24C:0x250], "little")]
    if payload[:2] == b"\x1f\x8b":
        return zlib.decompressobj(31).decompress(payload, MAX_KERNEL)
    tool, package = _TOOLS.get(payload[:4], ("", ""))
    program = shutil.which(tool) if tool else None
    if program is None:
        expected = f"the program {tool} (Debian: {package})" if tool else "gzip, LZ4, xz or Zstandard"
        raise odd("the kernel cannot be unpacked here", expected=expected, seen=payload[:4].hex())
    # the payload's last four bytes are its unpacked size, which is no part of the compressed stream
    done = subprocess.run([program, "-dc"], input=payload[:-4], capture_output=True, timeout=TIMEOUT, check=False)
    if not done.stdout or len(done.stdout) > MAX_KERNEL:
        raise odd("the kernel does not unpack", seen=done.stderr.decode(errors="replace")[:200])
    return done.stdout


def _certificates(data: bytes) -> Iterator[bytes]:
    from cryptography import x509

    at = data.find(b"\x30\x82")
    while at >= 0:
        size = int.from_bytes(data[at + 2 : at + 4]) + 4
        # a certificate begins with another sequence, the version [0], and its number
        if (
            size <= MAX_CERTIFICATE
            and data[at + 4 : at + 6] == b"\x30\x82"
            and data[at + 8 : at + 11] == b"\xa0\x03\x02"
        ):
            try:
                x509.load_der_x509_certificate(data[at : at + size])
            except ValueError:
                pass
            else:
                yield data[at : at + size]
        at = data.find(b"\x30\x82", at + 1)
