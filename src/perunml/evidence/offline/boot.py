"""A boot log in a file: what its replay gives, and what it tells.

Read are crypto-agile logs (TCG PC Client Platform Firmware Profile 1.06, 10.2) and logs of SHA-1 alone (the same, 10.1).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any

from perunml.evidence.bundle import BANK_SIZES, MAX_PCR
from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.tpm.algorithms import HASHES
from perunml.wire.errors import PerunError, refuse

MAX_FILE = 4 * 1024 * 1024
"""Bytes of a boot log: firmware reserves 64 KiB to 1 MiB."""
MAX_EVENTS = 65_536
"""A log of 4 MiB with events of 64 bytes, which is about the least that one has."""
MAX_BANKS = 8
NO_ACTION = 3
_OLD = Struct("<II20sI")
_U32 = Struct("<I")
_AGILE = b"Spec ID Event03\0"
_LOCALITY = b"StartupLocality\0"
_LOCALITIES = (0, 3, 4)
"""Localities from which a TPM is started: the platform's, and those of an H-CRTM (10.4.5.3)."""
Event = tuple[int, int, Mapping[str, bytes], bytes]
"""PCR, type, digests by bank, data."""


@dataclass(frozen=True, slots=True)
class BootLog:
    """`pcrs` holds, by bank, what replay gives for each PCR that the log extends."""

    events: tuple[Event, ...]
    banks: tuple[str, ...]
    pcrs: dict[str, dict[int, bytes]]

    def claims(self, proven: Mapping[str, Mapping[int, bytes]]) -> dict[str, Any]:
        """What the log tells; `proven` are the quoted PCRs."""
        counts = Counter(event[0] for event in self.events if event[1] != NO_ACTION)
        return {
            "events": len(self.events),
            "banks": list(self.banks),
            "events_by_pcr": {str(pcr): count for pcr, count in sorted(counts.items())},
            "proven": {
                bank: [i for i in sorted(values) if proven.get(bank, {}).get(i) == values[i]]
                for bank, values in self.pcrs.items()
                if bank in proven
            },
        }


def read_boot(data: bytes) -> BootLog:
    """Raises `EvidenceRefusal` (non_canonical): truncated, trailing bytes, unknown algorithms, a late StartupLocality."""
    if len(data) > MAX_FILE:
        raise refuse(NON_CANONICAL, "the boot log is too long", expected=f"at most {MAX_FILE} bytes")
    if len(data) < _OLD.size:
        raise _bad("it has no event")
    pcr, kind, digest, size = _OLD.unpack_from(data)
    head = data[_OLD.size : _OLD.size + size]
    if len(head) != size:
        raise _bad("it ends inside its first event")
    if head.startswith(_AGILE):
        if kind != NO_ACTION or pcr != 0 or any(digest):
            raise _bad("its Spec ID event is no EV_NO_ACTION of PCR 0")
        banks = _banks(head)
        events = list(_agile(data, _OLD.size + size, banks))
    else:
        banks = {"sha1": 20}
        events = list(_sha1_only(data))
    return BootLog(tuple(events), tuple(banks), {bank: _replay(events, bank) for bank in banks if bank in BANK_SIZES})


def _banks(head: bytes) -> dict[str, int]:
    """TCG_EfiSpecIdEvent: the algorithms, in the order of each event's digests, and the sizes of their digests."""
    at = len(_AGILE) + 8  # platform class, version, errata, width of a UINTN
    count = int.from_bytes(head[at : at + 4], "little")
    at += 4
    if not 1 <= count <= MAX_BANKS or at + 4 * count >= len(head):
        raise _bad("its Spec ID event lists no algorithms")
    banks: dict[str, int] = {}
    for _ in range(count):
        number, size = int.from_bytes(head[at : at + 2], "little"), int.from_bytes(head[at + 2 : at + 4], "little")
        name = HASHES.get(number, f"{number:04x}")
        if name in banks or BANK_SIZES.get(name, size) != size or not 0 < size <= 64:
            raise _bad("its Spec ID event lists an algorithm twice, or with a wrong size")
        banks[name] = size
        at += 4
    if at + 1 + head[at] != len(head):
        raise _bad("its Spec ID event has a wrong length")
    return banks


def _agile(data: bytes, at: int, banks: Mapping[str, int]) -> Iterator[Event]:
    wanted = {number: (name, BANK_SIZES[name]) for number, name in HASHES.items() if name in banks}
    wanted |= {int(name, 16): (name, size) for name, size in banks.items() if name not in BANK_SIZES}
    for _ in range(MAX_EVENTS):
        if at == len(data):
            return
        if at + 12 > len(data):
            raise _bad("it ends inside an event")
        pcr, kind, count = (_U32.unpack_from(data, at + n)[0] for n in (0, 4, 8))
        at += 12
        if count != len(banks):
            raise _bad(f"an event has {count} digests where the log has {len(banks)} banks")
        digests: dict[str, bytes] = {}
        for _ in range(count):
            name, size = wanted.get(int.from_bytes(data[at : at + 2], "little"), ("", 0))
            if not name or name in digests or at + 2 + size > len(data):
                raise _bad("an event's digest is of an unknown algorithm, comes twice, or is cut")
            digests[name] = data[at + 2 : at + 2 + size]
            at += 2 + size
        if at + 4 > len(data):
            raise _bad("it ends inside an event")
        (size,) = _U32.unpack_from(data, at)
        at += 4
        if at + size > len(data):
            raise _bad("it ends inside an event's data")
        yield pcr, kind, digests, data[at : at + size]
        at += size
    raise _bad(f"it has more than {MAX_EVENTS} events")


def _sha1_only(data: bytes) -> Iterator[Event]:
    at = 0
    for _ in range(MAX_EVENTS):
        if at == len(data):
            return
        if at + _OLD.size > len(data):
            raise _bad("it ends inside an event")
        pcr, kind, digest, size = _OLD.unpack_from(data, at)
        at += _OLD.size
        if at + size > len(data):
            raise _bad("it ends inside an event's data")
        yield pcr, kind, {"sha1": digest}, data[at : at + size]
        at += size
    raise _bad(f"it has more than {MAX_EVENTS} events")


def _replay(events: list[Event], bank: str) -> dict[int, bytes]:
    size, hash_of = BANK_SIZES[bank], getattr(hashlib, bank)
    values: dict[int, bytes] = {}
    located = False
    for pcr, kind, digests, data in events:
        if kind == NO_ACTION:
            if pcr == 0 and data.startswith(_LOCALITY):
                if located or 0 in values or len(data) != len(_LOCALITY) + 1 or data[-1] not in _LOCALITIES:
                    raise _bad("its StartupLocality is late, twice, or of no known value")
                values[0] = data[-1:].rjust(size, b"\0")
                located = True
            continue
        if pcr > MAX_PCR:
            raise _bad(f"an event is for PCR {pcr}")
        values[pcr] = hash_of(values.get(pcr, bytes(size)) + digests[bank]).digest()
    return values


def _bad(why: str) -> PerunError:
    return refuse(NON_CANONICAL, f"the boot log is not of its form: {why}")
