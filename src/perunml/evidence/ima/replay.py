"""Replays an IMA log: how many of its lines does the quoted PCR 10 prove?

Linux 5.8 and later extend each bank with that bank's own hash of the template data; a violation, whose template hash
column is zero, extends all ones (security/integrity/ima/ima_queue.c).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from perunml.evidence.bundle import BANK_SIZES
from perunml.evidence.codes import IMA_NOT_EXTENDED, IMA_TEMPLATE_HASH, PCR10_MISMATCH
from perunml.evidence.ima.parse import HASH_SIZE, Columns
from perunml.wire.errors import error, refuse
from perunml.wire.rules import Reason

VIOLATION = bytes(HASH_SIZE)


def replay(lines: Columns, quoted: Mapping[str, bytes]) -> int:
    """The number of lines that every quoted bank's PCR 10 proves; lines after these are told, not proven.

    Raises `EvidenceRefusal`: ima_not_extended, pcr10_mismatch.
    """
    for bank, value in quoted.items():
        if not any(value):
            raise refuse(IMA_NOT_EXTENDED, "IMA measured nothing into this TPM", seen=f"{bank}:10 is zero")
    covered = {bank: _covered(lines, bank, value) for bank, value in quoted.items()}
    if len(set(covered.values())) != 1:
        raise error(
            [
                Reason(
                    PCR10_MISMATCH, "the banks prove different parts of the IMA log", seen=str(sorted(covered.items()))
                )
            ]
        )
    return next(iter(covered.values()))


def check_template_hashes(lines: Columns) -> list[Reason]:
    """A reason when a line's template hash is not its data's (the first such line; violations have none)."""
    # SHA-1 is the column's form; what proves the line is the replay in a strong bank
    sha1 = hashlib.sha1
    found = [sha1(data, usedforsecurity=False).digest() for data in lines.data]
    if found != lines.hashes:
        for number, (told, right) in enumerate(zip(lines.hashes, found, strict=True), 1):
            if told not in (right, VIOLATION):
                shown = f"line {number} of the IMA log has another template hash than its data"
                return [Reason(IMA_TEMPLATE_HASH, shown)]
    return []


def prefix_values(lines: Columns, bank: str, value: bytes = b"") -> Iterator[bytes]:
    """PCR 10 of a bank after each line; `value` is what it was before the first one, zeros as after a reset by
    default."""
    hash_of = getattr(hashlib, bank)
    value = value or bytes(BANK_SIZES[bank])
    ones = b"\xff" * BANK_SIZES[bank]
    for told, data in zip(lines.hashes, lines.data, strict=True):
        value = hash_of(value + (ones if told == VIOLATION else hash_of(data).digest())).digest()
        yield value


def _covered(lines: Columns, bank: str, quoted: bytes) -> int:
    for count, value in enumerate(prefix_values(lines, bank), 1):
        if value == quoted:
            return count
    raise refuse(
        PCR10_MISMATCH,
        f"no prefix of the {len(lines)} lines of the IMA log gives the quoted PCR 10",
        expected=f"{bank}:{quoted.hex()}",
    )
