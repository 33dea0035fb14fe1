"""What a host tells its operator: one JSON object per line, for a terminal or a program. Nothing of it is secret, and
nothing of it is a job's: names and digests of the agreement, counts of ciphertext, coded reasons.

Events of a run, by the runner: taken, challenged, released, fetching, fetched, confined, running, renewed, job_ended, sealing,
sealed, sending, finished, failed, refused, lease_lost, warning; for services also serving. By the agent: ready, idle (once),
unreachable, not_started (a run for which there is no room; it is tried again), keys_wiped (the run's processes are gone, and with them its memory), cleaned (leftovers of an earlier agent).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from perunml.wire.canonical import canonical
from perunml.wire.rules import Reason

MAX_EVENT = 256 * 1024
"""Longest line read from a runner, in bytes: a refusal has at most 64 reasons of 2 KiB."""

Event = dict[str, Any]
Listener = Callable[[Event], None]


class Report:
    """Writes a run's events. Thread-safe; a reader that went away is no reason to stop a run."""

    def __init__(self, out: BinaryIO, run: str) -> None:
        self._out = out
        self._run = run
        self._lock = threading.Lock()

    def __call__(self, event: str, **facts: Any) -> None:
        line = canonical({"event": event, "run": self._run, **facts}) + b"\n"
        with self._lock:
            try:
                self._out.write(line)
                self._out.flush()
            except (OSError, ValueError):
                return

    def reasons(self, event: str, reasons: Iterable[Reason], **facts: Any) -> None:
        self(event, reasons=[reason.as_json() for reason in reasons], **facts)
