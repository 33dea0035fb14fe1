"""A ledger whose leaves are all at hand: its nodes computed once, for tiles, roots of any size and proofs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from perunml.ledger.codes import BAD_TILE
from perunml.ledger.merkle import Tree
from perunml.ledger.tiles import TILE_HEIGHT, TILE_WIDTH, TilePath
from perunml.wire.errors import refuse


class Whole:
    """The complete nodes over `leaves` (their data, not their hashes): a `merkle.NodeReader`."""

    def __init__(self, leaves: Iterable[bytes]) -> None:
        sha = hashlib.sha256
        level = [sha(b"\x00" + leaf).digest() for leaf in leaves]
        self.size = len(level)
        self._levels = [level]
        while len(level) > 1:
            pairs = zip(level[::2], level[1::2], strict=False)
            level = [sha(b"\x01" + left + right).digest() for left, right in pairs]
            self._levels.append(level)

    def node(self, level: int, index: int) -> bytes:
        """Raises `IntegrityError` (bad_tile) for a node that is not complete."""
        if level < len(self._levels) and 0 <= index < len(self._levels[level]):
            return self._levels[level][index]
        raise refuse(BAD_TILE, "a node of the ledger is missing", seen=f"level {level}, index {index}")

    @property
    def tree(self) -> Tree:
        return Tree(self.size, self)


def tile_paths(size: int) -> Iterator[TilePath]:
    """Every tile of hashes of a ledger of `size` entries, the last of each level as wide as it is; none for no entries."""
    level, count = 0, size
    while count:
        for index in range(0, -(-count // TILE_WIDTH)):
            yield TilePath(level, index, min(TILE_WIDTH, count - index * TILE_WIDTH))
        level, count = level + 1, count >> TILE_HEIGHT


def bundle_paths(size: int) -> Iterator[TilePath]:
    """Every bundle of entries of a ledger of `size` entries."""
    for index in range(0, -(-size // TILE_WIDTH)):
        yield TilePath(None, index, min(TILE_WIDTH, size - index * TILE_WIDTH))
