"""Judges the boot log that came with a quote: parse, replay, facts, appraisal in one call. The log of a boot is the same at each
renewal, so what was read of it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from perunml.evidence.bootlog.appraise import appraise_boot, appraise_replay
from perunml.evidence.bootlog.facts import SECURE_BOOT, BootFacts, Sort, read_boot_log
from perunml.evidence.bootlog.parse import parse_boot_log
from perunml.evidence.codes import EVENT_LOG_MISSING
from perunml.evidence.rules import BootRules
from perunml.wire.canonical import Json
from perunml.wire.errors import PerunError
from perunml.wire.rules import Reason, printable

BOOTS = 64
"""Boots whose facts are kept read: some 100 KiB each. Reading one takes a millisecond or two."""
MAX_KEPT = 96 * 1024
"""Bytes of a log whose facts are kept; a longer one is read anew each time, so that odd logs do not fill the memory."""
_IMA = 10
_SHOWN = 500
_LINES = 4
"""Command lines told in an appraisal: a boot has one, in two or three forms."""

Quoted = tuple[tuple[str, tuple[tuple[int, bytes], ...]], ...]


@dataclass(frozen=True, slots=True)
class BootFindings:
    """`facts` of a log that was read, else None; every reason why the boot is not good enough, where there are rules."""

    facts: BootFacts | None
    reasons: tuple[Reason, ...]

    def claims(self) -> dict[str, Json]:
        """What a party is told of the boot; `boot_claims` tells all."""
        if self.facts is None:
            return {"events": 0}
        facts = self.facts
        told = [f.text for f in facts.facts if f.sort is Sort.CMDLINE and f.event.register in facts.proven]
        return {
            "events": len(facts.log.events),
            "proven": sorted(facts.proven),
            "secure_boot": facts.secure_boot if SECURE_BOOT in facts.proven else None,
            "cmdline": list(dict.fromkeys(printable(text, _SHOWN) for text in told))[:_LINES],
        }


def judge_boot_log(
    event_log: bytes,
    cmdline: str,
    pcrs: Mapping[str, Mapping[int, bytes]],
    rules: BootRules | None,
    exact: Mapping[str, Mapping[int, object]],
) -> BootFindings:
    """The firmware's `event_log` and the `cmdline` that the machine tells, by the quoted `pcrs`. Without `rules` a log need not be
    sent, for the baseline's exact values then say all; one that is sent must be of its form, and this boot's. Never raises for a
    bad log: it has that as its reason."""
    if not event_log:
        missing = Reason(EVENT_LOG_MISSING, "no boot log was sent") if rules is not None else None
        return BootFindings(None, (missing,) if missing else ())
    # PCR 10 grows, and no boot log has an event of it
    quoted = tuple((b, tuple((i, v) for i, v in sorted(pcrs[b].items()) if i != _IMA)) for b in sorted(pcrs))
    try:
        facts = (_facts if len(event_log) <= MAX_KEPT else _facts.__wrapped__)(event_log, cmdline, quoted)
    except PerunError as exc:
        return BootFindings(None, exc.reasons)
    return BootFindings(facts, appraise_boot(facts, rules, exact) if rules is not None else appraise_replay(facts))


@lru_cache(maxsize=BOOTS)
def _facts(event_log: bytes, cmdline: str, quoted: Quoted) -> BootFacts:
    return read_boot_log(parse_boot_log(event_log), {bank: dict(values) for bank, values in quoted}, cmdline=cmdline)
