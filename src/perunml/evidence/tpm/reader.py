"""Reads TPM structures: big-endian, every length looked at before it is used, nothing left over at the end."""

from __future__ import annotations

from struct import Struct
from typing import Any

from perunml.evidence.codes import NON_CANONICAL
from perunml.wire.errors import PerunError, refuse


class Reader:
    """A cursor over one structure named `what` in errors."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = bytes(data)
        self._at = 0
        self._what = what

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size > len(self._data) - self._at:
            raise self.bad(f"{size} bytes are wanted at offset {self._at} of {len(self._data)}")
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def unpack(self, form: Struct) -> tuple[Any, ...]:
        """The next fields of a fixed form, big-endian."""
        at = self._at
        if form.size > len(self._data) - at:
            raise self.bad(f"{form.size} bytes are wanted at offset {at} of {len(self._data)}")
        self._at = at + form.size
        return form.unpack_from(self._data, at)

    def u16(self) -> int:
        return int.from_bytes(self.take(2))

    def u32(self) -> int:
        return int.from_bytes(self.take(4))

    def sized(self, limit: int) -> bytes:
        """A TPM2B: a 16-bit length of at most `limit`, then the bytes."""
        size = self.u16()
        if size > limit:
            raise self.bad(f"a length of {size}, at most {limit} is possible")
        return self.take(size)

    def end(self) -> None:
        """Nothing may follow."""
        if left := len(self._data) - self._at:
            raise self.bad(f"{left} bytes follow its end")

    def bad(self, why: str) -> PerunError:
        return refuse(NON_CANONICAL, f"{self._what} is not of its form: {why}")
