"""Replays a boot log, and holds the outcome against quoted values: which registers does the log explain?

Each event that is not EV_NO_ACTION extends its register in every bank by its digest. PCR 0 begins with the locality of
TPM2_Startup in its last byte, which a StartupLocality event tells (PC Client Platform Firmware Profile 1.06, 10.4.5.3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from perunml.evidence.bootlog.parse import BootLog
from perunml.evidence.bundle import BANK_SIZES
from perunml.evidence.codes import EVENT_LOG_MISMATCH, NON_CANONICAL
from perunml.evidence.rules import STRONG_BANKS
from perunml.wire.errors import refuse
from perunml.wire.rules import Reason

BOOT_REGISTERS = range(10)
"""PCRs 0 to 7 are the firmware's, 8 and 9 the boot loader's and the kernel stub's; later ones grow while the system runs."""
_LOCALITY = b"StartupLocality\0"
_LOCALITIES = (0, 3, 4)
"""0: nobody said; 3: a CRTM in the TPM's locality 3; 4: a hardware CRTM."""


def startup_locality(log: BootLog) -> int:
    """What PCR 0 begins with. Raises `EvidenceRefusal` (non_canonical): told twice, told after PCR 0 was extended, or of a
    locality that no TPM2_Startup has."""
    found: int | None = None
    extended = False
    for event in log.events:
        if event.extended:
            extended = extended or event.register == 0
        elif event.register == 0 and event.data.startswith(_LOCALITY):
            value = event.data[len(_LOCALITY) :]
            if found is not None or extended or len(value) != 1 or value[0] not in _LOCALITIES:
                raise refuse(
                    NON_CANONICAL,
                    f"the boot log tells the locality of TPM2_Startup late, twice or wrong, at event {event.number}",
                )
            found = value[0]
    return found or 0


def replay(log: BootLog) -> dict[str, dict[int, bytes]]:
    """The value of each register that the log extends, in each bank whose hash is known; also of a PCR 0 that begins with a
    locality. Raises as `startup_locality`."""
    locality = startup_locality(log)
    found: dict[str, dict[int, bytes]] = {}
    for bank in log.banks:
        if bank not in BANK_SIZES:
            continue
        new, size = getattr(hashlib, bank), BANK_SIZES[bank]
        values: dict[int, bytes] = {0: bytes(size - 1) + bytes([locality])} if locality else {}
        for event in log.events:
            if event.extended:
                held = values.get(event.register, bytes(size))
                values[event.register] = new(held + event.digests[bank]).digest()
        found[bank] = values
    return found


def explained(
    log: BootLog, pcrs: Mapping[str, Mapping[int, bytes]]
) -> tuple[frozenset[int], dict[int, tuple[Reason, ...]]]:
    """The registers that the log explains: those whose replayed value is the quoted one in every bank that both have, one of
    them strong; a register that no event extends is explained by zero. And, for each of PCRs 0 to 9 that is quoted and not
    explained, why (event_log_mismatch).

    Raises `EvidenceRefusal` (event_log_mismatch: no strong bank is in both), and as `startup_locality`."""
    values = replay(log)
    banks = [bank for bank in pcrs if bank in values]
    if not any(bank in STRONG_BANKS for bank in banks):
        raise refuse(
            EVENT_LOG_MISMATCH,
            "the boot log has no strong bank that is quoted",
            expected=", ".join(sorted(pcrs)),
            seen=", ".join(log.banks),
        )
    good: set[int] = set()
    reasons: dict[int, tuple[Reason, ...]] = {}
    for index in sorted({index for bank in banks for index in pcrs[bank]}):
        strong = False
        wrong: list[Reason] = []
        for bank in banks:
            if index not in pcrs[bank]:
                continue
            replayed = values[bank].get(index, bytes(BANK_SIZES[bank]))
            strong = strong or bank in STRONG_BANKS
            if replayed != pcrs[bank][index]:
                wrong.append(
                    Reason(
                        EVENT_LOG_MISMATCH,
                        f"the boot log does not give the quoted PCR {index} ({bank})",
                        expected=pcrs[bank][index].hex(),
                        seen=replayed.hex(),
                    )
                )
        if strong and not wrong:
            good.add(index)
        elif index in BOOT_REGISTERS:
            # never without a reason: a weak bank that fits says nothing of the digests by which events are judged
            reasons[index] = tuple(wrong) or (
                Reason(
                    EVENT_LOG_MISMATCH,
                    f"the boot log has PCR {index} in no strong bank that is quoted",
                    expected=", ".join(STRONG_BANKS),
                    seen=", ".join(bank for bank in banks if index in pcrs[bank]),
                ),
            )
    return frozenset(good), reasons
