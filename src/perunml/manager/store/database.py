"""The database file: one connection that writes (one thread, BEGIN IMMEDIATE) and one that reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Executable, create_engine
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import StaticPool

from perunml.manager.codes import STATE_DAMAGED
from perunml.manager.store.connection import Connection, Result, StoreError
from perunml.wire.errors import refuse

BUSY_MS = 10_000
"""How long `perunml manager admit` waits for a running manager's transaction, in milliseconds."""
CACHED_STATEMENTS = 512
_DIALECT = sqlite.dialect(paramstyle="named")


class Statement:
    """A statement built with SQLAlchemy and compiled once."""

    def __init__(self, statement: Executable) -> None:
        compiled = statement.compile(dialect=_DIALECT)  # type: ignore[attr-defined]  # Executable has it; its stub has not
        self.sql = str(compiled)
        self._fixed = {name: value for name, value in compiled.params.items() if value is not None}

    def run(self, connection: Connection, **values: Any) -> Result:
        """Run with `values` for the statement's bind parameters."""
        return connection.exec_driver_sql(self.sql, {**self._fixed, **values})

    def many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            connection.exec_driver_sql(self.sql, [{**self._fixed, **row} for row in rows])


class Database:
    """The file ``manager.sqlite`` in a folder. Made new by `Database.create`, opened by `Database.open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
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
            connection = opened.writer()
            try:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            finally:
                connection.close()
            if found != "ok":
                raise refuse(STATE_DAMAGED, "the manager's database is damaged", seen=str(found))
            opened.migrate()
        except (DatabaseError, StoreError) as exc:
            raise refuse(STATE_DAMAGED, "the manager's database cannot be read", seen=type(exc).__name__) from None
        return opened

    def migrate(self) -> None:
        """Bring the schema to this version's."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.set_main_option("path_separator", "os")
        raw = self._connect()
        engine = create_engine("sqlite+pysqlite://", creator=lambda: raw, poolclass=StaticPool)
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                connection.commit()
        finally:
            engine.dispose()
            raw.close()

    def writer(self) -> Connection:
        """A new connection that writes, to be closed by whoever asked for it."""
        return Connection(self._connect(), "BEGIN IMMEDIATE")

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction of its own, for commands on a manager's folder."""
        connection = self.writer()
        try:
            with connection.begin():
                yield connection
        finally:
            connection.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A snapshot, on the one thread that reads (the event loop's). Do not await inside."""
        if self._reader is None:
            self._reader = Connection(self._connect("query_only=ON"), "BEGIN")
        try:
            with self._reader.begin():
                yield self._reader
        except StoreError:
            self._reader.close()
            self._reader = None
            raise

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _connect(self, *pragmas: str) -> sqlite3.Connection:
        raw = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, cached_statements=CACHED_STATEMENTS
        )
        try:
            # FULL syncs the WAL at each commit: what was acknowledged outlives the machine's power.
            for pragma in (
                f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON",
                "trusted_schema=OFF", "cache_size=-16384", *pragmas,
            ):  # fmt: skip
                raw.execute(f"PRAGMA {pragma}")
        except BaseException:
            raw.close()
            raise
        return raw
