"""Rules out of a trusted machine's boot log: what parties would agree on, when they agree on this very boot."""

from __future__ import annotations

from perunml.evidence.bootlog.appraise import JUDGED
from perunml.evidence.bootlog.facts import APPLICATIONS, MOK, SECURE_BOOT, BootFacts, Sort
from perunml.evidence.rules import BootRules

FIRMWARE = frozenset({0, 1, 2})
"""The firmware's code, settings and option ROMs: no rule says more of them than their value does."""
_RECOGNISED = frozenset({Sort.SEPARATOR, Sort.ACTION, Sort.SECTION_NAME, Sort.SETTING, Sort.VARIABLE, Sort.AUTHORITY})
"""Admitted by what they are; the rest by their digests."""


def recorded(facts: BootFacts) -> tuple[BootRules, frozenset[int]]:
    """The rules that admit this boot, and the PCRs whose values must be agreed besides: the firmware's and, where Secure
    Boot was not on, PCR 7. A kernel's command line is admitted by its digest, so another line is refused; words are for
    the parties to demand."""
    secure = facts.secure_boot is True
    exact = FIRMWARE if secure else FIRMWARE | {SECURE_BOOT}
    listed = JUDGED - exact - {APPLICATIONS, MOK}

    def digests(registers: frozenset[int]) -> frozenset[str]:
        found = (fact for fact in facts.facts if fact.event.register in registers and fact.sort not in _RECOGNISED)
        return frozenset(fact.digest for fact in found)

    rules = BootRules(
        secure_boot=secure,
        authorities=frozenset(facts.texts(Sort.AUTHORITY)) if secure else frozenset(),
        dbx=frozenset(facts.signatures("dbx") or ()) if secure else frozenset(),
        mok=digests(frozenset({MOK})),
        applications=digests(frozenset({APPLICATIONS})),
        loaded=digests(listed),
    )
    return rules, exact


def joined(some: BootRules, more: BootRules) -> BootRules:
    """Both: each list's items together, each demand that one of them makes."""
    return BootRules(**{name: getattr(some, name) | getattr(more, name) for name in BootRules.__dataclass_fields__})
