"""A connection to the store: SQL text in, rows out, nothing between them and SQLite.

SQLAlchemy describes the tables, builds the statements and runs the migrations. On the way to a release it would take more
time than all that the statements do, so what runs them is this page.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

StoreError = sqlite3.Error
"""What every failure of the database itself is."""
Values = Mapping[str, Any]
_shapes: dict[str, Any] = {}
"""Statement -> the named tuple of its rows. Statements are constants of the program, so they are few."""


class Result:
    """What a statement gave. Rows are tuples whose columns have names. Nothing stays open: a statement that was not read to
    its end would hold the transaction's snapshot beyond it."""

    __slots__ = ("_cursor", "_sql")

    def __init__(self, cursor: sqlite3.Cursor, sql: str) -> None:
        self._cursor = cursor
        self._sql = sql

    @property
    def rowcount(self) -> int:
        """Rows changed."""
        return self._cursor.rowcount

    def scalar(self) -> Any:
        """The first row's first value; None when there is no row."""
        row = self._cursor.fetchone()
        self._cursor.close()
        return None if row is None else row[0]

    def first(self) -> Any:
        """The first row, or None."""
        row = self._cursor.fetchone()
        found = None if row is None else self._shape()._make(row)
        self._cursor.close()
        return found

    def one(self) -> Any:
        """The only row. Raises `ValueError` when there is none, or another one."""
        rows = self.all()
        if len(rows) != 1:
            raise ValueError(f"one row is expected, not {len(rows)}")
        return rows[0]

    def all(self) -> list[Any]:
        """All rows."""
        rows = self._cursor.fetchall()
        return list(map(self._shape()._make, rows)) if rows else []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.all())

    def _shape(self) -> Any:
        found = _shapes.get(self._sql)
        if found is None:
            names = [column[0] for column in self._cursor.description]
            found = _shapes[self._sql] = namedtuple("Row", names, rename=True)
        return found


class Connection:
    """One connection. `begin_with` is the statement that begins its transactions; outside of one, each statement is its
    own."""

    def __init__(self, raw: sqlite3.Connection, begin_with: str) -> None:
        self._raw = raw
        self._begin_with = begin_with

    def exec_driver_sql(self, sql: str, values: Values | Sequence[Values] = ()) -> Result:
        """Run a statement whose parameters are written ``:name``; for each of several values, if it is a list of them."""
        if isinstance(values, list):
            return Result(self._raw.executemany(sql, values), sql)
        return Result(self._raw.execute(sql, values), sql)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction: durable at the end, undone when an exception passes."""
        self._raw.execute(self._begin_with)
        try:
            yield self
        except BaseException:
            if self._raw.in_transaction:  # SQLite ends one by itself when the disk is full
                self._raw.execute("ROLLBACK")
            raise
        self._raw.execute("COMMIT")

    def close(self) -> None:
        self._raw.close()
