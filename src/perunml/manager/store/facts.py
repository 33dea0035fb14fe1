"""Small facts about a manager that outlast it: one text each, by name."""

from __future__ import annotations

from sqlalchemy.dialects.sqlite import insert as upsert

from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement

RESTORED = "restored"
"""The size of the ledger that a backup was restored with; until the manager has begun its next epoch."""
EPOCH = "epoch"
"""How often the manager was restored."""
COUNTER = "counter"
"""The sealed record of what the TPM's counter said last (`counter.Record`); not there without one."""
ROLLBACK = "rollback"
"""Why nothing is entered any more (`rollback.Rollback`)."""
INTAKE = "intake"
"""The generation of the intake key, 1 where there is none."""
_READ = "SELECT value FROM facts WHERE name = :name"
_DROP = "DELETE FROM facts WHERE name = :name"
_fact = upsert(t.facts)
_PUT = Statement(_fact.on_conflict_do_update(index_elements=["name"], set_={"value": _fact.excluded.value}))


def get(connection: Connection, name: str) -> str:
    """The fact, or an empty text."""
    return str(connection.run(_READ, {"name": name}).scalar() or "")


def number(connection: Connection, name: str, default: int) -> int:
    """A fact that is a number."""
    found = get(connection, name)
    return int(found) if found else default


def put(connection: Connection, name: str, value: str | int) -> None:
    _PUT.run(connection, name=name, value=str(value))


def drop(connection: Connection, name: str) -> None:
    connection.run(_DROP, {"name": name})
