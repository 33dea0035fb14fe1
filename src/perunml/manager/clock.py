"""Time. `now` never falls below the ledger's newest entry, and a clock that jumps is a refusal, never a reset.

Deadlines run on CLOCK_BOOTTIME, which counts suspension and cannot be set; it holds across restarts of the manager within
one boot of the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from perunml.manager.codes import CLOCK_JUMPED
from perunml.wire.errors import refuse

TOLERANCE = 10.0
"""Seconds by which wall clock and monotonic clock may part at once."""
DRIFT = 0.0005
"""And per second since the start: 500 ppm is the most that NTP slews."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def monotonic() -> float:
    """Seconds of CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Names this boot of the manager's machine; deadlines of another boot are judged by wall time."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""


class Clock:
    """`wall` and `steady` are handed in by tests that set clocks back."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = monotonic) -> None:
        self._wall = wall
        self.steady = steady
        self.boot = boot_id()
        self._start = (wall(), steady())
        self._floor = 0

    def raise_floor(self, seconds: int) -> None:
        """Time was at least `seconds`: the ledger says so."""
        self._floor = max(self._floor, seconds)

    def now(self) -> int:
        """Whole seconds since the epoch. Raises `Unreachable` (clock_jumped)."""
        wall, elapsed = self._wall(), self.steady() - self._start[1]
        expected = self._start[0] + elapsed
        if abs(wall - expected) > TOLERANCE + DRIFT * elapsed or wall + TOLERANCE < self._floor:
            raise refuse(
                CLOCK_JUMPED, "the manager's clock jumped", expected=f"about {max(int(expected), self._floor)}"
            )
        return max(int(wall), self._floor)

    def deadline(self, seconds: float) -> tuple[float, float]:
        """(steady, wall) time in so many seconds."""
        return self.steady() + seconds, self._wall() + seconds

    def left(self, steady: float, wall: float, boot: str) -> float:
        """Seconds until a stored deadline; by wall time when it was made in another boot."""
        return steady - self.steady() if boot == self.boot else wall - self._wall()
