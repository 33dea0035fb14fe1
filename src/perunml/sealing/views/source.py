"""What views read from: an open sealed asset, or a plain folder; and where one lies, which is all that another process is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from perunml.sealing.codes import FILE_MISSING
from perunml.sealing.index import check_path
from perunml.wire.errors import refuse

IN = "PERUNML_IN"
"""The variable that names the folder of a job's inputs."""


class Source(Protocol):
    """Files by path and size, read at any place. Not for several threads at once. With `second_thread` long reads take one more; who reads ahead in a
    thread of his own turns it off, for Python's lock goes round among two better than among three."""

    second_thread: bool

    @property
    def files(self) -> dict[str, int]: ...

    def read_into(self, path: str, offset: int, buffer: memoryview | bytearray) -> int:
        """Fill `buffer` from byte `offset` of a file; how many bytes there were, fewer only at its end. Raises `KeyError` for an unknown
        path, `IntegrityError`."""
        ...

    def close(self) -> None: ...


class Where(Protocol):
    """Where an asset lies and who may open it. It goes to other processes as it is, and holds no key."""

    def open(self) -> Source:
        """A source of its own. Raises `UsageError`, `IntegrityError`."""
        ...

    @property
    def chunk_size(self) -> int:
        """Bytes that are opened together: reading less of them costs as much."""
        ...


class PlainFolder:
    """A folder of plain files, as a `Source` and as its own `Where`."""

    chunk_size = 1 << 20
    second_thread = False  # nothing is opened

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._open_files: dict[str, int] = {}

    def __reduce__(self) -> tuple[type[PlainFolder], tuple[Path]]:
        return PlainFolder, (self.root,)

    def open(self) -> PlainFolder:
        return PlainFolder(self.root)

    @property
    def files(self) -> dict[str, int]:
        if self.root.is_file():
            return {self.root.name: self.root.stat().st_size}
        found = sorted(path for path in self.root.rglob("*") if path.is_file())
        return {path.relative_to(self.root).as_posix(): path.stat().st_size for path in found}

    def read_into(self, path: str, offset: int, buffer: memoryview | bytearray) -> int:
        if offset < 0:
            raise ValueError("negative offset")
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view) and (got := os.preadv(self._fd(path), [view[done:]], offset + done)):
            done += got
        return done

    def close(self) -> None:
        while self._open_files:
            os.close(self._open_files.popitem()[1])

    def _fd(self, path: str) -> int:
        found = self._open_files.get(path)
        if found is None:
            place = self.root if self.root.is_file() else self.root / check_path(path)
            try:
                found = self._open_files[path] = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise KeyError(path) from None
        return found

    def __del__(self) -> None:
        self.close()


def of_job(name: str) -> PlainFolder | None:
    """The input `name` of the job that this code runs in; None outside of a job."""
    inputs = os.environ.get(IN)
    if not inputs:
        return None
    place = Path(inputs) / check_path(name)
    if not place.exists():
        there = ", ".join(sorted(path.name for path in Path(inputs).iterdir())) if Path(inputs).is_dir() else "nothing"
        raise refuse(FILE_MISSING, "the job has no input of this name", expected=there, seen=name)
    return PlainFolder(place)
