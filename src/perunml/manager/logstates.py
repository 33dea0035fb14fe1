"""What the kept IMA logs were found to be, in memory: a renewal is judged by its new lines alone.

Only time is saved: where a state is not there (a restart, a machine not seen for long, another baseline) the kept log is
judged from its first line, with the same verdict.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from perunml.evidence.ima.state import LogState

MAX_STATES = 4096
"""States kept, of a kilobyte or two each: a machine has one for each of its sessions that is behind the others."""

_Key = tuple[str, str, int, str]


class LogStates:
    """The newest `MAX_STATES`, each of the kept log of a machine's boot up to a size. Any thread may ask."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, LogState] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, machine: str, boot: str, size: int, judged_by: str) -> LogState | None:
        """The state of the first `size` bytes, judged by a baseline and its open windows (`Allowed.state`)."""
        key = (machine, boot, size, judged_by)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, machine: str, boot: str, state: LogState) -> None:
        """Keep the state of what is kept of the log, and of nothing else."""
        key = (machine, boot, state.size, state.judged_by)
        with self._lock:
            self._kept[key] = state
            self._kept.move_to_end(key)
            while len(self._kept) > MAX_STATES:
                self._kept.popitem(last=False)

    def forget(self) -> None:
        """Drop all: what was put by a transaction that failed is of no kept log."""
        with self._lock:
            self._kept.clear()
