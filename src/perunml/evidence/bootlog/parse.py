"""Parses a boot log: the crypto-agile form, and the older one with SHA-1 alone (TCG PC Client Platform Firmware Profile 1.06,
10.2). The log is the attacker's: each length is looked at before it is used, and nothing is read that does not fill its form.

First event, always in the older form: register, type, SHA-1 digest, size, data; all numbers little-endian. Where its data begin with
``Spec ID Event03``, it names the banks, and every later event has one digest for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct

from perunml.evidence.bundle import BANK_SIZES
from perunml.evidence.codes import NON_CANONICAL
from perunml.wire.errors import PerunError, refuse

MAX_EVENTS = 20_000
"""Machines with many option ROMs have some hundreds."""
MAX_DATA = 512 * 1024
"""Bytes of one event: a dbx of 32 KiB, the memory map of a large server."""
MAX_BANKS = 8
MAX_REGISTER = 23
EV_NO_ACTION = 3
"""The one type that changes what is done with an event: it is not extended (9.4.1)."""

_HASHES = {
    0x0004: ("sha1", 20),
    0x000B: ("sha256", 32),
    0x000C: ("sha384", 48),
    0x000D: ("sha512", 64),
    0x0012: ("sm3_256", 32),
}
_AGILE = b"Spec ID Event03\0"
_OLDER = (b"Spec ID Event00\0", b"Spec ID Event02\0")
_SHA1_EVENT = Struct("<II20sI")
_HEAD = Struct("<III")
_U16 = Struct("<H")
_U32 = Struct("<I")
_SPEC = Struct("<IBBBBI")
_BANK = Struct("<HH")


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `digests` by bank; neither `type` nor, by itself, `data` is covered by any of them."""

    number: int
    register: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes

    @property
    def extended(self) -> bool:
        return self.type != EV_NO_ACTION


@dataclass(frozen=True, slots=True)
class BootLog:
    """All events but the one that names the banks, in order; `banks` are those that each has a digest for."""

    banks: tuple[str, ...]
    events: tuple[Event, ...]


def parse_boot_log(log: bytes, *, padded: bool = False) -> BootLog:
    """The whole log. `padded`: what follows the last event may be 0xff or 0x00 up to the end, as in the buffer that an ACPI
    table points to (a kernel's file has nothing after the last event).

    Raises `EvidenceRefusal` (non_canonical): truncated, trailing bytes, lengths out of bounds, an unknown bank, other digests
    than the banks named, a first event that claims to name banks and is not ``Spec ID Event03``.
    """
    if len(log) < _SHA1_EVENT.size:
        raise _bad(1, "it ends inside an event")
    register, kind, digest, size = _SHA1_EVENT.unpack_from(log)
    data = _data(log, _SHA1_EVENT.size, size, 1)
    at = _SHA1_EVENT.size + size
    if kind == EV_NO_ACTION and data.startswith(_AGILE):
        # a confidential computing log's registers begin at 1, and so does this event's
        if register not in ((0, 1) if padded else (0,)) or any(digest):
            raise _bad(1, "the event that names the banks is of a register that is measured, or has a digest")
        banks = _banks(data)
        return BootLog(tuple(banks.values()), _events(log, at, banks, padded))
    if kind == EV_NO_ACTION and data.startswith(b"Spec ID Event") and not data.startswith(_OLDER):
        raise _bad(1, "a form of the log that is not known")
    return BootLog(("sha1",), _sha1_events(log, padded))


