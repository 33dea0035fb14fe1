"""Limits on a run's processes: a cgroup where one can be made (version 2, else 1), resource limits everywhere.

A cgroup bounds memory and processes together, forbids swap, and tells whether the kernel ended something for want of
memory. Without one, resource limits bound each process, and only the machine's memory bounds them together; `Limits.kind`
says which it is, and the progress log repeats it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

MAX_PROCESSES = 4096
"""Threads and processes of a job: PyTorch on 128 cores with 32 loaders has about 600."""
MAX_FILES = 65536
_GROUP = "perunml"


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One run's cgroup: `version` is 2, or 1 with a folder per controller. Remove it when its processes are gone."""

    version: int
    folders: dict[str, Path]

    @property
    def kind(self) -> str:
        return f"cgroup v{self.version} ({', '.join(sorted(self.folders))})"

    def add(self, pid: int) -> None:
        """Move a process, with what it starts from now on. Raises `OSError`."""
        for folder in set(self.folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def forbids_swap(self) -> bool:
        name = "memory.swap.max" if self.version == 2 else "memory.memsw.limit_in_bytes"
        try:
            found = (self.folders["memory"] / name).read_text().strip()
            if self.version == 2:
                return found == "0"
            return found == (self.folders["memory"] / "memory.limit_in_bytes").read_text().strip()
        except (OSError, KeyError):
            return False

    def out_of_memory(self) -> bool:
        """Whether the kernel ended a process of it for want of memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        try:
            lines = (self.folders["memory"] / name).read_text().split("\n")
        except (OSError, KeyError):
            return False
        return any(line.startswith("oom_kill ") and int(line.split()[1]) > 0 for line in lines)

    def kill(self) -> None:
        """SIGKILL for every process in it."""
        if self.version == 2:
            with contextlib.suppress(OSError):
                (next(iter(self.folders.values())) / "cgroup.kill").write_text("1")
                return
        for folder in self.folders.values():
            with contextlib.suppress(OSError):
                for pid in (folder / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)

    def remove(self, wait: float = 5.0) -> None:
        """Remove the folders; waits up to `wait` seconds for processes that are just ending."""
        until = time.monotonic() + wait
        for folder in set(self.folders.values()):
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > until:
                        break
                    time.sleep(0.02)


def make_cgroup(run: str, memory: int, mounts: str | None = None) -> Cgroup | None:
    """A new cgroup for `run` with at most `memory` bytes and no swap; None where the machine lets none be made.
    `mounts` is the text of /proc/self/mountinfo."""
    found = _mounts(mounts if mounts is not None else Path("/proc/self/mountinfo").read_text())
    made = None
    if "unified" in found:
        made = _version_2(found["unified"], run, memory)
    if made is None and "memory" in found:
        made = _version_1(found, run, memory)
    return made


def _version_2(root: Path, run: str, memory: int) -> Cgroup | None:
    parent = root / _GROUP
    folder = parent / run
    try:
        if "memory" not in (root / "cgroup.controllers").read_text().split():
            return None
        parent.mkdir(exist_ok=True)
        for each in (root, parent):
            (each / "cgroup.subtree_control").write_text("+memory +pids")
        folder.mkdir(exist_ok=True)
        (folder / "memory.max").write_text(str(memory))
        (folder / "pids.max").write_text(str(MAX_PROCESSES))
        with contextlib.suppress(FileNotFoundError):  # a kernel without swap support has no such file
            (folder / "memory.swap.max").write_text("0")
        (folder / "memory.oom.group").write_text("1")
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return None
    return Cgroup(2, {"memory": folder, "pids": folder})


def _version_1(roots: dict[str, Path], run: str, memory: int) -> Cgroup | None:
    folders: dict[str, Path] = {}
    for controller, name, value in (("memory", "memory.limit_in_bytes", memory), ("pids", "pids.max", MAX_PROCESSES)):
        if controller not in roots:
            continue
        folder = roots[controller] / _GROUP / run
        try:
            folder.parent.mkdir(exist_ok=True)
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(str(value))
            if controller == "memory":
                with contextlib.suppress(OSError):  # no swap accounting in this kernel
                    (folder / "memory.memsw.limit_in_bytes").write_text(str(value))
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        folders[controller] = folder
    return Cgroup(1, folders) if folders else None


def find_cgroups(run: str, mounts: str | None = None) -> list[Cgroup]:
    """The cgroups that `make_cgroup` left for `run`, here or in an earlier life of the agent."""
    roots = _mounts(mounts if mounts is not None else Path("/proc/self/mountinfo").read_text())
    found = []
    if "unified" in roots and (folder := roots["unified"] / _GROUP / run).is_dir():
        found.append(Cgroup(2, {"memory": folder, "pids": folder}))
    first: dict[str, Path] = {name: roots[name] / _GROUP / run for name in ("memory", "pids") if name in roots}
    first = {name: folder for name, folder in first.items() if folder.is_dir()}
    if first:
        found.append(Cgroup(1, first))
    return found


def _mounts(mountinfo: str) -> dict[str, Path]:
    """Mount points: "unified" for version 2, and each controller of version 1."""
    found: dict[str, Path] = {}
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(), tail.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            found.setdefault("unified", Path(fields[4]))
        elif kind[0] == "cgroup":
            for controller in {"memory", "pids"} & set(kind[2].split(",")):
                found.setdefault(controller, Path(fields[4]))
    return found
