"""Portable executables, as far as measured boot goes: sections, and the Authenticode digest that PCR 4 gets.

Microsoft PE/COFF specification, and "Windows Authenticode Portable Executable Signature Format", calculating the PE image hash.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from struct import Struct

from perunml.client.codes import IMAGE_ODD
from perunml.wire.errors import PerunError, refuse

MAX_SECTIONS = 96
"""Sections of one image: the specification's own bound."""
_CHECKSUM = 64
"""Offset of CheckSum in the optional header, 4 bytes, left out of the digest."""
_CERTIFICATES = 144
"""Offset of the certificate table's directory entry in a PE32+ optional header, 8 bytes, left out of the digest."""
_PE32_PLUS = 0x20B
_SECTION = Struct("<8sIIII16x")


@dataclass(frozen=True, slots=True)
class Section:
    """`data` is what is loaded: no longer than the section is in memory, as the stub measures it."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Image:
    """A PE32+ image: its sections in the file's order, and its Authenticode digest by SHA-256."""

    sections: tuple[Section, ...]
    authenticode: bytes

    def section(self, name: str) -> bytes | None:
        """The content of the section called `name`, or None. Raises `UsageError` (image_odd) where two are called so."""
        found = [section.data for section in self.sections if section.name == name]
        if len(found) > 1:
            raise odd(f"two sections are called {name}")
        return found[0] if found else None


def parse_pe(data: bytes) -> Image:
    """Raises `UsageError` (image_odd)."""
    try:
        return _parse(data)
    except (IndexError, ValueError, ArithmeticError) as exc:
        raise odd(f"no PE32+ image: {exc}") from None


def odd(message: str, *, seen: str = "", expected: str = "") -> PerunError:
    """An image that is not one, or not one of ours."""
    return refuse(IMAGE_ODD, message, seen=seen, expected=expected)


def _parse(data: bytes) -> Image:
    if data[:2] != b"MZ":
        raise ValueError("it does not begin with MZ")
    header = _u32(data, 60)
    if data[header : header + 4] != b"PE\0\0":
        raise ValueError("no PE signature")
    count, optional_size = _u16(data, header + 6), _u16(data, header + 20)
    optional = header + 24
    if _u16(data, optional) != _PE32_PLUS or optional_size < _CERTIFICATES + 8 or count > MAX_SECTIONS:
        raise ValueError("not PE32+ with a certificate table's entry")
    headers_size = _u32(data, optional + 60)
    table = optional + optional_size
    if not table + count * _SECTION.size <= headers_size <= len(data):
        raise ValueError("its headers lie outside of it")
    sections, spans = [], []
    for index in range(count):
        # name, VirtualSize, VirtualAddress, SizeOfRawData, PointerToRawData
        name, size, _, raw, at = _SECTION.unpack_from(data, table + index * _SECTION.size)
        if at + raw > len(data):
            raise ValueError("a section ends outside of the file")
        sections.append(Section(name.rstrip(b"\0").decode("ascii", "replace"), data[at : at + min(size, raw)]))
        if raw:
            spans.append((at, raw))
    certificates, certificates_size = _u32(data, optional + _CERTIFICATES), _u32(data, optional + _CERTIFICATES + 4)
    if certificates_size and certificates + certificates_size != len(data):
        raise ValueError("its certificates are not at its end")
    digest = hashlib.sha256(data[: optional + _CHECKSUM])
    digest.update(data[optional + _CHECKSUM + 4 : optional + _CERTIFICATES])
    digest.update(data[optional + _CERTIFICATES + 8 : headers_size])
    end = headers_size
    for at, raw in sorted(spans):
        if at < end:
            raise ValueError("its sections overlap")
        digest.update(data[at : at + raw])
        end = at + raw
    # what follows the last section, less the certificates
    digest.update(data[end : len(data) - certificates_size])
    return Image(tuple(sections), digest.digest())


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(_exactly(data, at, 2), "little")


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(_exactly(data, at, 4), "little")


def _exactly(data: bytes, at: int, size: int) -> bytes:
    if at < 0 or len(part := data[at : at + size]) != size:
        raise ValueError("it is cut")
    return part
