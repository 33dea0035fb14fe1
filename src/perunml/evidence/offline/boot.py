"""A boot log in a file: what its replay gives, and what it tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from perunml.evidence.bootlog.claims import boot_claims
from perunml.evidence.bootlog.facts import SECURE_BOOT, read_boot_log
from perunml.evidence.bootlog.parse import BootLog, parse_boot_log
from perunml.evidence.bootlog.replay import replay
from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.rules import STRONG_BANKS
from perunml.wire.errors import PerunError, refuse

MAX_FILE = 16 * 1024 * 1024
"""Bytes of a boot log: firmware reserves 64 KiB to 1 MiB."""


@dataclass(frozen=True, slots=True)
class ReplayedLog:
    """`pcrs` holds, by bank, what replay gives for each PCR that the log extends."""

    log: BootLog
    pcrs: dict[str, dict[int, bytes]]

    def claims(self, proven: Mapping[str, Mapping[int, bytes]], cmdline: str = "") -> dict[str, Any]:
        """What the log tells; `proven` are the quoted PCRs (then of these alone, for of others the log says what its bearer
        likes), `cmdline` what the machine says its kernel was given."""
        try:
            facts = read_boot_log(self.log, proven, cmdline=cmdline)
        except PerunError:  # it has no strong bank that is quoted, which is told as a reason of its own
            return boot_claims(read_boot_log(self.log, {}, cmdline=cmdline))
        if proven:
            shown = tuple(fact for fact in facts.facts if fact.event.register in facts.proven)
            facts = replace(facts, facts=shown, variables=facts.variables if SECURE_BOOT in facts.proven else {})
        return boot_claims(facts)

    def is_quoted(self, selection: Iterable[tuple[str, Iterable[int]]]) -> bool:
        """Whether a PCR that the log extends is among the selected ones of a strong bank."""
        return any(bank in STRONG_BANKS and not self.pcrs.get(bank, {}).keys().isdisjoint(i) for bank, i in selection)


def read_boot(data: bytes) -> ReplayedLog:
    """Raises `EvidenceRefusal` (non_canonical): truncated, trailing bytes, unknown banks, a late StartupLocality."""
    if len(data) > MAX_FILE:
        raise refuse(NON_CANONICAL, "the boot log is too long", expected=f"at most {MAX_FILE} bytes")
    log = parse_boot_log(data)
    return ReplayedLog(log, replay(log))
