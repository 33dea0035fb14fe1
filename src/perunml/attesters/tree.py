"""The kernel's files, as attesters use them: handed in, so that a test can be a kernel."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol


class Tree(Protocol):
    """Files by absolute path; every method raises `OSError`."""

    def read(self, path: str, limit: int) -> bytes:
        """The whole file; EFBIG where it is longer than `limit` bytes."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """All of `data` in one write to a file that exists."""
        ...

    def mkdir(self, path: str) -> None: ...

    def rmdir(self, path: str) -> None: ...

    def exists(self, path: str) -> bool: ...


class Files:
    """The real ones, below `root`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def _at(self, path: str) -> Path:
        return self._root / path.removeprefix("/")

    def read(self, path: str, limit: int) -> bytes:
        """Without asking for its size first: the kernel's files tell none."""
        found = b""
        with open(self._at(path), "rb", buffering=0) as file:
            while chunk := file.read(limit + 1 - len(found)):
                found += chunk
                if len(found) > limit:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return found

    def write(self, path: str, data: bytes) -> None:
        """Neither creates nor truncates: the kernel's files allow neither."""
        descriptor = os.open(self._at(path), os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.EIO, "written in part", path)
        finally:
            os.close(descriptor)

    def mkdir(self, path: str) -> None:
        self._at(path).mkdir()

    def rmdir(self, path: str) -> None:
        self._at(path).rmdir()

    def exists(self, path: str) -> bool:
        return self._at(path).exists()
