"""Requests that were seen: an id is answered once in the life of a session."""

from __future__ import annotations

import heapq
import threading

from perunml.serving.codes import REQUEST_REPLAYED, SERVICE_BUSY
from perunml.wire.codes import REQUEST_STALE
from perunml.wire.errors import refuse

WINDOW = 120
"""Seconds by which a request's own time may lie behind the service's."""
SKEW = 30
"""Seconds by which a client's clock may be ahead; the same as for signed HTTP requests (wire.httpsig)."""
CAPACITY = 1_000_000
"""Ids remembered at once, about 150 MB."""


class Replays:
    """Remembers ids until their requests are stale and the certificate that they named is over: what is forgotten
    would be refused for its time. Thread-safe."""

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._seen: set[tuple[str, str]] = set()
        self._ends: list[tuple[int, tuple[str, str]]] = []
        self._lock = threading.Lock()

    def admit(self, party: str, request_id: str, *, time: int, certificate_end: int, now: int) -> None:
        """Remember a request, all times in seconds since the epoch. Raises `AgreementRefusal` (request_stale,
        request_replayed) and `LimitReached` (service_busy) when no more can be remembered."""
        if not now - WINDOW <= time <= now + SKEW:
            raise refuse(
                REQUEST_STALE,
                "the request is outside its time window",
                expected=f"within {WINDOW} s before and {SKEW} s after the service's time",
                seen=f"{time - now:+d} s",
            )
        name = (party, request_id)
        with self._lock:
            while self._ends and self._ends[0][0] < now:
                self._seen.discard(heapq.heappop(self._ends)[1])
            if name in self._seen:
                raise refuse(REQUEST_REPLAYED, "a request with this id was seen before", seen=request_id)
            if len(self._seen) >= self._capacity:
                raise refuse(SERVICE_BUSY, "no more requests can be remembered for now")
            self._seen.add(name)
            heapq.heappush(self._ends, (max(time, certificate_end) + WINDOW + SKEW, name))
