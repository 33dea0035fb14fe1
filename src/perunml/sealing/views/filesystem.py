"""An `fsspec` file system over assets: ``perunml://asset/path``. Read-only; public name `perunml.fs`."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

from fsspec.spec import AbstractFileSystem

from perunml.sealing.codes import FILE_MISSING, READ_ONLY
from perunml.sealing.views.source import Source, Where
from perunml.wire.errors import PerunError, refuse


class Tree:
    """One open asset for many threads: one reads at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self.files = source.files
        self.folders = {
            "/".join(parts[:n]) for path in self.files for parts in [path.split("/")] for n in range(len(parts))
        }

    def read_into(self, path: str, offset: int, buffer: memoryview | bytearray) -> int:
        with self._lock:
            return self._source.read_into(path, offset, buffer)


class SealedFile(io.RawIOBase):
    """A file of an asset, seekable. A bad tag is an `OSError` whose cause says what was altered."""

    def __init__(self, tree: Tree, path: str) -> None:
        self._tree, self._path, self._at = tree, path, 0
        self.size = tree.files[path]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError("negative seek position")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        try:
            got = self._tree.read_into(self._path, self._at, memoryview(buffer).cast("B"))
        except PerunError as exc:
            raise OSError(f"{self._path}: {exc}") from exc
        self._at += got
        return got


class AssetFileSystem(AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
    """Assets of one owner, or a job's inputs: the first part of a path is the asset's name. `locate` finds one."""

    protocol = "perunml"
    root_marker = ""

    def __init__(self, locate: Callable[[str], Where], **options: Any) -> None:
        super().__init__(**options)
        self._locate = locate
        self._trees: dict[str, Tree] = {}
        self._opening = threading.Lock()

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        name, inside = self._split(path)
        tree = self._tree(name)
        if inside in tree.files:
            found = [self._file(name, inside, tree)]
        elif inside in tree.folders:
            start = f"{inside}/" if inside else ""
            below = {
                start + rest.split("/")[0] for rest in (p[len(start) :] for p in tree.files if p.startswith(start))
            }
            found = [
                self._file(name, p, tree)
                if p in tree.files
                else {"name": f"{name}/{p}", "size": 0, "type": "directory"}
                for p in sorted(below)
            ]
        else:
            raise FileNotFoundError(path)
        return found if detail else [item["name"] for item in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        name, inside = self._split(path)
        tree = self._tree(name)
        if inside in tree.files:
            return self._file(name, inside, tree)
        if inside in tree.folders:
            return {"name": f"{name}/{inside}".rstrip("/"), "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **_: Any) -> io.BufferedReader:
        if mode != "rb":
            raise self._read_only()
        name, inside = self._split(path)
        tree = self._tree(name)
        if inside not in tree.files:
            raise FileNotFoundError(path)
        return io.BufferedReader(SealedFile(tree, inside), block_size or self._where(name).chunk_size)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        name, inside = self._split(path)
        tree = self._tree(name)
        if inside not in tree.files:
            raise FileNotFoundError(path)
        first, last, _step = slice(start, end).indices(tree.files[inside])
        with SealedFile(tree, inside) as file:
            file.seek(first)
            buffer = bytearray(max(0, last - first))
            got = file.readinto(buffer)
        return bytes(memoryview(buffer)[:got])

    def ukey(self, path: str) -> str:
        return str(self.info(path))

    def mkdir(self, *_: Any, **__: Any) -> None:
        raise self._read_only()

    makedirs = rmdir = _rm = cp_file = touch = mkdir

    def _where(self, name: str) -> Where:
        return self._locate(name)

    def _tree(self, name: str) -> Tree:
        with self._opening:
            if name not in self._trees:
                self._trees[name] = Tree(self._locate(name).open())
            return self._trees[name]

    def _split(self, path: str) -> tuple[str, str]:
        name, _, inside = str(self._strip_protocol(path)).strip("/").partition("/")
        if not name:
            raise refuse(FILE_MISSING, "a path begins with an asset's name", expected="perunml://asset/path", seen=path)
        return name, inside

    @staticmethod
    def _file(name: str, path: str, tree: Tree) -> dict[str, Any]:
        return {"name": f"{name}/{path}", "size": tree.files[path], "type": "file"}

    @staticmethod
    def _read_only() -> OSError:
        return PermissionError(str(refuse(READ_ONLY, "a sealed asset is not written through a view")))
