"""A service's share of the requests that the agreement allows, drawn from the manager in batches.

Replicas of one service share one limit, so a replica starts with a draw of one and doubles it while it is busy. What was
drawn and not used when a service ends is lost: the manager counted it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from perunml.api.runs import QuotaAnswer
from perunml.serving.codes import QUOTA_EXHAUSTED
from perunml.wire.errors import refuse

MAX_BATCH = 64
QUIET = 60.0
"""Seconds after the last draw from which draws begin small again."""
MAX_RETRY = 3600


class Quota:
    """`draw(wanted)` asks the manager; `clock` in seconds, never going back. Thread-safe."""

    def __init__(self, draw: Callable[[int], QuotaAnswer], *, clock: Callable[[], float]) -> None:
        self._draw = draw
        self._clock = clock
        self._left = 0
        self._batch = 1
        self._drawn = -math.inf
        self._again = 0.0
        self._lock = threading.Lock()

    def take(self) -> None:
        """One request more. Raises `LimitReached` (quota_exhausted), and what the manager refuses or `Unreachable`."""
        with self._lock:
            if self._left == 0:
                self._left = self._more()
            self._left -= 1

    def _more(self) -> int:
        now = self._clock()
        if now < self._again:
            raise self._exhausted(now)
        self._batch = 1 if now - self._drawn > QUIET else min(2 * self._batch, MAX_BATCH)
        answer = self._draw(self._batch)
        self._drawn = now
        if not 0 < answer.granted <= self._batch:
            # Nothing, or a grant that was not asked for: both mean that nothing may be answered.
            self._again = now + max(1, min(answer.retry_seconds, MAX_RETRY))
            raise self._exhausted(now)
        return answer.granted

    def _exhausted(self, now: float) -> Exception:
        wait = max(1, round(self._again - now))
        return refuse(QUOTA_EXHAUSTED, "the agreed number of requests is used up", seen=f"ask again in {wait} s")
