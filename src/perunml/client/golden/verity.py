"""dm-verity's root hash of a root image, computed anew.

Linux, Documentation/admin-guide/device-mapper/verity.rst: hash type 1, SHA-256, no salt, blocks of 4 KiB, no superblock.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from perunml.client.baselines.listing import Progress
from perunml.client.golden.pe import odd

BLOCK = 4096
_READ = 1024
"""Blocks read at once."""


def root_hash(image: Path, blocks: int, progress: Progress = lambda done, total: None) -> str:
    """The root hash, in hex, of the first `blocks` blocks of a file. What follows them, the tree itself, is not looked at: the
    kernel believes of it only what leads to this hash. Raises `UsageError` (image_odd)."""
    digests = bytearray()
    with image.open("rb") as file:
        for at in range(0, blocks, _READ):
            part = file.read(min(_READ, blocks - at) * BLOCK)
            if len(part) != min(_READ, blocks - at) * BLOCK:
                raise odd("the root image is shorter than its command line says", seen=str(image))
            for offset in range(0, len(part), BLOCK):
                digests += hashlib.sha256(part[offset : offset + BLOCK]).digest()
            progress(min(at + _READ, blocks) * BLOCK, blocks * BLOCK)
    while len(digests) > 32:
        level = bytes(digests) + bytes(-len(digests) % BLOCK)
        digests = bytearray()
        for offset in range(0, len(level), BLOCK):
            digests += hashlib.sha256(level[offset : offset + BLOCK]).digest()
    if blocks <= 1:
        raise odd("the root image has no blocks")
    return digests.hex()
