"""One quote for all that ask at once: a TPM signs a few times a second, a host may have several runs to renew.

Who comes while the TPM is at work waits and shares the next quote. A renewal also waits a moment for others, since it is due
long before its lease ends; a release or a finish does not, and takes along who waits.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from perunml.evidence.binding import MAX_BINDINGS
from perunml.evidence.bundle import Bundle

WINDOW = 0.25
"""Seconds that a renewal waits for others; leases have seconds at least, and are renewed at a third of them."""


class Source(Protocol):
    """Of an `attesters.base.Attester`, what is asked for here."""

    def collect_many(self, bindings: Sequence[bytes]) -> Mapping[bytes, Bundle]: ...


@dataclass(slots=True, eq=False)
class _Asked:
    binding: bytes
    patient: bool
    bundle: Bundle | None = None
    error: BaseException | None = None

    @property
    def over(self) -> bool:
        return self.bundle is not None or self.error is not None


class Gatherer:
    """Gathers what several threads ask of one attester. Whoever comes while nobody is at work does the work for all."""

    def __init__(self, source: Source, window: float = WINDOW) -> None:
        self._source = source
        self._window = window
        self._changed = threading.Condition()
        self._waiting: list[_Asked] = []
        self._busy = False

    def collect(self, binding: bytes, *, patient: bool = False) -> Bundle:
        """Evidence for `binding`; `patient`: others may be waited for. Raises what the attester raises, to each who asked."""
        asked = _Asked(binding, patient)
        with self._changed:
            self._waiting.append(asked)
            self._changed.notify_all()
        while not asked.over:
            if together := self._turn(asked):
                self._serve(together)
        if asked.error is not None:
            raise asked.error
        assert asked.bundle is not None
        return asked.bundle

    def _turn(self, asked: _Asked) -> list[_Asked]:
        """Those to serve now, by this thread; none when another one served `asked` meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: asked.over or not self._busy)
            if asked.over:
                return []
            self._busy = True
            self._changed.wait_for(lambda: not all(each.patient for each in self._waiting), self._window)
            together, self._waiting = self._waiting[:MAX_BINDINGS], self._waiting[MAX_BINDINGS:]
            return together

    def _serve(self, together: list[_Asked]) -> None:
        bundles: Mapping[bytes, Bundle] = {}
        failed: BaseException | None = None
        try:
            bundles = self._source.collect_many(sorted({asked.binding for asked in together}))
        except BaseException as exc:  # it is for each who asked, in that one's own thread
            failed = exc
        with self._changed:
            for asked in together:
                asked.bundle, asked.error = bundles.get(asked.binding), failed
            self._busy = False
            self._changed.notify_all()
