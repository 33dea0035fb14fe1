"""Cosignatures of the ledger, and who waits for them.

Only what came in since this process started counts: a manager that was restored from an old copy, or that is one of two,
must find its witnesses anew, and they do not cosign a ledger that lost what they saw.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from perunml.agreements.schema import Agreement, Quorum
from perunml.ledger.witnessing import Cosigned
from perunml.manager.clock import Clock
from perunml.manager.codes import WITNESS_CLOCK, WITNESSES_UNREACHABLE
from perunml.manager.rollback import Rollback
from perunml.wire.errors import refuse
from perunml.wire.timestamps import format_time

PATIENCE = 5.0
"""Seconds for which a request waits for witnesses; most answer in some milliseconds."""
SKEW = 60
"""Seconds by which a witness's clock and the manager's may differ."""
IDLE = 30.0
"""Seconds between two cosignatures while nothing waits for any."""
MOST_OFTEN = 0.25
"""And at least: a lease of one second is renewed four times within it."""
A_THIRD = 3
"""Cosignatures in one lease: one may be late, and the renewal still finds a fresh one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A witness's newest cosignature: over how many entries, when by its own clock (seconds since 1970), and when it came by
    the manager's steady clock."""

    size: int
    time: int
    at: float


class Witnessed:
    """All cosignatures of this process; for the event loop's thread. Nobody waits for them on a manager that was `rollback`ed."""

    def __init__(self, clock: Clock, rollback: Rollback) -> None:
        self._clock = clock
        self._rollback = rollback
        self._seen: dict[str, Seen] = {}
        self._turn = asyncio.Event()
        self._wanted_size = 0
        self._wanted_at = float("-inf")
        self._leases: dict[float, float] = {}
        self._lines: dict[tuple[str, int], Cosigned] = {}
        self._withheld: set[str] = set()

    def add(self, key: str, found: Cosigned) -> None:
        """What the witness `key` cosigned, after it was checked. Raises `UsageError` (witness_clock)."""
        now = self._clock.now()
        if abs(found.time - now) > SKEW:
            raise refuse(
                WITNESS_CLOCK, "the cosignature's time is not this manager's", expected=format_time(now),
                seen=format_time(found.time),
            )  # fmt: skip
        before, size = self._seen.get(key), found.checkpoint.size
        if before is None or size >= before.size:
            self._seen[key] = Seen(size, found.time, self._clock.steady())
            if before is None or size > before.size:
                self._lines[key, size] = found
            self._stir()

    @property
    def has_lines(self) -> bool:
        return bool(self._lines)

    def take_lines(self) -> dict[tuple[str, int], Cosigned]:
        """By witness and size the first cosignature of each, since this was asked last."""
        taken, self._lines = self._lines, {}
        return taken

    def absent(self, agreement: Agreement, *, size: int = 0, within: float | None = None) -> tuple[str, ...]:
        """The witnesses that are missing, in words, for the ledger's first `size` entries to be cosigned by the agreement's
        quorum, no longer than `within` seconds ago; empty when nothing is missing, and where witnesses are waived."""
        if not isinstance(agreement.witnesses, Quorum):
            return ()
        missing: list[str] = []
        for name, keys in agreement.witness_keys.items():
            found = [seen for key in keys if (seen := self._seen.get(key))]
            if not any(self._counts(seen, size, within) for seen in found):
                missing.append(f"{name} ({self._last(found, size)})")
        return tuple(missing) if len(agreement.witnesses.of) - len(missing) < agreement.witnesses.at_least else ()

    async def wait(
        self, agreement: Agreement, *, size: int = 0, within: float | None = None, patience: float = PATIENCE
    ) -> tuple[str, ...]:
        """As `absent`, after having waited for up to `patience` seconds that nothing is."""
        if within is not None:
            self._leases[within] = self._clock.steady()
        missing = self.absent(agreement, size=size, within=within)
        if not missing:
            return ()
        self._wanted_size = max(self._wanted_size, size)
        if within is not None:
            self._wanted_at = self._clock.steady()
        self._stir()
        try:
            async with asyncio.timeout(patience):
                while missing := self.absent(agreement, size=size, within=within):
                    await self._turn.wait()
        except TimeoutError:
            pass
        return missing

    async def demand(self, agreement: Agreement, *, size: int = 0, within: float | None = None) -> None:
        """As `wait`. Raises `Unreachable` (witnesses_unreachable), `IntegrityError` (rollback_detected)."""
        self._rollback.check()
        missing = await self.wait(agreement, size=size, within=within)
        self._rollback.check()
        if missing:
            quorum = agreement.witnesses
            assert isinstance(quorum, Quorum), "nobody is missing where witnesses are waived"
            raise refuse(
                WITNESSES_UNREACHABLE,
                "too few of the agreement's witnesses cosign the ledger",
                expected=f"{quorum.at_least} of {', '.join(quorum.of)}",
                seen=f"missing {'; '.join(missing)}",
                command="perunml witness run",
            )

    def withhold(self, lease: str) -> None:
        """The answer that begins this lease waits for witnesses."""
        self._withheld.add(lease)

    def let_go(self, lease: str) -> bool:
        """The answer leaves now, or the lease ended: it is withheld no more. Whether it was until now."""
        if lease not in self._withheld:
            return False
        self._withheld.remove(lease)
        return True

    async def news(self, key: str, size: Callable[[], int], seen: int, hold: float) -> None:
        """Return when the witness `key`, which saw `seen` entries, is wanted again, or after `hold` seconds."""
        try:
            async with asyncio.timeout(min(hold, self.every)):
                while not self._wants(key, size(), seen):
                    await self._turn.wait()
        except TimeoutError:
            pass

    @property
    def every(self) -> float:
        """Seconds that there should be between two cosignatures, as the shortest lease in use asks."""
        now = self._clock.steady()
        self._leases = {lease: at for lease, at in self._leases.items() if now - at < A_THIRD * lease + PATIENCE}
        return max(MOST_OFTEN, min([IDLE, *(lease / A_THIRD for lease in self._leases)]))

    def floor(self, agreement: Agreement, now: int) -> int:
        """The time, `now` or later: that at which a quorum of the agreement's witnesses has been already."""
        if not isinstance(agreement.witnesses, Quorum):
            return now
        times = sorted(
            (
                max(seen.time for key in keys if (seen := self._seen.get(key)))
                for keys in agreement.witness_keys.values()
                if any(key in self._seen for key in keys)
            ),
            reverse=True,
        )
        least = agreement.witnesses.at_least
        return max(now, times[least - 1]) if len(times) >= least else now

    def _wants(self, key: str, size: int, seen: int) -> bool:
        mine = self._seen.get(key)
        if mine is None:
            return True  # its first word to this process is always wanted
        return (seen < self._wanted_size and size > seen) or mine.at < self._wanted_at

    def _counts(self, seen: Seen, size: int, within: float | None) -> bool:
        return seen.size >= size and (within is None or self._clock.steady() - seen.at <= within)

    def _last(self, found: list[Seen], size: int) -> str:
        if not found:
            return "not heard of since this manager started"
        newest = max(found, key=lambda seen: (seen.size, seen.at))
        if newest.size < size:
            return f"has cosigned {newest.size} of {size} entries"
        return f"last heard of {max(0, round(self._clock.steady() - newest.at))} s ago"

    def _stir(self) -> None:
        self._turn.set()
        self._turn = asyncio.Event()
