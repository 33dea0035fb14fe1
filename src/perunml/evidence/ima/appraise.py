"""Appraises an IMA log against quoted PCRs and a baseline.

Only lines inside the prefix that the quoted PCR 10 proves admit anything; later lines were told but not proven, and may
only refuse. There may be a few, because the log is read after the quote, and the next quote must prove them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from perunml.evidence.baseline import Allowed
from perunml.evidence.codes import (
    BOOT_AGGREGATE,
    IMA_LAG,
    IMA_PCR,
    IMA_VIOLATION,
    NOT_IN_POLICY,
    PCR10_MISMATCH,
    WEAK_DIGEST,
)
from perunml.evidence.ima.parse import PCR, Columns, read_fields, split_log
from perunml.evidence.ima.replay import VIOLATION, check_template_hashes, replay
from perunml.evidence.rules import STRONG_BANKS
from perunml.wire.errors import PerunError
from perunml.wire.rules import Reason, printable

MAX_LAG = 256
"""Lines that may follow the proven prefix: a busy machine measures some dozens while a quote is made."""
IN_FLIGHT = 1
"""Lines that the kernel may have in its log and not yet in the PCR: it holds a mutex from the one to the other. So the last
line of a log that was read may still be missing from the quote after it; it was judged when it was told."""
MAX_REASONS = 24
"""Reasons told about lines, a machine out of its baseline has thousands; the rest is counted."""
AGGREGATE = b"boot_aggregate"

NG = b"ima-ng"
Unknown = tuple[int, bytes, bytes]
"""A line's number (from 0), digest and path."""

_SIZES = {b"sha256:": 32, b"sha384:": 48, b"sha512:": 64}


@dataclass(frozen=True, slots=True)
class LogFindings:
    """`lines` in the log, of them `proven` by the quote, and every reason why they are not good enough."""

    lines: int
    proven: int
    reasons: tuple[Reason, ...]


def appraise_log(log: bytes, accepted: int, pcrs: Mapping[str, Mapping[int, bytes]], allowed: Allowed) -> LogFindings:
    """Judge this boot's whole `log`, of which the first `accepted` bytes were accepted before, by the quoted `pcrs` and what is `allowed`.

    Never raises for a bad log: a log that does not parse, or that the quote does not prove, has that as its reason.
    """
    try:
        lines = split_log(log, accepted)
        unknown = _unknown(lines, allowed)
    except PerunError as exc:
        return LogFindings(0, 0, exc.reasons)
    total, before = len(lines), lines.before
    reasons = check_template_hashes(lines)
    try:
        proven = replay(lines, {bank: values[PCR] for bank, values in pcrs.items() if PCR in values})
    except PerunError as exc:
        return LogFindings(total, 0, (*reasons, *exc.reasons))
    if proven < before - IN_FLIGHT:
        reasons.append(
            Reason(
                PCR10_MISMATCH,
                "the quote does not prove lines that were told before",
                expected=f"at least {before - IN_FLIGHT} lines",
                seen=f"{proven} lines",
            )
        )
    if total - proven > MAX_LAG:
        reasons.append(
            Reason(
                IMA_LAG,
                "too many lines follow the quoted prefix",
                expected=f"at most {MAX_LAG}",
                seen=str(total - proven),
            )
        )
    reasons.extend(_aggregate(*read_fields(lines.templates[0], lines.data[0], 0), pcrs))
    reasons.extend(_bounded(_line_reasons(lines, unknown, allowed.files)))
    return LogFindings(total, proven, tuple(reasons))


def _unknown(lines: Columns, allowed: Allowed) -> list[Unknown]:
    """The lines that are not, byte by byte, what the kernel writes for an allowed file: these are read and looked at.

    Raises `EvidenceRefusal` (non_canonical) for one that is not of its form.
    """
    known = allowed.ng_lines
    found = [
        number
        for number, (data, template) in enumerate(zip(lines.data, lines.templates, strict=True))
        if data not in known or template != NG
    ]
    odd = {number for number, told in enumerate(lines.hashes) if told == VIOLATION} if VIOLATION in lines.hashes else ()
    return [
        (number, *read_fields(lines.templates[number], lines.data[number], number))
        for number in sorted({*found, *odd, *lines.others})
    ]


def _aggregate(digest: bytes, path: bytes, pcrs: Mapping[str, Mapping[int, bytes]]) -> Iterator[Reason]:
    if path != AGGREGATE:
        yield Reason(BOOT_AGGREGATE, "the IMA log does not begin with boot_aggregate", seen=_shown(path))
        return
    algorithm, _, value = digest.partition(b":\0")
    bank = algorithm.decode("ascii", "backslashreplace")
    values = pcrs.get(bank, {}) if bank in STRONG_BANKS else {}
    if any(index not in values for index in range(10)):
        yield Reason(BOOT_AGGREGATE, "boot_aggregate is of a bank whose PCRs 0 to 9 are not quoted", seen=bank)
        return
    expected = hashlib.new(bank, b"".join(values[index] for index in range(10))).digest()
    if expected != value:
        yield Reason(
            BOOT_AGGREGATE,
            "boot_aggregate is not that of the quoted PCRs 0 to 9",
            expected=f"{bank}:{expected.hex()}",
            seen=f"{bank}:{value.hex()}",
        )


def _line_reasons(
    lines: Columns, unknown: list[Unknown], allowed: Mapping[bytes, frozenset[bytes]]
) -> Iterator[Reason]:
    nothing: frozenset[bytes] = frozenset()
    for at, digest, path in unknown:
        number = at + 1
        if (pcr := lines.others.get(at, PCR)) != PCR:
            yield Reason(IMA_PCR, f"line {number} of the IMA log is for another PCR", expected="10", seen=str(pcr))
        if lines.hashes[at] == VIOLATION:
            yield Reason(IMA_VIOLATION, f"line {number} of the IMA log is a violation", seen=_shown(path))
        elif digest not in allowed.get(path, nothing):
            if number == 1 and path == AGGREGATE:
                continue
            yield _refused(number, digest, path, allowed)


def _refused(number: int, digest: bytes, path: bytes, allowed: Mapping[bytes, frozenset[bytes]]) -> Reason:
    algorithm, _, value = digest.partition(b"\0")
    if _SIZES.get(algorithm) != len(value):
        seen = f"{_shown(algorithm)} with {len(value)} bytes, {_shown(path)}"
        return Reason(WEAK_DIGEST, f"line {number} of the IMA log has a digest that is not accepted", seen=seen)
    if path == AGGREGATE:
        return Reason(BOOT_AGGREGATE, f"line {number} of the IMA log is another boot_aggregate")
    listed = [_shown(d.partition(b"\0")[0]) + d.partition(b"\0")[2].hex() for d in sorted(allowed.get(path, ()))]
    return Reason(
        NOT_IN_POLICY,
        f"{_shown(path)} was loaded" + (" with another digest than agreed" if listed else " and is not agreed"),
        expected=", ".join(listed[:2]),
        seen=_shown(algorithm) + value.hex(),
    )


def _bounded(reasons: Iterator[Reason]) -> Iterator[Reason]:
    left = 0
    last: Reason | None = None
    for count, reason in enumerate(reasons, 1):
        if count <= MAX_REASONS:
            yield reason
        else:
            left, last = left + 1, reason
    if last is not None:
        yield Reason(last.rule, f"and {left} more lines of the IMA log are refused")


def _shown(text: bytes) -> str:
    return printable(text.decode("utf-8", "backslashreplace"), 200)
