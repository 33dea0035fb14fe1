"""Reads DER (X.690) for certificates and revocation lists: one-byte tags, definite lengths in their shortest form,
nothing left over. What it is lenient about is written where it is used, not here."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

from perunml.evidence.codes import NON_CANONICAL
from perunml.wire.errors import PerunError, refuse

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
ENUMERATED, UTC_TIME, GENERALIZED_TIME, SEQUENCE, SET = 0x0A, 0x17, 0x18, 0x30, 0x31
MAX_LENGTH_BYTES = 3
"""Of a length: 16 MiB, more than any input that is read."""
MAX_OID = 32
"""Bytes of an object identifier; the longest known in certificates have 14."""
_CENTURY = 50
"""Two-digit years from 50 on are of the 20th century (RFC 5280, 4.1.2.5.1)."""


class Tlv(NamedTuple):
    """A tag, its content, and the bytes of both with the length between."""

    tag: int
    body: bytes
    raw: bytes


def magnitude(integer: bytes) -> bytes:
    """An INTEGER's bytes without leading zeros, for comparing: who wrote one number longer than it need be wrote the same."""
    return integer.lstrip(b"\0")


def is_longer(integer: bytes) -> bool:
    """Whether a zero stands before an INTEGER that is not negative without it, which DER forbids."""
    return integer[:1] == b"\0" and b"" < integer[1:2] < b"\x80"


class Der:
    """A cursor over the content of one structure, named `what` in errors."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._at, self._what = data, 0, what

    def next(self, tag: int) -> Tlv:
        """The next element, which must have this tag. Raises `EvidenceRefusal` (non_canonical), as all here do."""
        found = self.any()
        if found.tag != tag:
            raise self.bad(f"tag {found.tag:02x} where {tag:02x} is due")
        return found

    def optional(self, tag: int) -> Tlv | None:
        """The next element if it has this tag."""
        return self.any() if self.optional_is(tag) else None

    def optional_is(self, tag: int) -> bool:
        """Whether the next element has this tag."""
        return self._at < len(self._data) and self._data[self._at] == tag

    def any(self) -> Tlv:
        """The next element, whatever it is."""
        data, start = self._data, self._at
        if len(data) - start < 2:
            raise self.bad("it ends too early")
        tag, size, at = data[start], data[start + 1], start + 2
        if tag & 0x1F == 0x1F:
            raise self.bad("a tag of several bytes")
        if size >= 0x80:
            count = size & 0x7F
            if not 1 <= count <= MAX_LENGTH_BYTES or len(data) - at < count:
                raise self.bad("a length out of bounds")
            size = int.from_bytes(data[at : at + count])
            if size < 0x80 or size >> 8 * (count - 1) == 0:
                raise self.bad("a length not in its shortest form")
            at += count
        if size > len(data) - at:
            raise self.bad(f"{size} bytes are wanted at offset {at} of {len(data)}")
        self._at = at + size
        return Tlv(tag, data[at : self._at], data[start : self._at])

    def within(self, tag: int) -> Der:
        """A cursor over the content of the next element."""
        return Der(self.next(tag).body, self._what)

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def rest(self) -> bytes:
        """All that was not read yet."""
        found = self._data[self._at :]
        self._at = len(self._data)
        return found

    def end(self) -> None:
        """Nothing may follow."""
        if self.left:
            raise self.bad(f"{self.left} bytes follow its end")

    def bad(self, why: str) -> PerunError:
        return refuse(NON_CANONICAL, f"{self._what} is not of its form: {why}")

    def oid(self) -> str:
        """An object identifier, dotted."""
        body = self.next(OID).body
        if not 1 <= len(body) <= MAX_OID or body[-1] & 0x80:
            raise self.bad("an object identifier that is none")
        arcs, value = [], 0
        for before, byte in zip(b"\0" + body, body, strict=False):
            if byte == 0x80 and not before & 0x80:
                raise self.bad("an object identifier not in its shortest form")
            value = value << 7 | byte & 0x7F
            if not byte & 0x80:
                arcs.append(value)
                value = 0
        first = min(arcs[0] // 40, 2)
        return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))

    def boolean(self) -> bool:
        body = self.next(BOOLEAN).body
        if body not in (b"\0", b"\xff"):
            raise self.bad("a BOOLEAN that is neither 00 nor ff")
        return body == b"\xff"

    def bits(self) -> bytes:
        """A BIT STRING of whole bytes, without its count of unused bits."""
        body = self.next(BIT_STRING).body
        if not body or body[0]:
            raise self.bad("a BIT STRING that is not of whole bytes")
        return body[1:]

    def time(self) -> int:
        """A UTCTime or GeneralizedTime in Zulu, in seconds since 1970 (RFC 5280, 4.1.2.5)."""
        found = self.any()
        text = found.body.decode("ascii", "replace")
        digits = 12 if found.tag == UTC_TIME else 14
        if (
            found.tag not in (UTC_TIME, GENERALIZED_TIME)
            or len(text) != digits + 1
            or not text[:-1].isdigit()
            or text[-1] != "Z"
        ):
            raise self.bad("a time of another form")
        year = text[: digits - 10]
        if found.tag == UTC_TIME:
            year = ("19" if int(year) >= _CENTURY else "20") + year
        parts = [int(text[i : i + 2]) for i in range(digits - 10, digits, 2)]
        try:
            return int(dt.datetime(int(year), *parts, tzinfo=dt.UTC).timestamp())  # type: ignore[arg-type,misc]  # five numbers
        except ValueError:
            raise self.bad("a time that there is not") from None
