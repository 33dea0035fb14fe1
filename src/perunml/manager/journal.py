"""The ledger's store: nodes, entries and the signed checkpoint, appended inside the writer's transaction.

What a transaction appends is kept until its end; then leaves, tree nodes and one checkpoint are written together, so a
group of decisions costs one signature and one walk along the tree's edge.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert
from sqlalchemy.dialects.sqlite import insert as upsert

from perunml.ledger.checkpoint import open_checkpoint, sign_checkpoint
from perunml.ledger.codes import BAD_TILE
from perunml.ledger.entries import SALT_SIZE, Entry, entry_data, entry_hash, leaf_of
from perunml.ledger.merkle import NodeKey, Tree, leaf_hash
from perunml.manager.codes import STATE_DAMAGED
from perunml.manager.keys import Keys
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.wire.errors import PerunError, refuse

_NODE_SQL = "SELECT hash FROM nodes WHERE level = :level AND position = :position"
_HEAD = "SELECT hash FROM heads WHERE agreement = :agreement"
_ADD_NODE = Statement(insert(t.nodes))
_ADD_ENTRY = Statement(insert(t.entries))
_head = upsert(t.heads)
_SET_HEAD = Statement(_head.on_conflict_do_update(index_elements=["agreement"], set_={"hash": _head.excluded.hash}))
_point = upsert(t.checkpoint)
_SET_CHECKPOINT = Statement(
    _point.on_conflict_do_update(
        index_elements=["id"],
        set_={"size": _point.excluded.size, "time": _point.excluded.time, "note": _point.excluded.note},
    )
)
_CHECKPOINT = "SELECT size, time, note FROM checkpoint WHERE id = 1"


class Nodes:
    """Reads the tree's nodes from a connection; `known` saves reading what was just written."""

    def __init__(self, connection: Connection, known: Mapping[NodeKey, bytes] | None = None) -> None:
        self._connection = connection
        self._known = known or {}

    def node(self, level: int, index: int) -> bytes:
        """Raises `IntegrityError` (bad_tile)."""
        if found := self._known.get((level, index)):
            return found
        row = self._connection.run(_NODE_SQL, {"level": level, "position": index}).first()
        if row is None:
            raise refuse(BAD_TILE, "a node of the ledger is missing", seen=f"level {level}, index {index}")
        return bytes(row[0])


@dataclass(frozen=True, slots=True)
class State:
    """The ledger as last checkpointed. `time` is its newest entry's."""

    size: int
    time: int
    note: str


def state(connection: Connection) -> State:
    """The newest checkpoint. Raises `IntegrityError` (state_damaged) when there is none."""
    row = connection.run(_CHECKPOINT).first()
    if row is None:
        raise refuse(STATE_DAMAGED, "the manager's ledger has no checkpoint")
    return State(int(row[0]), int(row[1]), str(row[2]))


def check(connection: Connection, keys: Keys) -> State:
    """The newest checkpoint, after its signature, and after the stored nodes and entries gave its very root. Raises
    `IntegrityError` (state_damaged): entries were cut off, altered, or are another manager's."""
    found = state(connection)
    count = connection.run("SELECT count(*), max(position) FROM entries").one()
    try:
        signed = open_checkpoint(found.note, keys.identity.public)
        same = signed.root == Tree(found.size, Nodes(connection)).root()
    except PerunError as exc:
        raise refuse(STATE_DAMAGED, "the manager's ledger is damaged", seen=exc.code) from None
    if not same or signed.size != found.size or tuple(count) != (found.size, found.size - 1 if found.size else None):
        raise refuse(
            STATE_DAMAGED, "the ledger's entries are not those of its checkpoint", expected=f"{found.size} entries",
            seen=f"{count[0]} entries",
        )  # fmt: skip
    return found


def begin(connection: Connection, keys: Keys) -> None:
    """The first checkpoint, over no entries."""
    _SET_CHECKPOINT.run(
        connection, id=1, size=0, time=0, note=sign_checkpoint(0, Tree(0, Nodes(connection)).root(), keys.identity)
    )


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a savepoint stands."""

    count: int
    heads: dict[str, str]


class Journal:
    """The entries of one transaction. `halted` raises where nothing may be entered any more."""

    def __init__(
        self, connection: Connection, keys: Keys, known: Mapping[NodeKey, bytes], halted: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._halted = halted
        before = state(connection)
        self._size, self._time, self.note = before.size, before.time, before.note
        self._known = known
        self._heads: dict[str, str] = {}
        self._pending: list[dict[str, Any]] = []

    @property
    def time(self) -> int:
        """Of the newest entry: time is never below it."""
        return self._time

    @property
    def size(self) -> int:
        """Entries so far: the index of the next one."""
        return self._size + len(self._pending)

    def append(self, type_: str, now: int, agreement: str, subject: str, body: dict[str, Any]) -> tuple[int, str]:
        """Index and hash of a new entry; it is in the ledger when the transaction commits. Raises `IntegrityError`
        (rollback_detected)."""
        self._halted()
        now = self.at(now)
        previous = self._head(agreement) if agreement else ""
        data = entry_data(Entry(type_, now, agreement, subject, body, previous))
        salt = os.urandom(SALT_SIZE)
        leaf = leaf_of(data, salt)
        position = self._size + len(self._pending)
        self._pending.append(
            {"position": position, "agreement": agreement, "leaf": leaf, "salt": salt,
             "entry": data.decode(), "time": now}
        )  # fmt: skip
        hashed = entry_hash(leaf)
        if agreement:
            self._heads[agreement] = hashed
        return position, hashed

    def at(self, now: int) -> int:
        """`now`, or the newest entry's time where that is later: whoever waited in the queue, or for a witness, took the time before
        others who were faster, and the ledger's times do not run backwards."""
        return max(now, self._pending[-1]["time"] if self._pending else self._time)

    def mark(self) -> Mark:
        return Mark(len(self._pending), dict(self._heads))

    def back_to(self, mark: Mark) -> None:
        del self._pending[mark.count :]
        self._heads = dict(mark.heads)

    def flush(self) -> dict[NodeKey, bytes]:
        """Write what was appended, and the checkpoint over it. The tree's right edge, for the next transaction."""
        if not self._pending:
            return dict(self._known)
        growth = Tree(self._size, Nodes(self._connection, self._known)).append(
            [leaf_hash(row["leaf"]) for row in self._pending]
        )
        self._time = max(self._time, *(int(row.pop("time")) for row in self._pending))
        self.note = sign_checkpoint(growth.size, growth.root, self._keys.identity)
        _ADD_ENTRY.many(self._connection, self._pending)
        _ADD_NODE.many(
            self._connection,
            [{"level": level, "position": index, "hash": value} for (level, index), value in growth.nodes.items()],
        )
        _SET_HEAD.many(self._connection, [{"agreement": a, "hash": h} for a, h in self._heads.items()])
        _SET_CHECKPOINT.run(self._connection, id=1, size=growth.size, time=self._time, note=self.note)
        self._size = growth.size
        self._pending = []
        # Of the nodes known, only complete subtrees on the right edge are read again.
        known = {**self._known, **growth.nodes}
        return {
            key: value
            for level in range(growth.size.bit_length())
            if growth.size >> level & 1 and (value := known.get(key := (level, (growth.size >> level) - 1)))
        }

    def _head(self, agreement: str) -> str:
        if agreement not in self._heads:
            row = self._connection.run(_HEAD, {"agreement": agreement}).first()
            self._heads[agreement] = row[0] if row else ""
        return self._heads[agreement]
