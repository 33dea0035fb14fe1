"""A manager's folder as one file, and back: `perunml manager backup | restore`.

A backup is a tar of the folder, its last member ``backup.json`` with the digest of each file before it. The database is copied by SQLite's own
online backup while the manager runs; the blobs are copied after it, so that all that it acknowledges is there. It holds no key that is not
sealed as it is in the folder, but it does hold the ledger's entries in the clear: keep it as the folder is kept.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from perunml.ledger.checkpoint import open_checkpoint, origin, parse_checkpoint
from perunml.ledger.notes import parse_note
from perunml.manager import journal
from perunml.manager.codes import BACKUP_DAMAGED, BACKUP_OTHER, FOLDER_IN_USE
from perunml.manager.config import Config, sync_folder
from perunml.manager.join import JOINED, Joined
from perunml.manager.rollback import HANDED
from perunml.manager.store import facts
from perunml.manager.store.database import Database
from perunml.wire.canonical import canonical, load_json
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey

FORMAT = "perunml/backup-v1"
INDEX = "backup.json"
MAX_INDEX = 256 * 1024 * 1024
"""Bytes: a million blobs, 200 bytes each."""
MAX_FILE = 64 * 2**40
_PART = 1024 * 1024
_DATABASE = "manager.sqlite"
_TOP = ("manager.json", "root.json", "tls.pem", "host-ca.pem")
_FOLDERS = ("roots", "device", "collateral", "revocations", "blobs")
_NAME = re.compile(r"(manager\.sqlite|manager\.json|root\.json|tls\.pem|host-ca\.pem|"
                   r"(roots|device|collateral|revocations|blobs)(/[A-Za-z0-9_:.][A-Za-z0-9_:.-]{0,199}){1,3})")  # fmt: skip
Progress = Callable[[int, int], None]
"""Bytes done, bytes in all."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds: how many entries its ledger has, under which root, and how many files of how many bytes."""

    size: int
    root: str
    files: int
    bytes: int


def backup(folder: Path, target: Path, progress: Progress = lambda *_: None) -> Backup:
    """Copy the manager of `folder`, which may be running, into the new file `target`. Raises `UsageError` (folder_in_use: no manager's
    folder), `FileExistsError`."""
    config = Config.load(folder)
    index: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".backup-") as temporary:
        copy = Path(temporary) / _DATABASE
        _copy_database(config.database, copy)
        size, root = _ledger(copy)
        files = [(copy, _DATABASE), *_files(folder)]
        total = sum(path.stat().st_size for path, _ in files)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
                done = 0
                for path, name in files:
                    done += _add(archive, path, name, index)
                    progress(done, total)
                data = canonical({"format": FORMAT, "size": size, "root": root, "files": index})
                archive.addfile(_member(INDEX, len(data)), io.BytesIO(data))
            out.flush()
            os.fsync(out.fileno())
    return Backup(size, root, len(index), done)


def restore(source: Path, folder: Path, progress: Progress = lambda *_: None) -> Backup:
    """Make `folder` (not there, or empty, or with a root key that was handed to it) what it was when `source` was written. When the manager runs, it begins
    its next epoch: every lease is over, and nothing is released before the witnesses say that no newer ledger was seen. A root key that was
    handed over stays, and so does what proves the machine that it lies on. Raises `UsageError` (folder_in_use; backup_other: of another manager than the one
    whose key lies there), `IntegrityError` (backup_damaged)."""
    waits = Joined.load(folder) if not (folder / "manager.json").exists() else None
    if waits is None and folder.exists() and any(folder.iterdir()):
        raise refuse(FOLDER_IN_USE, "the folder is not empty", expected="a new folder", seen=str(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".restore-"))
    try:
        found = _unpack(source, temporary, progress)
        _mark(temporary / _DATABASE, found.size)
        config = Config.load(temporary)
        if waits is not None:
            _take_over(config, folder, waits)
        for path in sorted(temporary.rglob("*")):
            if path.is_dir():
                sync_folder(path)
        if waits is not None:
            _move_in(temporary, folder)
        else:
            if folder.exists():
                folder.rmdir()
            temporary.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return found


