"""A boot log in a file: what its replay gives, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perunml.evidence.bootlog.claims import boot_claims
from perunml.evidence.bootlog.facts import read_boot_log
from perunml.evidence.bootlog.parse import BootLog, parse_boot_log
from perunml.evidence.bootlog.replay import replay
from perunml.evidence.codes import NON_CANONICAL
from perunml.wire.errors import PerunError, refuse

MAX_FILE = 16 * 1024 * 1024
"""Bytes of a boot log: firmware reserves 64 KiB to 1 MiB."""


@dataclass(frozen=True, slots=True)
class ReplayedLog:
    """`pcrs` holds, by bank, what replay gives for each PCR that the log extends."""

    log: BootLog
    pcrs: dict[str, dict[int, bytes]]

    def claims(self, proven: Mapping[str, Mapping[int, bytes]], cmdline: str = "") -> dict[str, Any]:
        """What the log tells; `proven` are the quoted PCRs, `cmdline` what the machine says its kernel was given."""
        try:
            facts = read_boot_log(self.log, proven, cmdline=cmdline)
        except PerunError:  # no strong bank is quoted, which is told as a reason of its own
            facts = read_boot_log(self.log, {}, cmdline=cmdline)
        return boot_claims(facts)


def read_boot(data: bytes) -> ReplayedLog:
    """Raises `EvidenceRefusal` (non_canonical): truncated, trailing bytes, unknown banks, a late StartupLocality."""
    if len(data) > MAX_FILE:
        raise refuse(NON_CANONICAL, "the boot log is too long", expected=f"at most {MAX_FILE} bytes")
    log = parse_boot_log(data)
    return ReplayedLog(log, replay(log))
