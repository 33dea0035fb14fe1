"""Every earlier form of the store comes to be today's, with what was in it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import LargeBinary, MetaData, Table, create_engine

import perunml.manager.store as store
from manager.world import PASSPHRASE, code_of
from perunml.manager import setup
from perunml.manager.config import Config as Folder
from perunml.manager.store.database import Database
from perunml.manager.store.tables import metadata

SCRIPTS = Path(store.__file__).parent / "migrations"


def revisions() -> list[str]:
    """Oldest first; each has one parent."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    found = list(ScriptDirectory.from_config(config).walk_revisions())
    assert all(isinstance(script.down_revision, str) for script in found[:-1])
    return [script.revision for script in reversed(found)]


def at(path: Path, revision: str) -> None:
    """A store as it was made by that version."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()
    engine.dispose()


def row_of(table: Table, number: int) -> dict[str, Any]:
    """Values of each column's own type, unlike from row to row and column to column."""
    row: dict[str, Any] = {}
    for place, column in enumerate(table.columns):
        kind = column.type.python_type
        if isinstance(column.type, LargeBinary):
            row[column.name] = f"{table.name}.{column.name}.{number}".encode()
        elif kind in (int, float):
            row[column.name] = kind(1000 * place + number)
        else:
            row[column.name] = f"{table.name}.{column.name}.{number}"
    return row


@pytest.mark.parametrize("revision", revisions())
def test_a_store_of_every_version_is_brought_to_todays(tmp_path: Path, revision: str) -> None:
    """Filled with two rows a table: the schema is that of a new store, and each value is where it was."""
    path = tmp_path / "manager.sqlite"
    at(path, revision)
    engine = create_engine(f"sqlite:///{path}")
    before = MetaData()
    before.reflect(engine)
    filled = [table for table in before.sorted_tables if table.name != "alembic_version"]
    assert len(filled) > 15
    with engine.begin() as connection:
        for table in filled:
            connection.execute(table.insert(), [row_of(table, number) for number in (1, 2)])
    engine.dispose()
    database = Database(path)
    database.migrate()
    with database.read() as read:
        for table in filled:
            names = [column.name for column in table.columns]
            found = [tuple(row) for row in read.run(f"SELECT {', '.join(names)} FROM {table.name}").all()]
            wanted = [tuple(row_of(table, number)[name] for name in names) for number in (1, 2)]
            assert sorted(map(str, found)) == sorted(map(str, wanted)), table.name
    database.close()
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_each_step_can_be_killed_and_done_again(tmp_path: Path) -> None:
    """A copy of the file from before each step, brought up twice: the second time nothing is left to do."""
    for revision in revisions():
        path = tmp_path / f"{revision}.sqlite"
        at(path, revision)
        shutil.copy(path, tmp_path / "copy.sqlite")
        for one in (path, tmp_path / "copy.sqlite"):
            for _ in range(2):
                database = Database(one)
                database.migrate()
                database.close()
        with closing(sqlite3.connect(path)) as first, closing(sqlite3.connect(tmp_path / "copy.sqlite")) as second:
            assert list(first.iterdump()) == list(second.iterdump())
        (tmp_path / "copy.sqlite").unlink()


def test_a_store_of_a_later_version_is_not_touched(tmp_path: Path) -> None:
    """A manager older than its store refuses to start, and says so."""
    folder = tmp_path / "manager"
    setup.init(folder, PASSPHRASE, url="https://127.0.0.1:1")
    path = Folder.load(folder).database
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    assert code_of(lambda: Database.open(path)) == "state_damaged"