def _take_over(config: Config, folder: Path, waits: Joined) -> None:
    """Make what was unpacked that of the machine whose root key lies in `folder`."""
    temporary = config.folder
    database = Database(config.database)
    with database.write() as connection:
        note = journal.state(connection).note
        try:
            open_checkpoint(note, PublicKey(waits.identity))
        except PerunError:
            raise refuse(
                BACKUP_OTHER, "the backup is another manager's", expected=f"{waits.identity} ({origin(PublicKey(waits.identity))})",
                seen=parse_checkpoint(parse_note(note).text).origin,
            ) from None  # fmt: skip
        facts.drop(connection, facts.COUNTER)  # of the machine before
        if facts.get(connection, facts.ROLLBACK) == HANDED:
            facts.drop(connection, facts.ROLLBACK)  # that one changes nothing any more; this one goes on
        if waits.counter:
            facts.put(connection, facts.COUNTER, waits.counter)
    database.close()
    (temporary / "root.json").unlink()
    shutil.rmtree(temporary / "device", ignore_errors=True)
    replace(config, device=waits.device).save_settings()


def _move_in(temporary: Path, folder: Path) -> None:
    """What was unpacked into a folder that has the rest, the settings last: what has them is whole. A crash before leaves a folder into which the backup is
    restored again."""
    for path in sorted(temporary.iterdir(), key=lambda path: path.name == "manager.json"):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.rename(target)
    (folder / JOINED).unlink()
    sync_folder(folder)


def _copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
    target.chmod(0o600)


def _ledger(path: Path) -> tuple[int, str]:
    database = Database(path)
    with database.read() as connection:
        state = journal.state(connection)
    database.close()
    return state.size, parse_checkpoint(parse_note(state.note).text).root.hex()


def _mark(path: Path, size: int) -> None:
    try:
        database = Database.open(path)
        with database.write() as connection:
            facts.put(connection, facts.RESTORED, size)
        database.close()
    except PerunError as exc:
        raise refuse(
            BACKUP_DAMAGED, "its database does not open", expected="a manager's store", seen=exc.code
        ) from None


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    for name in _TOP:
        yield folder / name, name
    for top in _FOLDERS:
        for path in sorted((folder / top).rglob("*")):
            if path.is_file() and not path.is_symlink() and _NAME.fullmatch(name := str(path.relative_to(folder))):
                yield path, name


def _member(name: str, size: int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.mode = size, 0o600
    return made


def _add(archive: tarfile.TarFile, path: Path, name: str, index: dict[str, list[Any]]) -> int:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0  # a blob of an output that went meanwhile
    with file:
        size = os.fstat(file.fileno()).st_size
        reader = _Hashing(file, size)
        archive.addfile(_member(name, size), reader)
        index[name] = [size, reader.sha.hexdigest()]
    return size


class _Hashing(io.RawIOBase):
    """The first `size` bytes of a file, hashed as they are read: one that grows meanwhile is copied as far as it was."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left, self.sha = file, size, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        self.sha.update(data)
        return data


def _unpack(source: Path, folder: Path, progress: Progress) -> Backup:
    seen: dict[str, list[Any]] = {}
    total, index = source.stat().st_size, None
    try:
        with tarfile.open(source, "r:") as archive:
            for member in archive:
                data = archive.extractfile(member) if member.isreg() else None
                if data is None or member.name in seen or index is not None:
                    raise _damaged("a member that is no file, is there twice, or follows the index", member.name)
                if member.name == INDEX:
                    index = load_json(data.read(MAX_INDEX + 1), limit=MAX_INDEX)
                elif _NAME.fullmatch(member.name) and ".." not in member.name.split("/"):
                    seen[member.name] = _write(folder / member.name, data)
                else:
                    raise _damaged("a file that no manager has", member.name)
                progress(member.offset_data + member.size, total)
    except tarfile.TarError as exc:
        raise _damaged("it is no backup, or was cut short", type(exc).__name__) from None
    if not isinstance(index, dict) or set(index) != {"format", "size", "root", "files"} or index["format"] != FORMAT:
        raise _damaged("its index is missing or of another form", INDEX)
    if index["files"] != seen:
        wrong = next((name for name in {**index["files"], **seen} if index["files"].get(name) != seen.get(name)), "")
        raise _damaged("a file is missing, or is not the one that was written", wrong)
    return Backup(int(index["size"]), str(index["root"]), len(seen), sum(size for size, _ in seen.values()))


def _write(path: Path, data: IO[bytes]) -> list[Any]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sha, size = hashlib.sha256(), 0
    with path.open("xb") as out:
        os.fchmod(out.fileno(), 0o600)
        while part := data.read(_PART):
            sha.update(part)
            size += out.write(part)
        out.flush()
        os.fsync(out.fileno())
    return [size, sha.hexdigest()]


def _damaged(words: str, seen: str) -> PerunError:
    return refuse(BACKUP_DAMAGED, words, expected="the file that `perunml manager backup` wrote", seen=seen)
