"""Keeps a lease alive: a thread that renews at a third of it, and says so once when it is lost.

Lost means: the manager refused, or the end came without an accepted renewal. There is no grace: whoever is told wipes and
ends. The agent watches the same deadline from outside, in case this process does nothing any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from perunml.host.clock import boottime
from perunml.host.codes import LEASE_OVER
from perunml.host.session import Session
from perunml.wire.errors import PerunError, Unreachable, refuse
from perunml.wire.rules import Reason

RENEW_AT = 1 / 3
"""Part of a lease after which it is renewed: two more tries fit in before its end."""
RETRY_AFTER = 1.0
"""Seconds between tries while the manager does not answer."""


class LeaseKeeper:
    """`on_lost(reasons)` is called once, from the keeper's thread; `on_renewed(seconds)` after each renewal."""

    def __init__(
        self,
        session: Session,
        on_lost: Callable[[tuple[Reason, ...]], None],
        on_renewed: Callable[[int], None] = lambda seconds: None,
        *,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._session = session
        self._on_lost = on_lost
        self._on_renewed = on_renewed
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="perunml-lease", daemon=True)

    def start(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Renew no more; returns when no renewal is under way. The lease itself goes on until `finish` or its end."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _keep(self) -> None:
        renew_at = self._next()
        while not self._stop.wait(self._pause(renew_at)):
            now = self._clock()
            if now >= self._session.deadline:
                self._lost(refuse(LEASE_OVER, "no renewal was accepted before the lease's end").reasons)
                return
            if now < renew_at:
                continue
            try:
                answer = self._session.renew()
            except Unreachable:
                renew_at = now + RETRY_AFTER
            except PerunError as exc:
                self._lost(exc.reasons)
                return
            else:
                self._on_renewed(answer.lease_seconds)
                renew_at = self._next()

    def _next(self) -> float:
        return self._session.deadline - self._session.lease_seconds * (1 - RENEW_AT)

    def _pause(self, renew_at: float) -> float:
        # Event.wait counts CLOCK_MONOTONIC, which stands still in sleep; a second's beat notices a machine that woke up.
        return max(0.0, min(1.0, min(renew_at, self._session.deadline) - self._clock()))

    def _lost(self, reasons: Iterable[Reason]) -> None:
        if not self._stop.is_set():
            self._on_lost(tuple(reasons))
