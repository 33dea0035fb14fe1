"""Connections: one engine that writes (one thread, BEGIN IMMEDIATE) and one connection that reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Executable, Row, create_engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from perunml.manager.codes import STATE_DAMAGED
from perunml.wire.errors import refuse

BUSY_MS = 10_000
"""How long `perunml manager admit` waits for a running manager's transaction, in milliseconds."""
_DIALECT = sqlite.dialect(paramstyle="named")


class Statement:
    """A statement compiled once. `exec_driver_sql` skips SQLAlchemy's per-call work, which is most of the cost of a
    statement on the way to a release."""

    def __init__(self, statement: Executable) -> None:
        compiled = statement.compile(dialect=_DIALECT)  # type: ignore[attr-defined]  # Executable has it; its stub has not
        self.sql = str(compiled)
        self._fixed = {name: value for name, value in compiled.params.items() if value is not None}

    def run(self, connection: Connection, **values: Any) -> Any:
        """Run with `values` for the statement's bind parameters; the cursor's result."""
        return connection.exec_driver_sql(self.sql, {**self._fixed, **values})

    def many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            connection.exec_driver_sql(self.sql, [{**self._fixed, **row} for row in rows])

    def one(self, connection: Connection, **values: Any) -> Row[Any] | None:
        """The first row, or None."""
        row: Row[Any] | None = self.run(connection, **values).first()
        return row

    def all(self, connection: Connection, **values: Any) -> Sequence[Row[Any]]:
        rows: Sequence[Row[Any]] = self.run(connection, **values).all()
        return rows


class Database:
    """The file ``manager.sqlite`` in a folder. Made new by `Database.create`, opened by `Database.open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writing = _engine(path, "BEGIN IMMEDIATE", query_only=False)
        self._reading = _engine(path, "BEGIN", query_only=True)
        self._reader: Connection | None = None

    @classmethod
    def create(cls, path: Path) -> Database:
        """A new database, its schema made by the migrations."""
        path.touch(mode=0o600, exist_ok=False)
        made = cls(path)
        made.migrate()
        return made

    @classmethod
    def open(cls, path: Path) -> Database:
        """Raises `IntegrityError` (state_damaged): missing, not a database, or its pages contradict one another."""
        if not path.is_file():
            raise refuse(STATE_DAMAGED, "the manager's database is missing", expected=path.name)
        opened = cls(path)
        try:
            with opened.writing.connect() as connection:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if found != "ok":
                raise refuse(STATE_DAMAGED, "the manager's database is damaged", seen=str(found))
            opened.migrate()
        except (DatabaseError, sqlite3.DatabaseError) as exc:
            raise refuse(STATE_DAMAGED, "the manager's database cannot be read", seen=type(exc).__name__) from None
        return opened

    def migrate(self) -> None:
        """Bring the schema to this version's."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.set_main_option("path_separator", "os")
        with self.writing.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A snapshot, on the one thread that reads (the event loop's). Do not await inside."""
        if self._reader is None:
            self._reader = self._reading.connect()
        try:
            with self._reader.begin():
                yield self._reader
        except DatabaseError:
            self._reader.close()
            self._reader = None
            raise

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._reading.dispose()
        self.writing.dispose()


def _engine(path: Path, begin: str, *, query_only: bool) -> Engine:
    engine = create_engine(
        f"sqlite+pysqlite:///{path}",
        poolclass=NullPool,
        paramstyle="named",
        connect_args={"check_same_thread": False, "isolation_level": None, "cached_statements": 512},
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, record: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        connection.execute("PRAGMA journal_mode=WAL")
        # FULL syncs the WAL at each commit: what was acknowledged outlives the machine's power.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cache_size=-16384")
        if query_only:
            connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
