"""Reads an NVIDIA attestation report: an SPDM 1.1 GET_MEASUREMENTS request and the MEASUREMENTS response to it (DMTF DSP0274
1.1.0, 10.11), one behind the other, as the driver hands them out.

All of it but the last 96 bytes is what the device signs. What it says is only worth something once `verify` has run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.parts import MAX_REPORT
from perunml.wire.errors import PerunError, refuse

SPDM_VERSION = 0x11
GET_MEASUREMENTS, MEASUREMENTS = 0xE0, 0x60
SIGNED, ALL_BLOCKS = 0x01, 0xFF
"""Param1 and Param2 of the request: a signature is wanted, over all measurements."""
SLOT = 0
"""The only certificate slot that these devices fill."""
NONCE_SIZE = 32
REQUEST_SIZE = 4 + NONCE_SIZE + 1
SIGNATURE_SIZE = 96
"""Bytes: r and s on P-384, big-endian."""
DMTF = 0x01
"""MeasurementSpecification: the only one there is (DSP0274, table 22)."""
RAW = 0x80
"""Bit of a measurement's type that says: not a digest, but the bytes themselves."""
INVALID_FIELDS = frozenset({0, 255})
"""Types of opaque fields that are none."""


@dataclass(frozen=True, slots=True)
class Spdm:
    """One exchange, as read.

    nonce         the requester's, 32 bytes
    measurements  block index (from 1) -> digest; blocks of raw bytes are read over, so nothing is ever equal to one
    fields        type of an opaque field -> its bytes; only those of `fields` are known by name
    signed        what the signature covers: request and response without the signature
    signature     r and s, 48 bytes each
    """

    nonce: bytes
    measurements: Mapping[int, bytes]
    fields: Mapping[int, bytes]
    signed: bytes
    signature: bytes


def parse_report(data: bytes) -> Spdm:
    """Raises `EvidenceRefusal` (non_canonical) unless the bytes are exactly one request and its signed response."""
    if len(data) > MAX_REPORT:
        raise _bad(f"{len(data)} bytes, at most {MAX_REPORT} are possible")
    reader = _Reader(data)
    nonce = _request(reader)
    reader.expect(bytes((SPDM_VERSION, MEASUREMENTS, 0, SLOT)), "the response's header")
    blocks = reader.number(1)
    record = reader.take(reader.number(3))
    reader.take(NONCE_SIZE)  # the responder's own
    opaque = reader.take(reader.number(2))
    signed = data[: reader.at]
    signature = reader.take(SIGNATURE_SIZE)
    reader.end()
    return Spdm(
        nonce,
        MappingProxyType(_measurements(record, blocks)),
        MappingProxyType(_fields(opaque)),
        bytes(signed),
        signature,
    )


def _request(reader: _Reader) -> bytes:
    reader.expect(bytes((SPDM_VERSION, GET_MEASUREMENTS, SIGNED, ALL_BLOCKS)), "the request's header")
    nonce = reader.take(NONCE_SIZE)
    reader.expect(bytes((SLOT,)), "the request's slot")
    return nonce


def _measurements(record: bytes, blocks: int) -> dict[int, bytes]:
    """The measurement blocks, in ascending order of their indices (DSP0274, table 23 and 24)."""
    reader, found, last = _Reader(record), dict[int, bytes](), 0
    for _ in range(blocks):
        index = reader.number(1)
        if index <= last:
            raise _bad(f"measurement {index} follows measurement {last}")
        last = index
        reader.expect(bytes((DMTF,)), f"measurement {index}'s specification")
        block = _Reader(reader.take(reader.number(2)))
        kind = block.number(1)
        value = block.take(block.number(2))
        block.end()
        if not value:
            raise _bad(f"measurement {index} is empty")
        if not kind & RAW:
            found[index] = value
    reader.end()
    if not found:
        raise _bad("there are no digests")
    return found


def _fields(opaque: bytes) -> dict[int, bytes]:
    """NVIDIA's opaque data: type and size, 16 bits each, little-endian, then the value."""
    reader, found = _Reader(opaque), dict[int, bytes]()
    while not reader.done:
        kind = reader.number(2)
        if kind in INVALID_FIELDS or kind in found:
            raise _bad(f"opaque field {kind} is none, or comes twice")
        found[kind] = reader.take(reader.number(2))
    return found


class _Reader:
    """A cursor: little-endian, every length looked at before it is used."""

    __slots__ = ("_data", "at")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    @property
    def done(self) -> bool:
        return self.at == len(self._data)

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise _bad(f"{size} bytes are wanted at offset {self.at} of {len(self._data)}")
        found = bytes(self._data[self.at : self.at + size])
        self.at += size
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def expect(self, wanted: bytes, what: str) -> None:
        if (seen := self.take(len(wanted))) != wanted:
            raise _bad(f"{what} is {seen.hex()}, not {wanted.hex()}")

    def end(self) -> None:
        if left := len(self._data) - self.at:
            raise _bad(f"{left} bytes follow its end")


def _bad(why: str) -> PerunError:
    return refuse(NON_CANONICAL, f"the GPU's report is not of its form: {why}")
