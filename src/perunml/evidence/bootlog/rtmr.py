"""Judges the event log of a confidential VM (CCEL) by its quoted RTMRs, with the rules of a boot log.

UEFI 2.10, 38.4.1, and Intel's Virtual Firmware Design Guide, 8.1: the log's register 0 is MRTD, 1 to 4 are RTMR 0 to 3, which stand for PCRs 1
and 7, PCRs 2 to 6, PCRs 8 to 15, and what applications like. The log has one bank, SHA-384. Which PCR an event was meant for it does
not say; so an event is tried as each, and admitted by what it is, as everywhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

from perunml.evidence.bootlog.appraise import appraise_cmdline, appraise_events, appraise_secure_boot, bounded
from perunml.evidence.bootlog.facts import (
    APPLICATIONS,
    LOADER_FILES,
    LOADER_TEXT,
    SECURE_BOOT,
    STUB,
    BootFacts,
    Fact,
    Sort,
    read_facts,
)
from perunml.evidence.bootlog.parse import BootLog, parse_boot_log
from perunml.evidence.codes import BOOT_SEPARATOR, EVENT_LOG_MISMATCH, EVENT_LOG_MISSING
from perunml.evidence.rules import BootRules
from perunml.wire.canonical import Json
from perunml.wire.errors import PerunError, refuse
from perunml.wire.rules import Reason, printable

BANK, SIZE = "sha384", 48
REGISTERS = range(4)
WHOLE = -1
"""Where reasons stand that concern the log, and no single register."""
STANDS_FOR: Mapping[int, tuple[int, ...]] = {0: (7, 1), 1: (4, 2, 3, 5, 6), 2: (8, 9, 11, 12, 13, 14, 10, 15), 3: ()}
"""RTMR -> the PCRs in whose place it is extended."""
_PLACES = {1: (SECURE_BOOT, 1), 2: (APPLICATIONS,), 3: (LOADER_TEXT, LOADER_FILES, STUB)}
"""The log's register -> the PCRs as whose an event is tried."""
_APPLICATION = 15
"""A PCR of no meaning, for what applications extend."""
_SEPARATED = (0, 1)
"""RTMRs that stand for PCRs with a separator between firmware and what it started."""
LOGS = 64
"""Logs whose facts are kept read."""
MAX_KEPT = 96 * 1024
"""Bytes of a log that is kept, without its padding."""
_SHOWN = 500
_LINES = 4


@dataclass(frozen=True, slots=True)
class RtmrFindings:
    """reasons  RTMR (or `WHOLE`) -> why the log does not explain it, or shows what is not agreed; empty: it explains it, and all is
             agreed. A register that is exact or open has none
    proven   the RTMRs whose values the log gives
    facts    what it tells, by PCRs; None where it did not read
    """

    reasons: Mapping[int, tuple[Reason, ...]]
    proven: frozenset[int]
    facts: BootFacts | None

    def claims(self) -> dict[str, Json]:
        """What the log tells, of the registers that it gives."""
        if self.facts is None:
            return {"events": 0}
        facts = self.facts
        told = [fact for fact in facts.facts if fact.event.register in facts.proven]
        lines = [printable(fact.text, _SHOWN) for fact in told if fact.sort is Sort.CMDLINE]
        applications = [fact.digest for fact in told if fact.event.register == APPLICATIONS and fact.sort is Sort.OTHER]
        return {
            "events": len(facts.log.events),
            "proven": sorted(self.proven),
            "secure_boot": facts.secure_boot if SECURE_BOOT in facts.proven else None,
            "applications": list(applications),
            "cmdline": list(dict.fromkeys(lines))[:_LINES],
            "rtmrs": {str(index): value.hex() for index, value in sorted(facts.values[BANK].items())},
        }


def judge_rtmrs(
    event_log: bytes, cmdline: str, rtmrs: Sequence[bytes], rules: BootRules, *, exact: Set[int], open_: Set[int]
) -> RtmrFindings:
    """The `event_log` by four quoted `rtmrs` (48 bytes each), and the `cmdline` that the machine tells. Judged are the registers
    that are neither `exact` nor `open_`. Never raises for a bad log: each register then has that as its reason."""
    judged = [index for index in REGISTERS if index not in exact and index not in open_]
    try:
        if not event_log:
            raise refuse(EVENT_LOG_MISSING, "no event log was sent")
        facts = read_rtmr_log(event_log, cmdline)
    except PerunError as exc:
        reasons = {
            index: tuple(Reason(r.rule, f"{_where(index)}: {r.message}", r.expected, r.seen) for r in exc.reasons)
            for index in judged or (WHOLE,)  # what the rules demand of the whole log does not go with its registers
        }
        return RtmrFindings(reasons, frozenset(), None)
    facts, proven = _proven(facts, rtmrs)
    told = {index: tuple(_register(facts, rules, index, rtmrs[index], index in proven)) for index in judged}
    trusted = {pcr for index in proven - open_ for pcr in STANDS_FOR[index]}
    whole = (*appraise_secure_boot(facts, rules), *bounded(appraise_cmdline(facts, rules, frozenset(trusted))))
    return RtmrFindings({**told, **({WHOLE: whole} if whole else {})}, proven, facts)


