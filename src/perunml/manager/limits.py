"""Rates: a token bucket per caller, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from perunml.manager.codes import RATE_LIMITED
from perunml.wire.errors import refuse

MAX_CALLERS = 10_000
"""Buckets kept; the one used longest ago goes first, and starts full when it comes back."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_second` on average, `burst` at once."""

    per_second: float
    burst: float


OPEN = Rate(50, 200)
"""Whoever asks for attestation, by address."""
ATTEST = Rate(2, 60)
"""The same, where a device must work for it: a TPM's quote takes it up to half a second."""
PARTY = Rate(500, 2000)
HOST = Rate(500, 2000)
"""A machine's or a lease's requests: one renewal per lease and run is 1/30 a second."""
ENROL = Rate(0.5, 30)
"""An operator's enrolments begun: each costs a credential, and a wrong answer ends it (K16)."""
HANDOVER = Rate(0.1, 8)
"""By address, whoever asks for the root key: a manager joins once, and each attempt may send a whole log."""
HANDOVER_TOLD = Rate(1 / 60, 16)
"""Attempts that were refused and that the ledger tells of, all addresses together: it is not for strangers to fill."""


class Limits:
    """`steady` gives seconds that never go back."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, kind: str, caller: str, rate: Rate) -> None:
        """One token of `caller`'s. Raises `LimitReached` (rate_limited)."""
        now = self._steady()
        key = (kind, caller)
        tokens, then = self._buckets.pop(key, (rate.burst, now))
        tokens = min(rate.burst, tokens + (now - then) * rate.per_second)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise refuse(RATE_LIMITED, "too many requests", expected=f"at most {rate.per_second:g} a second")
