"""Replaying a ledger: does every entry follow from what the parties signed?

Pure. The caller has checked that the entries are those of the ledger, in order (`ledger.entries.verify_chain`) and in the tree. The manager
is believed in nothing but the time, and what its hosts proved: every decision is made again by the code that made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perunml.ledger.entries import OpenedEntry
from perunml.release.codes import HISTORY_INCONSISTENT
from perunml.release.replay_agreements import Agreements, Documents, wrong
from perunml.release.replay_runs import Runs
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError
from perunml.wire.identity import PublicKey

_TOLD = frozenset({"refusal", "epoch", "intake-rotation"})
"""Entries that give nothing to anybody: shown, not replayed."""


@dataclass(frozen=True, slots=True)
class History:
    """entries    all that the party may read, of all its agreements, by rising index
    documents  signed documents by their payload's digest
    receipts   by run
    manager    the pinned key"""

    entries: Sequence[OpenedEntry]
    documents: Documents
    receipts: Mapping[str, Envelope]
    manager: PublicKey


@dataclass(frozen=True, slots=True)
class Replayed:
    """How much was checked, by kind, and in words what this party's documents cannot tell."""

    counts: Mapping[str, int]
    unchecked: tuple[str, ...]


def replay(history: History) -> Replayed:
    """Raises `IntegrityError` (history_inconsistent), which names the first entry that does not follow."""
    agreements = Agreements(history.documents, history.manager)
    runs = Runs(agreements, history.receipts, history.manager)
    handlers = agreements.handlers() | runs.handlers()
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
    return Replayed({"entries": len(history.entries), **runs.counts}, tuple(agreements.unchecked))