def _events(log: bytes, at: int, banks: Mapping[int, str], padded: bool) -> tuple[Event, ...]:
    events: list[Event] = []
    end = len(log)
    sizes = {number: _HASHES[number][1] for number in banks}
    while at < end and not (padded and _is_padding(log, at)):
        number = len(events) + 2
        if at + _HEAD.size > end:
            raise _bad(number, "it ends inside an event")
        register, kind, count = _HEAD.unpack_from(log, at)
        at += _HEAD.size
        if count != len(banks):
            raise _bad(number, f"it has {count} digests where the log names {len(banks)} banks")
        digests: dict[str, bytes] = {}
        for _ in range(count):
            if at + _U16.size > end:
                raise _bad(number, "it ends inside an event")
            (algorithm,) = _U16.unpack_from(log, at)
            at += _U16.size
            name = banks.get(algorithm)
            if name is None or name in digests:
                raise _bad(number, f"a digest of a bank that the log does not name, or twice: {algorithm:#06x}")
            if at + sizes[algorithm] > end:
                raise _bad(number, "it ends inside a digest")
            digests[name] = log[at : at + sizes[algorithm]]
            at += sizes[algorithm]
        if at + _U32.size > end:
            raise _bad(number, "it ends inside an event")
        (size,) = _U32.unpack_from(log, at)
        at += _U32.size
        data = _data(log, at, size, number)
        at += size
        _append(events, Event(number, register, kind, digests, data))
    return tuple(events)


def _sha1_events(log: bytes, padded: bool) -> tuple[Event, ...]:
    events: list[Event] = []
    at, end = 0, len(log)
    while at < end and not (padded and _is_padding(log, at)):
        number = len(events) + 1
        if at + _SHA1_EVENT.size > end:
            raise _bad(number, "it ends inside an event")
        register, kind, digest, size = _SHA1_EVENT.unpack_from(log, at)
        at += _SHA1_EVENT.size
        data = _data(log, at, size, number)
        at += size
        _append(events, Event(number, register, kind, {"sha1": digest}, data))
    return tuple(events)


def _append(events: list[Event], event: Event) -> None:
    if event.register > MAX_REGISTER and event.extended:
        raise _bad(event.number, f"register {event.register} does not exist")
    events.append(event)
    if len(events) > MAX_EVENTS:
        raise _bad(event.number, f"it has more than {MAX_EVENTS} events")


def _banks(data: bytes) -> dict[int, str]:
    """Algorithm numbers and the names of the banks that the Spec ID event names (10.2.1.1)."""
    at = len(_AGILE)
    if len(data) < at + _SPEC.size:
        raise _bad(1, "the event that names the banks is too short")
    *_, count = _SPEC.unpack_from(data, at)
    at += _SPEC.size
    if not 1 <= count <= MAX_BANKS or len(data) < at + count * _BANK.size + 1:
        raise _bad(1, f"it names {count} banks")
    found: dict[int, str] = {}
    for _ in range(count):
        algorithm, size = _BANK.unpack_from(data, at)
        at += _BANK.size
        name, expected = _HASHES.get(algorithm, ("", 0))
        if not name or size != expected or algorithm in found:
            raise _bad(1, f"a bank that is not known, of a wrong size or named twice: {algorithm:#06x}, {size} bytes")
        found[algorithm] = name
    if BANK_SIZES.keys().isdisjoint(found.values()):
        raise _bad(1, f"it names no bank that can be replayed: {', '.join(found.values())}")
    if len(data) != at + 1 + data[at]:
        raise _bad(1, "bytes after the vendor's information")
    return found


def _data(log: bytes, at: int, size: int, number: int) -> bytes:
    if size > MAX_DATA or at + size > len(log):
        raise _bad(number, f"its data are said to have {size} bytes")
    return log[at : at + size]


def _is_padding(log: bytes, at: int) -> bool:
    """Whether nothing but 0xff or 0x00 is left. Four bytes tell: no register is 0xffffffff, and an event of register 0 and
    type 0 is none that is measured."""
    rest = log[at : at + 8]
    return rest in (b"\xff" * len(rest), bytes(len(rest))) and log[at:] in (rest[:1] * (len(log) - at),)


def _bad(number: int, why: str) -> PerunError:
    return refuse(NON_CANONICAL, f"the boot log is not of its form at event {number}: {why}")
