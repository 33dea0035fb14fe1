"""The database file: made by the migrations, opened after a look at its pages, read and written over two connections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from perunml.manager.codes import STATE_DAMAGED
from perunml.manager.store.connection import Connection, StoreError
from perunml.wire.errors import refuse


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
            with opened.read() as connection:
                found = connection.run("PRAGMA quick_check(1)").scalar()
            if found != "ok":
                raise refuse(STATE_DAMAGED, "the manager's database is damaged", seen=str(found))
            opened.migrate()
        except (DatabaseError, StoreError) as exc:
            raise refuse(STATE_DAMAGED, "the manager's database cannot be read", seen=type(exc).__name__) from None
        return opened

    def migrate(self) -> None:
        """Bring the schema to this version's. Raises `IntegrityError` (state_damaged): a later version made it."""
        from alembic import command
        from alembic.config import Config
        from alembic.util.exc import CommandError

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.set_main_option("path_separator", "os")
        engine = create_engine(f"sqlite+pysqlite:///{self.path}", poolclass=NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError:
                raise refuse(
                    STATE_DAMAGED, "the manager's database was made by a later version", seen=self.path.name
                ) from None
            connection.commit()
        engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A snapshot, on the one thread that reads (the event loop's). Do not await inside."""
        connection = self._reader = self._reader or Connection(self.path, query_only=True)
        try:
            connection.run("BEGIN")
            try:
                yield connection
            finally:
                connection.run("ROLLBACK")
        except StoreError:
            self._reader = None
            connection.close()
            raise

    def peek(self, sql: str, values: Mapping[str, Any]) -> Any:
        """The first row of one statement, or None; for the thread that reads."""
        self._reader = self._reader or Connection(self.path, query_only=True)
        return self._reader.run(sql, values).first()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction of one's own: for local commands. A running manager writes through its `Writer`."""
        connection = Connection(self.path)
        try:
            connection.run("BEGIN IMMEDIATE")
            yield connection
            connection.run("COMMIT")
        finally:
            connection.close()

    def writer(self) -> Connection:
        """The connection that the writer keeps."""
        return Connection(self.path)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
