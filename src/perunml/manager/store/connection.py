"""A connection as the manager uses it: SQL text and named values in, rows out.

Thin on purpose: of the forty statements between a challenge and its keys each would cost five times its own time in
SQLAlchemy's result machinery. Schema, migrations and statements with dialects of their own are still SQLAlchemy's.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Executable
from sqlalchemy.dialects import sqlite

StoreError = sqlite3.Error
"""What a statement or a commit raises when the database fails."""
BUSY_SECONDS = 10.0
"""How long `perunml manager admit` waits for a running manager's transaction."""
_DIALECT = sqlite.dialect(paramstyle="named")
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    # FULL syncs the WAL at each commit: what was acknowledged outlives the machine's power.
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA trusted_schema=OFF",
    "PRAGMA cache_size=-16384",
)


class Result:
    """What a statement gave; a row is a named tuple."""

    __slots__ = ("_cursor", "_sql")

    def __init__(self, cursor: sqlite3.Cursor, sql: str) -> None:
        self._cursor = cursor
        self._sql = sql

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    def first(self) -> Any:
        """The first row, or None."""
        row = self._cursor.fetchone()
        return None if row is None else self._named(row)

    def one(self) -> Any:
        """The only row. Raises `LookupError` when there is none."""
        row = self._cursor.fetchone()
        if row is None:
            raise LookupError("no row")
        return self._named(row)

    def scalar(self) -> Any:
        """The first row's first value, or None."""
        row = self._cursor.fetchone()
        return None if row is None else row[0]

    def all(self) -> list[Any]:
        return list(self)

    def __iter__(self) -> Iterator[Any]:
        return map(self._named, self._cursor)

    def _named(self, row: tuple[Any, ...]) -> Any:
        # The schema does not change while it is open, so a statement's columns do not either.
        made = _ROWS.get(self._sql)
        if made is None:
            made = _ROWS[self._sql] = _row_type(self._cursor)._make
        return made(row)


class Connection:
    """One connection to a database file; used by one thread at a time."""

    def __init__(self, path: Path, *, query_only: bool = False) -> None:
        self._raw = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        for pragma in (*_PRAGMAS, *(["PRAGMA query_only=ON"] if query_only else [])):
            self._raw.execute(pragma)

    def run(self, sql: str, values: Mapping[str, Any] | None = None) -> Result:
        """Run one statement. Raises `StoreError`."""
        return Result(self._raw.execute(sql, values or {}), sql)

    def many(self, sql: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run one statement for each of `rows`."""
        self._raw.executemany(sql, rows)

    def close(self) -> None:
        self._raw.close()


class Statement:
    """A statement written with SQLAlchemy, compiled once."""

    def __init__(self, statement: Executable) -> None:
        compiled = statement.compile(dialect=_DIALECT)  # type: ignore[attr-defined]  # every executable has it
        self.sql = str(compiled)
        self._fixed = {name: value for name, value in compiled.params.items() if value is not None}

    def run(self, connection: Connection, **values: Any) -> Result:
        """Run with `values` for its bind parameters."""
        return connection.run(self.sql, {**self._fixed, **values})

    def many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            connection.many(self.sql, [{**self._fixed, **row} for row in rows])


_ROWS: dict[str, Callable[[tuple[Any, ...]], Any]] = {}
"""What names a row's values, by statement; all statements are constants of this program."""


def _row_type(cursor: sqlite3.Cursor) -> Any:
    return namedtuple("Row", [column[0] for column in cursor.description], rename=True)
