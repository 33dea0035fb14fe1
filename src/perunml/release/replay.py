"""Replaying a ledger: does every entry follow from what the parties signed?

Pure. The caller has checked that the entries are those of the ledger, in order (`ledger.entries.verify_chain`) and in the tree. The manager
is believed in nothing but the time, and what its hosts proved: every decision is made again by the code that made it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from perunml.agreements.schema import Quorum
from perunml.ledger.entries import OpenedEntry
from perunml.release.codes import HISTORY_INCONSISTENT
from perunml.release.replay_agreements import Agreements, Documents, wrong
from perunml.release.replay_recovery import Recoveries
from perunml.release.replay_runs import Runs
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey

_TOLD = frozenset({"refusal", "epoch", "intake-rotation"})
"""Entries that give nothing to anybody: shown, not replayed."""
SEEN_WITHIN = 65
"""Seconds after an entry within which its quorum had cosigned it, by the witnesses' clocks: these may differ by a minute from the manager's, which waits
for them for five seconds."""


@dataclass(frozen=True, slots=True)
class History:
    """entries    all that the party may read, of all its agreements, by rising index
    documents  signed documents by their payload's digest
    receipts   by run
    manager    the pinned key
    cosigned   by a witness's key the sizes that it cosigned, and when by its clock (seconds since 1970)"""

    entries: Sequence[OpenedEntry]
    documents: Documents
    receipts: Mapping[str, Envelope]
    manager: PublicKey
    cosigned: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Replayed:
    """How much was checked, by kind, and in words what this party's documents cannot tell."""

    counts: Mapping[str, int]
    unchecked: tuple[str, ...]


def replay(history: History) -> Replayed:
    """Raises `IntegrityError` (history_inconsistent), which names the first entry that does not follow."""
    agreements = Agreements(history.documents, history.manager)
    runs = Runs(agreements, history.receipts, history.manager)
    handlers = agreements.handlers() | runs.handlers() | Recoveries(agreements, runs).handlers()
    last, at = -1, 0
    for item in history.entries:
        if item.index <= last or item.entry.time < at:
            raise wrong(item, "entries or their times run backwards", f"after {last}", str(item.index))
        last, at = item.index, item.entry.time
        handler = handlers.get(item.entry.type)
        if handler is None:
            if item.entry.type not in _TOLD:
                agreements.unchecked[f"entries of the type {item.entry.type}"] = None
            continue
        try:
            handler(item)
        except PerunError as exc:
            if exc.code == HISTORY_INCONSISTENT.code:
                raise
            raise wrong(item, f"{exc.code}: {exc.reasons[0].message}") from exc
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            # Whoever wrote the ledger wrote the bodies, and may have put anything where a text or a table belongs.
            raise wrong(item, "its body is not of its form") from exc
    agreements.finish()
    _witnessed(agreements, runs, history.cosigned)
    return Replayed({"entries": len(history.entries), **runs.counts}, tuple(agreements.unchecked))


def _witnessed(agreements: Agreements, runs: Runs, cosigned: Mapping[str, Sequence[tuple[int, int]]]) -> None:
    """Who cosigned is a witness of one of the agreements; of each thing that left, when a quorum had cosigned its entry: that it was in time is counted,
    that it was late, or is not shown, is told. It is no proof of a lie: an answer may have waited, and never have left a manager that died."""
    versions = list(agreements.all())
    named = {key for agreement in versions for keys in agreement.witness_keys.values() for key in keys}
    if strangers := set(cosigned) - named:
        raise refuse(
            HISTORY_INCONSISTENT, "a cosignature of a key that no agreement names as a witness",
            expected=", ".join(sorted(named)), seen=", ".join(sorted(strangers)),
        )  # fmt: skip
    firsts = {key: _Firsts(words) for key, words in cosigned.items()}
    for agreement in versions:
        if not isinstance(agreement.witnesses, Quorum):
            continue
        for index, at in runs.released.get(agreement.digest, {}).items():
            times = sorted(
                min(found)
                for keys in agreement.witness_keys.values()
                if (
                    found := [first for key in keys if key in firsts and (first := firsts[key].over(index)) is not None]
                )
            )
            if len(times) < agreement.witnesses.at_least:
                agreements.unchecked[f"whether witnesses saw the release at entry {index}: none is shown"] = None
            elif (late := times[agreement.witnesses.at_least - 1] - at) > SEEN_WITHIN:
                words = f"whether the release at entry {index} left before its quorum had cosigned it, {late} s later"
                agreements.unchecked[words] = None
            else:
                runs.counts["cosigned"] += 1


class _Firsts:
    """When a witness first cosigned a ledger of more than so many entries."""

    def __init__(self, words: Sequence[tuple[int, int]]) -> None:
        ordered = sorted(words)
        self._sizes = [size for size, _ in ordered]
        earliest = list(accumulate((time for _, time in reversed(ordered)), min))
        self._times = earliest[::-1]

    def over(self, index: int) -> int | None:
        """The earliest time of a cosignature that covers the entry at `index`; None where there is none."""
        place = bisect_right(self._sizes, index)
        return self._times[place] if place < len(self._times) else None
