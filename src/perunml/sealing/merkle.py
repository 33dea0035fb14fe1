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


class Windows:
    """Leaves of bytes that come in parts of any sizes: of each `size` bytes, and of what is left at the end."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._done: list[bytes] = []
        self._hash = hashlib.sha256(b"\x00")
        self._filled = 0

    def add(self, part: memoryview) -> None:
        while part:
            some = part[: self._size - self._filled]
            self._hash.update(some)
            self._filled += len(some)
            part = part[len(some) :]
            if self._filled == self._size:
                self._end()

    def leaves(self) -> list[bytes]:
        """All of them; nothing may be added any more."""
        if self._filled:
            self._end()
        return self._done

    def _end(self) -> None:
        self._done.append(self._hash.digest())
        self._hash, self._filled = hashlib.sha256(b"\x00"), 0


def leaf_hash(chunk: bytes | bytearray | memoryview) -> bytes:
    h = hashlib.sha256(b"\x00")
    h.update(chunk)
    return h.digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
