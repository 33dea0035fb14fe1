"""Appraises a boot log's facts: is what was started, by whose word and with which options, what the baseline allows?

Judged are the registers that the baseline neither gives a value for nor leaves open. In these every event must be one that is
admitted: by its own digest, or by what it was recognised as.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from perunml.evidence.bootlog.cmdline import appraise_line
from perunml.evidence.bootlog.facts import APPLICATIONS, LOADER_TEXT, MOK, SECURE_BOOT, BootFacts, Fact, Sort
from perunml.evidence.bootlog.replay import BOOT_REGISTERS
from perunml.evidence.codes import (
    BOOT_EVENT,
    BOOT_SEPARATOR,
    DBX_OUTDATED,
    EVENT_LOG_MISMATCH,
    KERNEL_CMDLINE,
    SECURE_BOOT_OFF,
)
from perunml.evidence.rules import BootRules
from perunml.wire.rules import Reason, printable

JUDGED = frozenset({*BOOT_REGISTERS, 11, 12, 13, MOK})
"""PCR 10 is the IMA log's; later ones belong to the running system."""
MAX_REASONS = 24
"""Events told one by one; the rest is counted."""
_SHOWN = 200


def appraise_boot(facts: BootFacts, rules: BootRules, exact: Mapping[str, Mapping[int, object]]) -> tuple[Reason, ...]:
    """Every reason why the boot is not good enough. `exact` are the registers whose values the baseline gives, by bank."""
    fixed = {index for values in exact.values() for index in values}
    judged = JUDGED - fixed - rules.open
    return (
        *(reason for index, found in facts.mismatches.items() if index not in rules.open for reason in found),
        *bounded(_events(facts, rules, judged)),
        *appraise_secure_boot(facts, rules),
        *bounded(appraise_cmdline(facts, rules, facts.proven & (judged | fixed))),
    )


def appraise_replay(facts: BootFacts) -> tuple[Reason, ...]:
    """Where there are no rules: a log that was sent must still be this boot's."""
    return tuple(reason for found in facts.mismatches.values() for reason in found)


def _events(facts: BootFacts, rules: BootRules, judged: frozenset[int]) -> Iterator[Reason]:
    for register in sorted(judged):
        events = facts.of(register)
        if register not in facts.proven and register not in facts.mismatches:
            # also without a single event: somebody may have left out what extended it
            yield Reason(EVENT_LOG_MISMATCH, f"the boot log does not give PCR {register}, or it is not quoted")
            continue
        if register <= SECURE_BOOT:
            count = sum(fact.sort is Sort.SEPARATOR for fact in events)
            if count != 1:
                yield Reason(BOOT_SEPARATOR, f"PCR {register} has not one separator", expected="1", seen=str(count))
        yield from appraise_events(events, rules, (register,), f"PCR {register}")


def appraise_events(events: Iterable[Fact], rules: BootRules, registers: Iterable[int], where: str) -> Iterator[Reason]:
    """Events that neither their digests nor what they are in one of these PCRs admits."""
    ways = [_admitted(rules, register) for register in registers]
    for fact in events:
        if fact.digest not in rules.loaded and not any(admitted(fact) for admitted in ways):
            yield Reason(
                BOOT_EVENT,
                f"event {fact.event.number}, {where}: {_what(fact)} is not agreed",
                seen=f"{fact.digest}{f' ({_shown(fact.text)})' if fact.text else ''}",
            )


def _admitted(rules: BootRules, register: int) -> Callable[[Fact], bool]:
    """Whether an event of the register is one that its sort admits; its digest alone is looked at elsewhere."""

    def admitted(fact: Fact) -> bool:
        match fact.sort:
            case Sort.SEPARATOR | Sort.ACTION | Sort.SECTION_NAME | Sort.SETTING:
                return True
            case Sort.AUTHORITY:
                return fact.text in rules.authorities
            case Sort.VARIABLE:  # judged by what they say, where Secure Boot is demanded
                return rules.secure_boot
            case Sort.CMDLINE:  # judged by its words, where words are demanded
                return bool(rules.cmdline or rules.no_cmdline)
            case _:
                return (register == APPLICATIONS and fact.digest in rules.applications) or (
                    register == MOK and fact.digest in rules.mok
                )

    return admitted


def appraise_secure_boot(facts: BootFacts, rules: BootRules) -> Iterator[Reason]:
    """Was Secure Boot on, and is its list of revoked images as new as agreed?"""
    proven = SECURE_BOOT in facts.proven
    if rules.secure_boot and not (proven and facts.secure_boot):
        seen = {None: "not measured", True: "not proven", False: "off, or in setup mode"}[facts.secure_boot]
        yield Reason(SECURE_BOOT_OFF, "Secure Boot was not on", expected="on", seen=seen)
    if rules.dbx:
        listed = facts.signatures("dbx") if proven else None
        if missing := sorted(rules.dbx - set(listed or ())):
            yield Reason(
                DBX_OUTDATED,
                "the list of revoked images is older than agreed"
                if listed is not None
                else "the list of revoked images is not proven",
                expected=f"{len(rules.dbx)} entries, among them {missing[0]}",
                seen=f"{len(missing)} missing",
            )


def appraise_cmdline(facts: BootFacts, rules: BootRules, trusted: frozenset[int]) -> Iterator[Reason]:
    """Lines count only in `trusted` registers: in one that is left open anybody at the boot loader's prompt measures a
    good line that starts nothing, and the log's bearer garbles the real one's data."""
    if not rules.cmdline and not rules.no_cmdline:
        return
    lines = {fact.text for fact in facts.facts if fact.sort is Sort.CMDLINE and fact.event.register in trusted}
    if not lines:
        yield Reason(
            KERNEL_CMDLINE,
            "no event of a PCR that is judged is a known kernel command line",
            expected=_shown(" ".join(sorted(rules.cmdline))),
        )
    for line in sorted(lines):
        yield from appraise_line(line, rules)


def _what(fact: Fact) -> str:
    if fact.sort is Sort.AUTHORITY:
        return "what vouched for an image"
    if fact.sort is Sort.OTHER and fact.event.register == APPLICATIONS:
        return "a started image"
    if fact.sort is Sort.OTHER and fact.event.register == LOADER_TEXT:
        return "a text that its digest does not cover"
    return {Sort.SECTION: "a section", Sort.VARIABLE: "a variable", Sort.CMDLINE: "a command line"}.get(
        fact.sort, "an event"
    )


def bounded(reasons: Iterator[Reason]) -> Iterator[Reason]:
    """At most `MAX_REASONS` of them, and how many more there are."""
    last, left = None, 0
    for count, reason in enumerate(reasons, 1):
        if count <= MAX_REASONS:
            yield reason
        else:
            last, left = reason, left + 1
    if last is not None:
        yield Reason(last.rule, f"and {left} more of the boot log are refused")


def _shown(text: str) -> str:
    return printable(text, _SHOWN)
