"""Named stores: buckets in which assets' blobs may lie instead of the manager's folder: `perunml manager store`.

Credentials lie in the database, sealed by the manager's keys and bound to the place that they are for: a row that was altered so that
they would be shown to another service does not open. Nobody but the store is shown them, nor are they in any log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from perunml.manager.codes import STORE_IN_USE, STORE_UNKNOWN
from perunml.manager.config import Config
from perunml.manager.custody import kind_of
from perunml.manager.device import make_custody
from perunml.manager.keys import Keys
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.manager.store.database import Database
from perunml.sealing.codes import STORE_INVALID
from perunml.sealing.store_s3 import Credentials, Place, S3Store
from perunml.wire.canonical import canonical, load_json
from perunml.wire.errors import refuse

TRIES = 3
"""Of one request by the manager, which somebody waits for."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_STORE = "SELECT * FROM stores WHERE name = :name"
_ALL = (
    "SELECT s.name, s.url, s.bucket, s.prefix, s.region, count(a.digest) AS assets FROM stores s LEFT JOIN assets a ON a.store = s.name "
    "GROUP BY s.name ORDER BY s.name"
)
_USED = "SELECT count(*) FROM assets WHERE store = :name"
_ADD = Statement(insert(t.stores))
_DROP = "DELETE FROM stores WHERE name = :name"


@dataclass(frozen=True, slots=True)
class Named:
    """A store, and how many assets lie in it."""

    name: str
    place: Place
    assets: int

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, **self.place.as_json(), "assets": self.assets}


class Stores:
    """The stores of a running manager; one that was added meanwhile is there."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._opened: dict[str, tuple[bytes, S3Store]] = {}

    def check(self, connection: Connection, name: str) -> None:
        """Raises `UsageError` (store_unknown)."""
        _row(connection, name)

    def open(self, connection: Connection, name: str, asset: str) -> S3Store:
        """The store for an asset's blobs. Raises `UsageError` (store_unknown, store_unsupported), `IntegrityError` (custody_broken)."""
        row = _row(connection, name)
        kept = bytes(row.kept)
        opened = self._opened.get(name)
        if opened is None or opened[0] != kept:
            place = _place(row)
            held = load_json(self._keys.take(kept, _custody(name, place)))
            opened = self._opened[name] = (kept, S3Store(place, Credentials(**held), tries=TRIES))
        return opened[1].of(asset)


def add(
    folder: Path, name: str, passphrase: bytes | None = None, *, s3: str, bucket: str, credentials: Path, prefix: str = "",
    region: str = "us-east-1", replace: bool = False, tcti: str | None = None,
) -> Named:  # fmt: skip
    """Name a bucket at the service `s3` (https://host[:port]) as a store of the manager of `folder`, which may be running, after a look whether it answers. `credentials` is
    a file (`Credentials.decode`). With `replace` those of a store that is there are replaced, not its place. Raises `UsageError` (store_invalid, store_unknown: the name is
    taken; folder_in_use), `Unreachable` (store_unreachable, store_refused), and what custody refuses."""
    if not _NAME.fullmatch(name):
        raise refuse(STORE_INVALID, "not a store's name", expected="lower-case letters, digits, - and _", seen=name)
    place = Place(s3, bucket, prefix, region)
    account = Credentials.decode(_read(credentials))
    S3Store(place, account, tries=TRIES).check()
    keys = _unlock(folder, passphrase, tcti)
    database = Database.open(Config.load(folder).database)
    try:
        with database.write() as connection:
            before = connection.run(_STORE, {"name": name}).first()
            if (before is not None) != replace or (before is not None and _place(before) != place):
                raise refuse(
                    STORE_UNKNOWN, "a store of this name is there, at another place" if before is not None and replace else "a store of this name is there"
                    if before is not None else "no store of this name is there to replace", seen=name,
                )  # fmt: skip
            connection.run(_DROP, {"name": name})
            kept = keys.keep(canonical(account.as_json()), _custody(name, place))
            _ADD.run(connection, name=name, **place.as_json(), kept=kept)
            used = int(connection.run(_USED, {"name": name}).scalar() or 0)
    finally:
        database.close()
    return Named(name, place, used)


def show(folder: Path) -> list[Named]:
    """The stores of the manager of `folder`, by name. Raises `UsageError` (folder_in_use)."""
    database = Database.open(Config.load(folder).database)
    try:
        with database.read() as connection:
            return [Named(row.name, _place(row), int(row.assets)) for row in connection.run(_ALL).all()]
    finally:
        database.close()


def remove(folder: Path, name: str) -> Named:
    """Forget a store and its credentials; the bucket stays as it is. Raises `UsageError` (store_unknown, store_in_use, folder_in_use)."""
    database = Database.open(Config.load(folder).database)
    try:
        with database.write() as connection:
            place = _place(_row(connection, name))
            if used := int(connection.run(_USED, {"name": name}).scalar() or 0):
                raise refuse(STORE_IN_USE, f"assets lie in {name}", expected="none", seen=str(used))
            connection.run(_DROP, {"name": name})
    finally:
        database.close()
    return Named(name, place, 0)


def _row(connection: Connection, name: str) -> Any:
    row = connection.run(_STORE, {"name": name}).first()
    if row is None:
        names = [found.name for found in connection.run(_ALL).all()]
        raise refuse(STORE_UNKNOWN, "no store of this name", expected=" or ".join(names) or "none: the manager has its folder alone", seen=name)  # fmt: skip
    return row


def _place(row: Any) -> Place:
    return Place(row.url, row.bucket, row.prefix, row.region)


def _custody(name: str, place: Place) -> dict[str, Any]:
    return {"label": "perunml/store", "name": name, **place.as_json()}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise refuse(STORE_INVALID, "the file of credentials cannot be read", seen=exc.strerror or "OSError") from None


def _unlock(folder: Path, passphrase: bytes | None, tcti: str | None) -> Keys:
    from perunml.manager.setup import unlock  # which imports the services, and so this module

    device = Config.load(folder).device
    device = device if tcti is None else changed(device, tcti=tcti)
    return unlock(folder, make_custody(kind_of(folder), device, passphrase))
