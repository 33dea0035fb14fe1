"""Finds the PCR values that a quote signs, where nobody told them: the logs say what they must be, the signed digest says
whether they are.

A quote covers its PCRs by one digest (TPM 2.0 Library part 1, 18.4), so values are proven together or not at all. Each
selected PCR is taken from the boot log's replay; PCR 10 from each prefix of the IMA log in turn; what no log extends is
taken as its reset value; and where the digest does not fit yet, as the baseline's exact value.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from perunml.evidence.bundle import BANK_SIZES
from perunml.evidence.ima.parse import Line
from perunml.evidence.ima.replay import prefix_values
from perunml.evidence.tpm.algorithms import DIGEST
from perunml.evidence.tpm.attest import Attest

IMA_PCR = 10
DYNAMIC = range(17, 23)
"""PCRs that are all ones until a dynamic launch (PC Client Platform TPM Profile, 4.6.2)."""
MAX_TRIED = 64
"""Combinations of a baseline's values that are tried: two states of one window in every PCR are rarely needed."""
MAX_WORK = 2_000_000
"""Prefixes times combinations: some two seconds."""

Pcr = tuple[str, int]
Values = dict[str, dict[int, bytes]]
Agreed = Mapping[str, Mapping[int, frozenset[bytes]]]


@dataclass(frozen=True, slots=True)
class Proven:
    """`pcrs` is what the quote signs, all of the selection and nothing else; `covered` counts the IMA log's lines that the
    quoted PCR 10 proves, None where PCR 10 is not quoted or no log was given."""

    pcrs: Values
    covered: int | None


def prove_values(
    attest: Attest,
    hash_name: str,
    replayed: Mapping[str, Mapping[int, bytes]],
    lines: Sequence[Line] | None,
    agreed: Agreed,
) -> Proven | None:
    """The values of the selected PCRs whose digest (by the signature's hash, `hash_name`) the quote signs, or None.

    replayed  the boot log's PCRs, by bank
    lines     the IMA log's, or None where there is none
    agreed    a baseline's exact values, tried where the logs' do not fit
    """
    order = [(bank, index) for bank, indices in attest.selection for index in indices]
    first = {pcr: _first(pcr, replayed) for pcr in order}
    for tried in _assignments(order, first, agreed, len(lines or ())):
        found = _search(attest.pcr_digest, hash_name, order, tried, lines)
        if found is not None:
            pcrs: Values = {}
            for bank, index in order:
                pcrs.setdefault(bank, {})[index] = found[1][bank, index]
            return Proven(pcrs, found[0])
    return None


def unexplained(
    attest: Attest, replayed: Mapping[str, Mapping[int, bytes]], with_ima: bool
) -> tuple[tuple[str, int], ...]:
    """The selected PCRs that no log given extends, so that their reset values had to do."""
    return tuple(
        (bank, index)
        for bank, indices in attest.selection
        for index in indices
        if index not in replayed.get(bank, {}) and not (with_ima and index == IMA_PCR)
    )


def reset_value(pcr: Pcr) -> bytes:
    """What a PCR holds before anything is extended into it."""
    bank, index = pcr
    return (b"\xff" if index in DYNAMIC else b"\0") * BANK_SIZES[bank]


def _first(pcr: Pcr, replayed: Mapping[str, Mapping[int, bytes]]) -> bytes:
    bank, index = pcr
    return replayed.get(bank, {}).get(index, reset_value(pcr))


def _assignments(
    order: Sequence[Pcr], first: Mapping[Pcr, bytes], agreed: Agreed, lines: int
) -> Iterator[dict[Pcr, bytes]]:
    """What the logs say; then every combination with the baseline's values, as far as that is bounded."""
    yield dict(first)
    if any(index in DYNAMIC for _, index in order):  # some TPMs let them begin with zero
        yield {pcr: bytes(BANK_SIZES[pcr[0]]) if pcr[1] in DYNAMIC else value for pcr, value in first.items()}
    other = [sorted(agreed.get(bank, {}).get(index, frozenset())) or [first[bank, index]] for bank, index in order]
    allowed = min(MAX_TRIED, max(1, MAX_WORK // (lines + 1)))
    for values in itertools.islice(itertools.product(*other), allowed):
        tried = dict(zip(order, values, strict=True))
        if tried != first:
            yield tried


def _search(
    wanted: bytes, hash_name: str, order: Sequence[Pcr], values: dict[Pcr, bytes], lines: Sequence[Line] | None
) -> tuple[int | None, dict[Pcr, bytes]] | None:
    """The number of lines and the values whose digest is `wanted`."""
    digest = DIGEST[hash_name]
    holes = [pcr for pcr in order if pcr[1] == IMA_PCR]
    if lines is None or not holes:
        return (None, values) if digest(b"".join(values[pcr] for pcr in order)).digest() == wanted else None
    # what stands before the first PCR 10 is hashed once, what stands after each PCR 10 is joined once
    at = [order.index(hole) for hole in holes]
    head = digest(b"".join(values[pcr] for pcr in order[: at[0]]))
    tails = [b"".join(values[pcr] for pcr in order[a + 1 : b]) for a, b in zip(at, [*at[1:], len(order)], strict=True)]
    start = tuple(reset_value(hole) for hole in holes)
    prefixes = itertools.chain([start], zip(*(prefix_values(lines, bank) for bank, _ in holes), strict=True))
    for count, tried in enumerate(prefixes):
        state = head.copy()
        for value, tail in zip(tried, tails, strict=True):
            state.update(value + tail)
        if state.digest() == wanted:
            return count, {**values, **dict(zip(holes, tried, strict=True))}
    return None
