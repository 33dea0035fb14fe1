"""The Merkle tree of RFC 6962 section 2 (RFC 9162 section 2.1), grown leaf by leaf over stored nodes.

A *node* (level, index) is the hash of the complete subtree over leaves ``index * 2**level`` up to, not including,
``(index + 1) * 2**level``; level 0 are the leaf hashes. Complete nodes never change, so whoever stores them only ever adds.
The hash of any range that occurs in a proof is folded from complete nodes in O(log n) reads.

Checking proofs needs no store: it is in `perunml.ledger.proofs`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from perunml.ledger.codes import BAD_TILE
from perunml.wire.errors import refuse

HASH_SIZE = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""RFC 6962 section 2.1: the root of no leaves."""
MAX_SIZE = 2**53 - 1
"""Sizes and indices travel as JSON integers."""

NodeKey = tuple[int, int]
"""(level, index)"""


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256(0x00 || leaf), 32 bytes. The prefix keeps a leaf from passing for an inner node."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Iterable[bytes]) -> bytes:
    """The root over leaves' data (not their hashes), 32 bytes: for whoever holds them all."""
    return Tree(0, MemoryNodes()).append([leaf_hash(leaf) for leaf in leaves]).root


class NodeReader(Protocol):
    """Where complete nodes are stored: a table, tiles, or `MemoryNodes`."""

    def node(self, level: int, index: int) -> bytes:
        """The 32 bytes of a node. Raises `IntegrityError` (bad_tile) when it is not there."""
        ...


class MemoryNodes:
    """Nodes in a dictionary: for tests and for clients that check a whole ledger."""

    def __init__(self, nodes: Mapping[NodeKey, bytes] | None = None) -> None:
        self.nodes: dict[NodeKey, bytes] = dict(nodes or {})

    def node(self, level: int, index: int) -> bytes:
        """Raises `IntegrityError` (bad_tile) for a node that was never added."""
        try:
            return self.nodes[level, index]
        except KeyError:
            raise refuse(BAD_TILE, "a node of the ledger is missing", seen=f"level {level}, index {index}") from None

    def add(self, nodes: Mapping[NodeKey, bytes]) -> None:
        """Take over what an append returned."""
        self.nodes.update(nodes)


@dataclass(frozen=True, slots=True)
class Growth:
    """What an append would make of a tree: store `nodes` and `size` together, or neither. `first` is the index of the
    first leaf added."""

    first: int
    size: int
    root: bytes
    nodes: Mapping[NodeKey, bytes]


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree of `size` leaves over stored nodes. A value: `append` returns what is to be stored and changes nothing, so
    a transaction that rolls back leaves nothing to undo."""

    size: int
    nodes: NodeReader

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_SIZE:
            raise ValueError("tree size out of range")

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` leaves (default: all), 32 bytes."""
        size = self._at(size)
        return self._range(0, size) if size else EMPTY_ROOT

    def append(self, leaf_hashes: Sequence[bytes]) -> Growth:
        """What is to be stored for these leaves, given as `leaf_hash` values: at most 2 new nodes a leaf on average,
        after reading the O(log n) nodes on the tree's right edge."""
        edge = [(level, index, self.nodes.node(level, index)) for level, index in _cover(0, self.size)]
        added: dict[NodeKey, bytes] = {}
        for offset, value in enumerate(leaf_hashes):
            if len(value) != HASH_SIZE:
                raise ValueError("a leaf hash has 32 bytes")
            level, index, current = 0, self.size + offset, value
            added[level, index] = current
            while edge and edge[-1][0] == level:
                _, _, left = edge.pop()
                level, index, current = level + 1, index >> 1, node_hash(left, current)
                added[level, index] = current
            edge.append((level, index, current))
        grown = self.size + len(leaf_hashes)
        if grown > MAX_SIZE:
            raise ValueError("tree size out of range")
        return Growth(self.size, grown, _fold([value for _, _, value in edge]), added)

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """RFC 6962 section 2.1.1: the hashes from leaf `index` to the root over `size` leaves, lowest first."""
        size = self._at(size)
        if not 0 <= index < size:
            raise ValueError("leaf index outside the tree")
        path = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low = middle
        return path[::-1]

    def consistency_proof(self, old: int, size: int | None = None) -> list[bytes]:
        """RFC 6962 section 2.1.2: the hashes that show the tree of `old` leaves inside the tree of `size`; none for an
        empty old tree or for equal sizes."""
        size = self._at(size)
        if not 0 <= old <= size:
            raise ValueError("old size outside the tree")
        if old in (0, size):
            return []
        path = []
        low, high = 0, size
        whole = True  # whether the subtree at hand begins at the old tree's first leaf: its root is then known
        while old != high:
            middle = low + _split(high - low)
            if old <= middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low, whole = middle, False
        if not whole:
            path.append(self._range(low, high))
        return path[::-1]

    def _at(self, size: int | None) -> int:
        if size is None:
            return self.size
        if not 0 <= size <= self.size:
            raise ValueError("size outside the tree")
        return size

    def _range(self, low: int, high: int) -> bytes:
        return _fold([self.nodes.node(level, index) for level, index in _cover(low, high)])


def _split(width: int) -> int:
    """The largest power of two smaller than `width`."""
    return 1 << (width - 1).bit_length() - 1


def _cover(low: int, high: int) -> list[NodeKey]:
    """The complete nodes that cover leaves `low` up to `high`, left to right, for `low` aligned as in RFC 6962's
    recursion: they have falling sizes."""
    keys = []
    while low < high:
        level = (high - low).bit_length() - 1
        keys.append((level, low >> level))
        low += 1 << level
    return keys


def _fold(hashes: Sequence[bytes]) -> bytes:
    """The root over nodes of falling sizes: joined from the right."""
    if not hashes:
        return EMPTY_ROOT
    value = hashes[-1]
    for left in reversed(hashes[:-1]):
        value = node_hash(left, value)
    return value
