"""Writes what an installed agent needs, and takes it away again: nothing of anybody else's is overwritten or removed.

A record of what was written, with digests, lies in /var/lib/perunml. It is written first, so that whatever a crash leaves can be
taken away.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from perunml.host.codes import INSTALL_CONFLICT
from perunml.wire.canonical import canonical
from perunml.wire.digests import digest
from perunml.wire.errors import PerunError, error
from perunml.wire.rules import Reason

RECORD = "var/lib/perunml/installed.json"
What = Literal["written", "replaced", "there already", "removed", "kept: changed since", "gone already"]


@dataclass(frozen=True, slots=True)
class Change:
    """A file, as an absolute path, and what became of it."""

    path: str
    what: What


@dataclass(frozen=True, slots=True)
class Done:
    """What was done, or with a dry run would be, in order."""

    changes: tuple[Change, ...]

    @property
    def changed(self) -> bool:
        return any(change.what in ("written", "replaced", "removed") for change in self.changes)


def install(wanted: Mapping[str, str], root: Path = Path("/"), *, dry_run: bool = False) -> Done:
    """Write `wanted` (paths below the root, and texts). What is there already stays; what an earlier installation wrote, and nobody changed
    since, is replaced. Raises `UsageError` (install_conflict) for all others, before anything is written; `OSError`."""
    record = _record(root)
    changes: list[Change] = []
    reasons: list[Reason] = []
    for path, text in wanted.items():
        try:
            seen = _read(root, path)
        except PerunError as exc:
            reasons += exc.reasons
            continue
        if seen is None:
            changes.append(Change(f"/{path}", "written"))
        elif seen == text.encode():
            changes.append(Change(f"/{path}", "there already"))
        elif digest(seen) == record.get(path):
            changes.append(Change(f"/{path}", "replaced"))
        else:
            reasons.append(Reason(INSTALL_CONFLICT, f"/{path} is there, and not as `host install` wrote it", seen=digest(seen), command=f"mv /{path} /{path}.before"))  # fmt: skip
    if reasons:
        raise error(reasons)
    todo = {change.path[1:] for change in changes if change.what in ("written", "replaced")}
    if todo and not dry_run:
        owned = {path: digest(text.encode()) for path, text in wanted.items() if path in todo or path in record}
        _write(root, RECORD, canonical({**record, **owned}))
        for path in sorted(todo):
            _write(root, path, wanted[path].encode(), mode=0o644)
    return Done(tuple(changes))


def uninstall(root: Path = Path("/"), *, dry_run: bool = False) -> Done:
    """Remove what `install` wrote and nobody changed since, and the folders that are empty then. Raises `OSError`."""
    record, changes = _record(root), []
    for path, recorded in sorted(record.items()):
        try:
            seen = _read(root, path)
        except PerunError:
            seen = b""  # no file any more: somebody put something else there
        if seen is None:
            changes.append(Change(f"/{path}", "gone already"))
        elif digest(seen) == recorded:
            changes.append(Change(f"/{path}", "removed"))
            if not dry_run:
                (root / path).unlink()
        else:
            changes.append(Change(f"/{path}", "kept: changed since"))
    if record and not dry_run:
        (root / RECORD).unlink()
        for path in (*record, RECORD):
            _remove_empty((root / path).parent, root)
    return Done(tuple(changes))


def _record(root: Path) -> dict[str, str]:
    found = _read(root, RECORD)
    value = json.loads(found) if found is not None else {}
    return {str(path): str(recorded) for path, recorded in value.items()}


def _read(root: Path, path: str) -> bytes | None:
    """A file's bytes, None where nothing is there. Raises `UsageError` (install_conflict) where a link leads out of the root, or it is
    no file."""
    place = _inside(root, path)
    if not os.path.lexists(place):
        return None
    if place.is_symlink() or not place.is_file():
        raise error([Reason(INSTALL_CONFLICT, f"/{path} is no plain file", seen="a link" if place.is_symlink() else "no file")])  # fmt: skip
    return place.read_bytes()


def _inside(root: Path, path: str) -> Path:
    parent = (root / path).parent.resolve()
    if not parent.is_relative_to(root.resolve()):
        raise error([Reason(INSTALL_CONFLICT, f"the folder of /{path} leads elsewhere", seen=str(parent))])
    return parent / Path(path).name


def _write(root: Path, path: str, data: bytes, *, mode: int = 0o600) -> None:
    """Whole or not at all."""
    place = _inside(root, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.perunml")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    part.replace(place)


def _remove_empty(folder: Path, root: Path) -> None:
    for each in _up(folder, root):
        with contextlib.suppress(OSError):
            each.rmdir()


def _up(folder: Path, root: Path) -> Iterator[Path]:
    """The folders that `install` may have made: never one of the distribution's own, which are not empty, nor the root."""
    while folder not in (root, folder.parent) and folder.name not in ("etc", "var", "lib", "system", "rules.d"):
        yield folder
        folder = folder.parent
