"""Replays an IMA log: how many of its lines does the quoted PCR 10 prove?

Linux 5.8 and later extend each bank with that bank's own hash of the template data; a violation, whose template hash
column is zero, extends all ones (security/integrity/ima/ima_queue.c). Kernels before extended every bank with the SHA-1,
zeros after it: that proves no more than SHA-1 does, and is told apart only to say why it is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from perunml.evidence.bundle import BANK_SIZES
from perunml.evidence.codes import IMA_NOT_EXTENDED, IMA_TEMPLATE_HASH, IMA_WEAK_EXTEND, PCR10_MISMATCH
from perunml.evidence.ima.parse import HASH_SIZE, Line
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.rules import Reason

VIOLATION = bytes(HASH_SIZE)
MAX_EXPLAINED = 20_000
"""Lines of a log that is replayed once more to explain why it does not fit: an old kernel's may have some thousands."""


def replay(lines: Sequence[Line], quoted: Mapping[str, bytes]) -> int:
    """The number of lines that every quoted bank's PCR 10 proves; lines after these are told, not proven.

    Raises `EvidenceRefusal`: ima_not_extended, ima_weak_extend, pcr10_mismatch.
    """
    check_extended(quoted)
    covered = {bank: _covered(lines, bank, value) for bank, value in quoted.items()}
    for bank, count in covered.items():
        if count is None:
            raise mismatch(lines, len(lines), bank, quoted[bank])
    if len(set(covered.values())) != 1:
        raise error([different({bank: count for bank, count in covered.items() if count is not None})])
    return next(count for count in covered.values() if count is not None)


def check_extended(quoted: Mapping[str, bytes]) -> None:
    """Raises `EvidenceRefusal` (ima_not_extended) for a PCR 10 that IMA never extended."""
    for bank, value in quoted.items():
        if not any(value):
            raise refuse(IMA_NOT_EXTENDED, "IMA measured nothing into this TPM", seen=f"{bank}:10 is zero")


def different(covered: Mapping[str, int]) -> Reason:
    """The reason when banks prove different numbers of lines."""
    return Reason(PCR10_MISMATCH, "the banks prove different parts of the IMA log", seen=str(sorted(covered.items())))


def mismatch(lines: Iterable[Line], count: int, bank: str, quoted: bytes) -> PerunError:
    """Why no prefix of the `count` lines gives the quoted value: an old kernel's way of extending, or another log."""
    if bank != "sha1" and count <= MAX_EXPLAINED and quoted in padded_values(lines, bank):
        return refuse(
            IMA_WEAK_EXTEND,
            "the kernel extended the bank with the SHA-1 of each line and zeros",
            expected=f"{bank} of each line",
            seen="SHA-1, as before Linux 5.8",
        )
    return refuse(
        PCR10_MISMATCH,
        f"no prefix of the {count} lines of the IMA log gives the quoted PCR 10",
        expected=f"{bank}:{quoted.hex()}",
    )


def check_template_hashes(lines: Sequence[Line]) -> list[Reason]:
    """A reason when a line's template hash is not its data's (the first such line; violations have none)."""
    sha1 = hashlib.sha1
    for number, (_, found, data, *_) in enumerate(lines, 1):
        # SHA-1 is the column's form; what proves the line is the replay in a strong bank
        if found != sha1(data, usedforsecurity=False).digest() and found != VIOLATION:
            return [wrong_template_hash(number)]
    return []


def wrong_template_hash(number: int) -> Reason:
    """The reason when a line's template hash is not its data's."""
    return Reason(IMA_TEMPLATE_HASH, f"line {number} of the IMA log has another template hash than its data")


def prefix_values(lines: Iterable[Line], bank: str) -> Iterator[bytes]:
    """PCR 10 of a bank after each line."""
    hash_of = getattr(hashlib, bank)
    value = bytes(BANK_SIZES[bank])
    ones = b"\xff" * BANK_SIZES[bank]
    for line in lines:
        value = hash_of(value + (ones if line[1] == VIOLATION else hash_of(line[2]).digest())).digest()
        yield value


def padded_values(lines: Iterable[Line], bank: str) -> Iterator[bytes]:
    """PCR 10 of a bank after each line, as kernels before 5.8 extended it: by the SHA-1 of the data and zeros."""
    hash_of = getattr(hashlib, bank)
    size = BANK_SIZES[bank]
    value, ones = bytes(size), b"\xff" * HASH_SIZE
    for line in lines:
        extended = ones if line[1] == VIOLATION else hashlib.sha1(line[2], usedforsecurity=False).digest()
        value = hash_of(value + extended.ljust(size, b"\0")).digest()
        yield value


def _covered(lines: Sequence[Line], bank: str, quoted: bytes) -> int | None:
    return next((count for count, value in enumerate(prefix_values(lines, bank), 1) if value == quoted), None)
