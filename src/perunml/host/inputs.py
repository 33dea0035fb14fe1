"""How a job sees its inputs: decrypted into memory where they fit, else through a file system that decrypts what is read.

Code is always unpacked. A data set or model may take up to half of the memory that is available when its turn comes; a larger one is
mounted, its ciphertext stays in the run's folder, and only a few opened chunks are in memory beside the kernel's page cache,
which is never swapped.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from perunml.host import contract
from perunml.host.codes import DELIVERY_MISMATCH
from perunml.host.fetch import Fetched
from perunml.host.memory import SLACK, PrivateMemory, available_memory
from perunml.sealing.mounted.server import MountedAsset
from perunml.sealing.store import FolderStore
from perunml.sealing.views.files import unpack
from perunml.wire.errors import PerunError, refuse

PAGE = 4096
PART = 2
"""An input may take this part (a half) of the available memory; the job needs some too."""


@dataclass(slots=True)
class Inputs:
    """`folders` by mount (/in/scans, /code); `mounts` and `views` (memory, fuse) by input name. `faults` gets what is wrong with a mounted input as soon as a
    read meets it."""

    folders: dict[str, Path] = field(default_factory=dict)
    mounts: dict[str, str] = field(default_factory=dict)
    views: dict[str, str] = field(default_factory=dict)
    served: list[tuple[str, MountedAsset]] = field(default_factory=list)
    faults: list[PerunError] = field(default_factory=list)
    on_fault: Callable[[], None] = lambda: None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, exc: PerunError) -> None:
        with self._lock:
            self.faults.append(exc)
            self.on_fault()

    @contextmanager
    def watched(self, end: Callable[[], None]) -> Iterator[None]:
        """While inside, `end` is called as soon as an input turns out to be altered; the fault is raised at the end."""
        with self._lock:
            self.on_fault = end
            if self.faults:
                end()
        try:
            yield
        finally:
            with self._lock:
                self.on_fault = lambda: None
        if self.faults:
            raise self.faults[0]

    def close(self, memory: PrivateMemory) -> None:
        """Unmount what is served; its threads end, and what they held is wiped. The job's processes must be gone."""
        memory.remove(name for name, _ in self.served)
        for _, asset in self.served:
            asset.close()
        self.served.clear()


def show(fetched: Mapping[str, Fetched], memory: PrivateMemory, user: int, *, most: int | None = None) -> Inputs:
    """All inputs, for the job's user to read. `most` bounds the bytes of an input that is unpacked (None: by the available memory). Raises
    `IntegrityError` (delivery_mismatch, chunk_altered), `LimitReached` (memory_short), `UsageError` (host_unfit)."""
    made = Inputs()
    for number, (name, item) in enumerate(fetched.items()):
        where = item.input.mount
        if name != "code":
            contract.input_folder(where)
            made.mounts[name] = where
        if where in made.folders:
            raise refuse(DELIVERY_MISMATCH, "two inputs have one mount", seen=where)
        mount = f"input{number}"
        space = SLACK + sum(-(-size // PAGE) * PAGE + PAGE for size in item.reader.files.values())
        bound = available_memory() // PART if most is None else most
        if name == "code" or space <= bound:
            made.folders[where] = memory.add(mount, space, owner=user)
            unpack(item.reader, made.folders[where])
            memory.freeze(mount, user)
            item.reader.close()
            shutil.rmtree(item.folder, ignore_errors=True)
            made.views[name] = "memory"
        else:
            made.folders[where] = _served(made, mount, item, memory, user)
            made.views[name] = "fuse"
    return made


def _served(made: Inputs, mount: str, item: Fetched, memory: PrivateMemory, user: int) -> Path:
    path, descriptor = memory.serve(mount)
    folder = item.folder
    asset = MountedAsset(item.reader, lambda: FolderStore(folder), descriptor, user, made.fault)
    asset.start()
    made.served.append((mount, asset))
    return path
