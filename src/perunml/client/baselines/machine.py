"""What a trusted machine's own logs say: the files that its IMA log lists, the PCRs that its boot log gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from perunml.client.baselines.listing import ALGORITHMS, Listing
from perunml.client.codes import BASELINE_SOURCE
from perunml.evidence.bundle import BANK_SIZES
from perunml.evidence.ima.replay import VIOLATION
from perunml.evidence.offline.boot import read_boot
from perunml.evidence.offline.measurements import AGGREGATE, read_ima
from perunml.evidence.rules import STRONG_BANKS
from perunml.wire.errors import error, refuse
from perunml.wire.rules import printable

BOOT_PCRS = tuple(range(10))
LATER_PCRS = (11, 12, 13, 14)
"""Of a unified kernel image's stub and of shim (`bootlog.appraise`)."""
_SIZES = {name: BANK_SIZES[name] for name in ALGORITHMS}


def list_log(listing: Listing, log: bytes) -> None:
    """Add every file of an IMA log, with the digest that was measured. Violations and weak digests are left out.

    Raises `EvidenceRefusal` for a log that is not of its form.
    """
    found = read_ima(log)
    if found.reasons:
        raise error(found.reasons)
    for _, template_hash, _, measured, path, _ in found.lines:
        algorithm, _, digest = measured.partition(b":\0")
        name, shown = algorithm.decode("ascii", "replace"), printable(path.decode("utf-8", "backslashreplace"), 200)
        if path == AGGREGATE:
            continue
        if template_hash == VIOLATION:
            listing.note(f"a violation, left out: {shown}")
        elif _SIZES.get(name) != len(digest):
            listing.note(f"measured with {printable(name, 20)}, left out: {shown}")
        else:
            listing.add(path.decode("utf-8", "surrogateescape"), [f"{name}:{digest.hex()}"])


def pcrs_of(
    event_log: bytes, wanted: Mapping[str, Iterable[int]], *, judged: bool = False
) -> dict[str, dict[int, bytes]]:
    """The values that a boot log's replay gives for the `wanted` PCRs, by bank; an empty `wanted` means 0 to 9 of its
    strongest common bank, SHA-256 where it has it, and where a baseline's boot rules will have the log `judged`, those of
    11 to 14 that it extends: the parties may still take some of them out, and explain them by rules.

    Raises `EvidenceRefusal` for a log that is not of its form, `UsageError` (baseline_source) for a bank that it lacks.
    """
    replayed = read_boot(event_log).pcrs
    if not wanted:
        banks = [bank for bank in STRONG_BANKS if bank in replayed]
        if not banks:
            raise refuse(BASELINE_SOURCE, "the boot log has no strong bank", expected=", ".join(STRONG_BANKS))
        later = [index for index in LATER_PCRS if judged and index in replayed[banks[0]]]
        wanted = {banks[0]: (*BOOT_PCRS, *later)}
    found: dict[str, dict[int, bytes]] = {}
    for bank, indices in wanted.items():
        if bank not in replayed:
            raise refuse(BASELINE_SOURCE, "the boot log lacks a bank", expected=bank, seen=", ".join(sorted(replayed)))
        # what nothing was extended into is as it was at reset
        found[bank] = {index: replayed[bank].get(index, bytes(BANK_SIZES[bank])) for index in indices}
    return found