def told_by(event_log: bytes, cmdline: str, rtmrs: Sequence[bytes]) -> RtmrFindings:
    """What an event log tells, and whether it is of this boot, where nobody agreed on rules: each register that it extends must
    have the quoted value. Raises `EvidenceRefusal` (non_canonical) for a log that does not read."""
    facts, proven = _proven(read_rtmr_log(event_log, cmdline), rtmrs)
    extended = facts.values[BANK].keys()
    reasons = {
        index: (_mismatch(index, rtmrs[index], facts),)
        for index in REGISTERS
        if index in extended and index not in proven
    }
    return RtmrFindings(reasons, proven, facts)


def read_rtmr_log(event_log: bytes, cmdline: str) -> BootFacts:
    """The log's facts, nothing of them proven; `values` are the RTMRs that it extends. Raises `EvidenceRefusal` (non_canonical)."""
    log = event_log.rstrip(b"\xff")
    return (_facts if len(log) <= MAX_KEPT else _facts.__wrapped__)(event_log, cmdline)


@lru_cache(maxsize=LOGS)
def _facts(event_log: bytes, cmdline: str) -> BootFacts:
    log = parse_boot_log(event_log, padded=True)
    if log.banks != (BANK,) or any(
        event.extended and not 1 <= event.register <= len(REGISTERS) for event in log.events
    ):
        raise refuse(EVENT_LOG_MISMATCH, "no log of RTMRs", expected=f"one bank, {BANK}, registers 1 to 4")
    facts, variables = read_facts(log, BANK, cmdline, lambda event: _PLACES.get(event.register, (_APPLICATION,)))
    return BootFacts(BANK, log, frozenset(), {}, {BANK: _replayed(log)}, facts, variables)


def _replayed(log: BootLog) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    for event in log.events:
        if event.extended:
            index = event.register - 1
            values[index] = hashlib.sha384(values.get(index, bytes(SIZE)) + event.digests[BANK]).digest()
    return values


def _proven(facts: BootFacts, rtmrs: Sequence[bytes]) -> tuple[BootFacts, frozenset[int]]:
    """The same facts, and the RTMRs that they give; one that nothing extends is given by zeros."""
    values = facts.values[BANK]
    proven = frozenset(index for index in REGISTERS if values.get(index, bytes(SIZE)) == rtmrs[index])
    pcrs = frozenset(pcr for index in proven for pcr in STANDS_FOR[index])
    return BootFacts(facts.bank, facts.log, pcrs, {}, facts.values, facts.facts, facts.variables), proven


def _register(facts: BootFacts, rules: BootRules, index: int, quoted: bytes, proven: bool) -> Iterator[Reason]:
    if not proven:
        yield _mismatch(index, quoted, facts)
        return
    own = {event.number for event in facts.log.events if event.extended and event.register == index + 1}
    events = [fact for fact in facts.facts if fact.event.number in own]
    if index in _SEPARATED:
        yield from _separators(index, events)
    yield from bounded(appraise_events(events, rules, STANDS_FOR[index] or (_APPLICATION,), f"RTMR{index}"))


def _separators(index: int, events: Sequence[Fact]) -> Iterator[Reason]:
    """At least one, and at most one for each PCR: some firmware leaves out all but one."""
    count, most = sum(fact.sort is Sort.SEPARATOR for fact in events), len(STANDS_FOR[index])
    if not 1 <= count <= most:
        what = f"RTMR{index} has not one separator for each PCR that it stands for"
        yield Reason(BOOT_SEPARATOR, what, expected=f"1 to {most}", seen=str(count))


def _where(index: int) -> str:
    return "the event log" if index == WHOLE else f"RTMR{index}"


def _mismatch(index: int, quoted: bytes, facts: BootFacts) -> Reason:
    seen = facts.values[BANK].get(index, bytes(SIZE)).hex()
    what = f"the event log does not give the quoted RTMR{index}"
    return Reason(EVENT_LOG_MISMATCH, what, expected=quoted.hex(), seen=seen)


__all__ = ["STANDS_FOR", "WHOLE", "RtmrFindings", "judge_rtmrs", "read_rtmr_log", "told_by"]
