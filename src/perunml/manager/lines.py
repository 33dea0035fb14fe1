"""Which agreements are in force, as the ledger proves it: for the one decision that must not rest on rows that somebody with the disk in hand
could have edited. The store's own row says so too, and is what everything else asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perunml.ledger.entries import open_data
from perunml.ledger.merkle import MemoryNodes, NodeKey, Tree, leaf_hash
from perunml.manager import journal
from perunml.manager.codes import STATE_DAMAGED
from perunml.manager.keys import Keys
from perunml.manager.store.connection import Connection
from perunml.wire.canonical import load_json
from perunml.wire.errors import PerunError, refuse

BATCH = 4096
"""Entries hashed at once."""
_ENTRIES = "SELECT position, leaf, salt, entry FROM entries WHERE position >= :first ORDER BY position LIMIT :batch"
_CHANGES = "SELECT entry FROM entries WHERE position >= :first ORDER BY position"
_KINDS = ("in-force", "superseded")


@dataclass(frozen=True, slots=True)
class InForce:
    """The digests of the newest version in force of every agreement, after the ledger's first `size` entries."""

    size: int
    digests: tuple[str, ...]


def proven(path: Path, keys: Keys) -> InForce:
    """Read the whole ledger of the database at `path`, each entry against its leaf and all leaves against the manager's signed checkpoint; for any
    thread. Raises `IntegrityError` (state_damaged)."""
    connection = Connection(path, query_only=True)
    try:
        connection.run("BEGIN")
        return _proven(connection, keys)
    finally:
        connection.close()


def changed(connection: Connection, since: InForce) -> bool:
    """Whether an agreement came into force, or was superseded, after that."""
    rows = connection.run(_CHANGES, {"first": since.size}).all()
    return any(_entry(row[0])["type"] in _KINDS for row in rows)


def _proven(connection: Connection, keys: Keys) -> InForce:
    found, size, edge = dict[str, None](), 0, dict[NodeKey, bytes]()
    state = journal.check(connection, keys)
    try:
        while rows := connection.run(_ENTRIES, {"first": size, "batch": BATCH}).all():
            hashes = []
            for _, leaf, salt, text in rows:
                open_data(bytes(leaf), text.encode(), bytes(salt))
                hashes.append(leaf_hash(bytes(leaf)))
                entry = _entry(text)
                if entry["type"] == "in-force":
                    found[entry["agreement"]] = None
                elif entry["type"] == "superseded":
                    found.pop(entry["agreement"], None)
            edge |= Tree(size, MemoryNodes(edge)).append(hashes).nodes
            size += len(rows)
            keep = [(level, (size >> level) - 1) for level in range(size.bit_length()) if size >> level & 1]
            edge = {key: edge[key] for key in keep}
        same = (
            size == state.size and Tree(size, MemoryNodes(edge)).root() == Tree(size, journal.Nodes(connection)).root()
        )
    except PerunError as exc:
        raise refuse(STATE_DAMAGED, "the ledger's entries are not what its leaves commit to", seen=exc.code) from None
    if not same:
        raise refuse(
            STATE_DAMAGED, "the ledger's entries are not those of its checkpoint", expected=f"{state.size} entries"
        )
    return InForce(size, tuple(found))


def _entry(text: str) -> dict[str, Any]:
    found: dict[str, Any] = load_json(text.encode())
    return found
