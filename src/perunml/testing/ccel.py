"""Makes event logs of trust domains (CCEL), and the RTMRs that they give, out of a TPM's boot log."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from perunml.evidence.bootlog.parse import EV_NO_ACTION
from perunml.evidence.bootlog.record import joined
from perunml.evidence.rules import BootRules
from perunml.testing.bootlog import Boot, MadeEvent, MadeLog, boot, boot_rules

BANK = "sha384"
RTMR_OF = {1: 0, 7: 0, **dict.fromkeys(range(2, 7), 1), **dict.fromkeys(range(8, 16), 2)}
"""PCR -> RTMR; PCR 0 is MRTD's (UEFI 2.10, 38.4.1)."""
_BOOT_ORDER = bytes(2)


def ccel(what: Boot | None = None, *, buffer: int = 0) -> tuple[bytes, tuple[bytes, bytes, bytes, bytes]]:
    """The log of a domain that boots this, and its RTMRs; padded to `buffer` bytes, as the firmware's table has it."""
    made = as_ccel(boot(what, (BANK,), locality=0))
    return made.encoded.ljust(buffer, b"\xff"), rtmrs(made)


def as_ccel(log: MadeLog) -> MadeLog:
    """The same events in the registers of a confidential VM's log; what is PCR 0's is left out."""
    made = MadeLog((BANK,))
    for event in log.events:
        if event.index in RTMR_OF:
            made.events.append(replace(event, index=RTMR_OF[event.index] + 1))
    # the first event is of register 1 there, or of none; firmware writes 1
    made.header = (1).to_bytes(4, "little") + made.spec_id()[4:]
    return made


def rtmrs(log: MadeLog) -> tuple[bytes, bytes, bytes, bytes]:
    """What replay of the log gives."""
    values = [bytes(48) for _ in range(4)]
    for event in (event for event in log.events if event.type != EV_NO_ACTION):
        values[event.index - 1] = extended(values[event.index - 1], event)
    return values[0], values[1], values[2], values[3]


def extended(value: bytes, event: MadeEvent) -> bytes:
    """The register after one more event."""
    return hashlib.sha384(value + event.digests[BANK]).digest()


def ccel_rules(what: Boot | None = None) -> BootRules:
    """What parties would demand of this boot: also the boot order, which a TPM's rules leave to PCR 1's exact value."""
    order = BootRules(loaded=frozenset({f"{BANK}:{hashlib.sha384(_BOOT_ORDER).hexdigest()}"}))
    return joined(boot_rules(what or Boot(), BANK), order)
