"""A manager that was shown to be an old copy, or one of two, changes nothing more.

What shows it is a checkpoint that this very manager signed and that its own ledger does not contain (manager/witnesses.py), or a
counter outside of the store that is ahead of it. It is kept for good: what this copy lacks comes back by no restart.
"""

from __future__ import annotations

import threading

from sqlalchemy.dialects.sqlite import insert as upsert

from perunml.manager.codes import ROLLBACK_DETECTED
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.wire.errors import refuse

HANDED = "it handed its root key to another manager, which goes on"
"""What is found of a manager that did: from then on one of the two changes anything (docs/decisions/0026)."""
_NAME = "rollback"
_READ = "SELECT value FROM facts WHERE name = 'rollback'"
_fact = upsert(t.facts)
_KEEP = Statement(_fact.on_conflict_do_nothing())


class Rollback:
    """What was found, if anything was; safe for all threads."""

    def __init__(self, seen: str = "") -> None:
        self._seen = seen
        self._lock = threading.Lock()

    @classmethod
    def load(cls, connection: Connection) -> Rollback:
        """As the store has it."""
        return cls(str(connection.run(_READ).scalar() or ""))

    @property
    def seen(self) -> str:
        """What this copy lacks, in words; empty while nothing was found."""
        return self._seen

    def found(self, connection: Connection, words: str) -> None:
        """Keep what was found, from now on and in the store; the first one counts."""
        with self._lock:
            self._seen = self._seen or words
        _KEEP.run(connection, name=_NAME, value=words)

    def check(self) -> None:
        """Raises `IntegrityError` (rollback_detected)."""
        if self._seen:
            raise refuse(
                ROLLBACK_DETECTED,
                "this manager is not the newest of its kind; it answers what it knows, and changes nothing",
                expected="the ledger that its witnesses and parties have seen",
                seen=self._seen,
            )
