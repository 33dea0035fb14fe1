"""No mutation of an honest log is accepted, unless it tells of the very same measurements (8,000 here)."""

from __future__ import annotations

import random

import pytest

from perunml.evidence.bootlog.judge import judge_boot_log
from perunml.evidence.bootlog.parse import parse_boot_log
from perunml.testing.faults import flip
from perunml.testing.forge import ForgedTpm

TPM = ForgedTpm()
RAW = TPM.boot_log.encoded
PCRS = {"sha256": dict(enumerate(TPM.pcrs["sha256"][:15]))}
BASELINE = TPM.boot_baseline()
ROUNDS = 8000


def measured(log: bytes) -> dict[int, list[bytes]]:
    """What was extended, PCR by PCR: the order among PCRs is covered by nothing."""
    found: dict[int, list[bytes]] = {}
    for event in parse_boot_log(log).events:
        if event.extended:
            found.setdefault(event.register, []).append(event.digests["sha256"])
    return found


def changed(log: bytes, dice: random.Random) -> bytes:
    """A bit flipped, bytes cut, doubled, overwritten or inserted, or an integer made large."""
    at, size = dice.randrange(len(log)), dice.randint(1, 80)
    what = dice.randrange(6)
    if what == 0:
        return flip(log, dice.randrange(len(log) * 8))
    if what == 1:
        return log[: at + size] + log[at:]
    new = {2: b"", 3: dice.randbytes(size), 4: dice.randbytes(size), 5: b"\xff\xff\xff\x7f"}[what]
    return log[:at] + new + log[at + {2: size, 3: size, 4: 0, 5: 4}[what] :]


def mutated(dice: random.Random) -> bytes:
    log = RAW
    for _ in range(dice.randint(1, 3)):
        log = changed(log, dice)
    return log


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_log_is_refused_or_says_the_same(seed: int) -> None:
    """With the rules of a baseline; whatever is changed, nothing but a coded reason comes out."""
    dice = random.Random(seed)
    refused = 0
    for _ in range(ROUNDS // 4):
        log = mutated(dice)
        found = judge_boot_log(log, TPM.boots.cmdline, PCRS, BASELINE.boot, BASELINE.pcrs)
        refused += bool(found.reasons)
        assert found.reasons or measured(log) == measured(RAW)
    assert refused > ROUNDS // 4 * 0.8


def test_every_single_bit_of_what_is_measured_counts() -> None:
    """Each bit of each digest, of the PCRs' numbers, and of lengths."""
    for event in parse_boot_log(RAW).events:
        at = RAW.index(event.digests["sha256"])
        for bit in range(at * 8, (at + 32) * 8, 7):
            found = judge_boot_log(flip(RAW, bit), TPM.boots.cmdline, PCRS, BASELINE.boot, BASELINE.pcrs)
            assert found.reasons
