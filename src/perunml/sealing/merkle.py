"""The Merkle tree over ciphertext chunks, streaming (RFC 6962 section 2.1; RFC 9162 section 2.1.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


class RootHasher:
    """Feed chunks in order, then ask for the root. Holds one hash for each level: constant memory."""

    def __init__(self) -> None:
        self._stack: list[tuple[int, bytes]] = []  # (leaves below, hash), sizes are falling powers of two

    def add(self, chunk: bytes | bytearray | memoryview) -> None:
        self.add_leaf(leaf_hash(chunk))

    def add_leaf(self, leaf: bytes) -> None:
        size, node = 1, leaf
        while self._stack and self._stack[-1][0] == size:
            _, left = self._stack.pop()
            size, node = size * 2, _node(left, node)
        self._stack.append((size, node))

    def add_leaves(self, leaves: Iterable[bytes]) -> None:
        for leaf in leaves:
            self.add_leaf(leaf)

    def root(self) -> bytes:
        """32 bytes; SHA-256 of nothing for an empty tree."""
        if not self._stack:
            return hashlib.sha256(b"").digest()
        _, node = self._stack[-1]
        for _, left in reversed(self._stack[:-1]):
            node = _node(left, node)
        return node


def leaf_hash(chunk: bytes | bytearray | memoryview) -> bytes:
    h = hashlib.sha256(b"\x00")
    h.update(chunk)
    return h.digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
