"""Appraises an IMA log against quoted PCRs and a baseline.

Only lines inside the prefix that the quoted PCR 10 proves admit anything; later lines were told but not proven, and may
only refuse. There may be a few, because the log is read after the quote, and the next quote must prove them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from perunml.evidence.baseline import Allowed
from perunml.evidence.codes import BOOT_AGGREGATE, IMA_LAG, IMA_POLICY, IMA_REQUIRED, PCR10_MISMATCH
from perunml.evidence.ima.lines import MAX_REASONS, PCR, shown
from perunml.evidence.ima.parse import bad, iterate
from perunml.evidence.ima.plain import AGGREGATE
from perunml.evidence.ima.replay import check_extended, different, mismatch
from perunml.evidence.ima.scan import Scan
from perunml.evidence.ima.state import LogFindings, LogState, Noted
from perunml.evidence.rules import STRONG_BANKS, ImaRules
from perunml.wire.errors import PerunError
from perunml.wire.rules import Reason

__all__ = ["IN_FLIGHT", "MAX_LAG", "MAX_REASONS", "LogFindings", "appraise_log", "resume_log"]

MAX_LAG = 256
"""Lines that may follow the proven prefix: a busy machine measures some dozens while a quote is made."""
IN_FLIGHT = 1
"""Lines that the kernel may have in its log and not yet in the PCR: it holds a mutex from the one to the other. So the last
line of a log that was read may still be missing from the quote after it; it was judged when it was told. `LogState` keeps
so many values of PCR 10 before the last."""

Values = Mapping[str, Mapping[int, bytes]]


def appraise_log(log: bytes, accepted: int, pcrs: Values, allowed: Allowed) -> LogFindings:
    """Judge this boot's whole `log`, of which the first `accepted` bytes were accepted before, by the quoted `pcrs` and
    what a baseline allows (`Baseline.at`).

    Never raises for a bad log: a log that does not parse, or that the quote does not prove, has that as its reason.
    """
    quoted = _quoted(pcrs)
    scan = Scan(allowed, quoted)
    try:
        if accepted > len(log):
            raise bad(1, "it is shorter than what was accepted before")
        scan.read(log, 0, accepted)
        before = scan.lines
        scan.read(log, scan.size, len(log))
    except PerunError as exc:
        return LogFindings(0, 0, exc.reasons)
    if scan.size < len(log):  # nothing of it needs to be proven any more
        return LogFindings(scan.lines, 0, (*scan.reasons, *scan.judge.reasons))
    try:
        check_extended(quoted)
        for bank, count in scan.proven.items():
            if not count:
                raise mismatch(iterate(log), scan.lines, bank, quoted[bank])
    except PerunError as exc:
        return LogFindings(scan.lines, 0, (*scan.reasons, *exc.reasons))
    if len(set(scan.proven.values())) != 1:
        return LogFindings(scan.lines, 0, (*scan.reasons, different(scan.proven)))
    proven = next(iter(scan.proven.values()))
    reasons = (*scan.reasons, *_prefix_reasons(scan.lines, proven, before), *_reasons(scan, proven, pcrs, allowed.ima))
    return LogFindings(scan.lines, proven, reasons, None if reasons else _state(scan, allowed))


def resume_log(new: bytes, state: LogState, pcrs: Values, allowed: Allowed) -> LogFindings | None:
    """What `appraise_log` finds of the log that `state` is of and the `new` lines after it, all of the former accepted
    before. None where only judging all of it can tell: under another baseline or other banks, and when anything is wrong.
    """
    quoted = _quoted(pcrs)
    if state.judged_by != allowed.state or state.values.keys() != quoted.keys():
        return None
    scan = Scan(allowed, quoted, state)
    try:
        scan.read(new, 0, len(new))
    except PerunError:
        return None
    counts = set(scan.proven.values())
    if len(counts) != 1:
        return None
    proven = next(iter(counts))
    # the state reaches back by as many lines as may be in flight, so what it finds proven covers those told before
    if not proven or scan.reasons or scan.judge.reasons or any(_prefix_reasons(scan.lines, proven, state.lines)):
        return None
    if any(_reasons(scan, proven, pcrs, allowed.ima)):
        return None
    return LogFindings(scan.lines, proven, (), _state(scan, allowed))


def _quoted(pcrs: Values) -> dict[str, bytes]:
    return {bank: values[PCR] for bank, values in pcrs.items() if PCR in values}


def _state(scan: Scan, allowed: Allowed) -> LogState:
    return LogState(allowed.state, scan.size, scan.lines, scan.values, scan.judge.noted)


def _prefix_reasons(lines: int, proven: int, before: int) -> Iterator[Reason]:
    if proven < before - IN_FLIGHT:
        yield Reason(
            PCR10_MISMATCH,
            "the quote does not prove lines that were told before",
            expected=f"at least {before - IN_FLIGHT} lines",
            seen=f"{proven} lines",
        )
    if lines - proven > MAX_LAG:
        yield Reason(
            IMA_LAG,
            "too many lines follow the quoted prefix",
            expected=f"at most {MAX_LAG}",
            seen=str(lines - proven),
        )


def _reasons(scan: Scan, proven: int, pcrs: Values, rules: ImaRules) -> Iterator[Reason]:
    noted = scan.judge.noted
    yield from _aggregate(noted, pcrs)
    yield from scan.judge.reasons
    missing = scan.judge.missing(proven)
    for path in missing[:MAX_REASONS]:
        yield Reason(IMA_REQUIRED, f"{shown(path)} was not measured", seen=f"{proven} proven lines without it")
    if len(missing) > MAX_REASONS:
        yield Reason(IMA_REQUIRED, f"and {len(missing) - MAX_REASONS} more files were not measured")
    if rules.policies and not 0 < noted.policy <= proven:
        yield Reason(
            IMA_POLICY, "no agreed IMA policy is among the proven lines", expected=", ".join(sorted(rules.policies)[:2])
        )


def _aggregate(noted: Noted, pcrs: Values) -> Iterator[Reason]:
    digest, path = noted.first
    if path != AGGREGATE:
        yield Reason(BOOT_AGGREGATE, "the IMA log does not begin with boot_aggregate", seen=shown(path))
        return
    algorithm, _, value = digest.partition(b":\0")
    bank = shown(algorithm)
    values = pcrs.get(bank, {}) if bank in STRONG_BANKS else {}
    if any(index not in values for index in range(10)):
        yield Reason(BOOT_AGGREGATE, "boot_aggregate is of a bank whose PCRs 0 to 9 are not quoted", seen=bank)
        return
    expected = hashlib.new(bank, b"".join(values[index] for index in range(10))).digest()
    if expected == value:
        return
    told = "boot_aggregate is not that of the quoted PCRs 0 to 9"
    if hashlib.new(bank, b"".join(values[index] for index in range(8))).digest() == value:
        told = "boot_aggregate is that of the quoted PCRs 0 to 7 alone, as kernels before Linux 5.8 make it"
    yield Reason(BOOT_AGGREGATE, told, expected=f"{bank}:{expected.hex()}", seen=f"{bank}:{value.hex()}")
