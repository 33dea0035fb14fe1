"""Tiles (C2SP tlog-tiles): the ledger as static files that any C2SP monitor reads.

A tile holds up to 256 nodes of one level in eight; an entry bundle holds up to 256 leaves. Full ones never change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from perunml.ledger.codes import BAD_TILE
from perunml.ledger.merkle import HASH_SIZE, MAX_SIZE, NodeReader
from perunml.wire.errors import refuse

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
MAX_LEVEL = 6
"""Tile level 6 would hold nodes of 2^48 leaves each: enough for MAX_SIZE."""
MAX_LEAF = 2**16 - 1
"""An entry bundle's length prefix has 16 bits."""
_PATH = re.compile(
    r"tile/(?P<level>entries|[0-6])/(?P<index>(?:x\d{3}/){0,5}\d{3})(?:\.p/(?P<width>[1-9]\d{0,2}))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class TilePath:
    """Which tile: `level` 0 to 6, or None for a bundle of entries; `index` within the level; `width` 1 to 256."""

    level: int | None
    index: int
    width: int = TILE_WIDTH

    def __str__(self) -> str:
        digits = str(self.index)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        parts = [digits[i : i + 3] for i in range(0, len(digits), 3)]
        name = "/".join([*("x" + part for part in parts[:-1]), parts[-1]])
        level = "entries" if self.level is None else str(self.level)
        return f"tile/{level}/{name}" + ("" if self.width == TILE_WIDTH else f".p/{self.width}")


def parse_path(text: str) -> TilePath:
    """The tile that ``tile/<L>/<N>[.p/<W>]`` names. Raises `IntegrityError` (bad_tile) for any other spelling."""
    found = _PATH.fullmatch(text)
    if found:
        level = None if found["level"] == "entries" else int(found["level"])
        made = TilePath(level, int(re.sub(r"[x/]", "", found["index"])), int(found["width"] or TILE_WIDTH))
        if str(made) == text and made.width <= TILE_WIDTH and made.index <= MAX_SIZE >> TILE_HEIGHT:
            return made
    raise refuse(BAD_TILE, "not the path of a tile", seen=text[:100])


def width_at(path: TilePath, size: int) -> int:
    """How many nodes or entries the tile has in a ledger of `size` entries: 0 to 256."""
    count = size >> (TILE_HEIGHT * (path.level or 0))
    return max(0, min(TILE_WIDTH, count - path.index * TILE_WIDTH))


def tile(nodes: NodeReader, path: TilePath, size: int) -> bytes:
    """The tile's bytes, `path.width` hashes of 32. Raises `IntegrityError` (bad_tile) when the ledger of `size` entries
    has not got so many, and `ValueError` for a path of entries."""
    if path.level is None:
        raise ValueError("entries are not nodes")
    if width_at(path, size) < path.width:
        raise refuse(BAD_TILE, "the ledger has not got this tile yet", seen=str(path))
    first = path.index * TILE_WIDTH
    return b"".join(nodes.node(path.level * TILE_HEIGHT, first + i) for i in range(path.width))


def parse_tile(data: bytes, path: TilePath) -> list[bytes]:
    """The hashes of a tile. Raises `IntegrityError` (bad_tile) unless there are exactly `path.width`."""
    if len(data) != path.width * HASH_SIZE:
        raise refuse(
            BAD_TILE, "a tile of a wrong length", expected=f"{path.width * HASH_SIZE} bytes", seen=f"{len(data)} bytes"
        )
    return [data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)]


def bundle(leaves: Sequence[bytes]) -> bytes:
    """An entry bundle: each leaf behind its length as 16 bits, big-endian."""
    if not 1 <= len(leaves) <= TILE_WIDTH or any(len(leaf) > MAX_LEAF for leaf in leaves):
        raise ValueError("a bundle holds 1 to 256 leaves of at most 65535 bytes")
    return b"".join(len(leaf).to_bytes(2) + leaf for leaf in leaves)


def parse_bundle(data: bytes, width: int) -> list[bytes]:
    """The `width` leaves of an entry bundle. Raises `IntegrityError` (bad_tile): fewer, more, or bytes left over."""
    leaves: list[bytes] = []
    at = 0
    while at < len(data) and len(leaves) <= width:
        length = int.from_bytes(data[at : at + 2])
        if at + 2 + length > len(data):
            raise refuse(BAD_TILE, "an entry bundle is cut short")
        leaves.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    if len(leaves) != width:
        raise refuse(BAD_TILE, "an entry bundle of another width", expected=str(width), seen=str(len(leaves)))
    return leaves
