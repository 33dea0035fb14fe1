"""The lease's clock: CLOCK_BOOTTIME goes on while the machine sleeps, and nobody can set it."""

from __future__ import annotations

import time


def boottime() -> float:
    """Seconds since boot, time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
