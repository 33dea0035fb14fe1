"""A runner seen from outside: started, fed with evidence, watched, killed with all that is its own.

The watchdog needs nothing of the runner but to be told of renewals: when the lease's time (CLOCK_BOOTTIME) comes without
one, the runner's process group, its cgroup and every process of its job's user get SIGKILL, whatever any of them is doing. Keys and
plaintext existed in these processes and their memory mounts only, so they are gone when the processes are.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from perunml.host.channel import Handlers, answer_runner
from perunml.host.clock import boottime
from perunml.host.limits import find_cgroups
from perunml.host.progress import MAX_EVENT, Event
from perunml.host.runner import EXIT_LOST, EXIT_REFUSED, Settings
from perunml.host.sandbox import FIRST_UID
from perunml.sealing.store import disk_full
from perunml.wire.canonical import canonical, load_json
from perunml.wire.errors import PerunError

START_LIMIT = 120.0
"""Seconds a runner has from its start to its lease: evidence from a slow TPM, a first IMA log of 15 MB."""
GRACE = 3.0
"""Seconds that a stopped run has to tell the manager so; without, its lease just ends."""
RECORD = "record.json"
RECORD_SIZE = 256
"""Bytes; blanks fill up what the record leaves."""


class RunnerProcess:
    """One runner. Made in the thread that is to outlive it (the kernel kills it with that thread). Raises `LimitReached`
    (disk_full): there is no room to note it down, so it does not run."""

    def __init__(
        self, module: str, settings: Settings, collect: Callable[..., object], accepted: Callable[..., None],
        forget: Callable[[], None], on_event: Callable[[Event], None],
    ) -> None:  # fmt: skip
        self.run = settings.run
        self.folder = Path(settings.folder)
        self._on_event = on_event
        self._deadline = boottime() + START_LIMIT
        self._lost_told = False
        with disk_full():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # the room for what is known only once it runs
            (self.folder / RECORD).write_bytes(bytes(RECORD_SIZE))
        ours, theirs = socket.socketpair()
        events_out, events_in = os.pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), events_in), start_new_session=True, cwd="/", env=_environment(),
            )  # fmt: skip
            os.close(events_in)
            self._pidfd = os.pidfd_open(self._process.pid)
            record = {"pid": self._process.pid, "start": start_time(self._process.pid), "boot": boot_id()}
            with (self.folder / RECORD).open("r+b") as file:
                file.write(canonical(record).ljust(RECORD_SIZE))
            told = settings.model_copy(update={"evidence_fd": theirs.fileno(), "events_fd": events_in})
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
                stdin.write(told.encode())
        handlers = Handlers(collect, accepted, forget, self._renewed)
        self._threads = [
            threading.Thread(target=answer_runner, args=(ours, handlers), daemon=True),
            threading.Thread(target=self._listen, args=(events_out,), daemon=True),
            threading.Thread(target=self._watch, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def over(self) -> bool:
        """Whether the runner ended and all of it is gone."""
        return not self._threads[2].is_alive()

    def kill(self) -> None:
        """End it and everything that is its own, now."""
        kill_run(self.run, self._process.pid)

    def end(self) -> None:
        """Let it tell the manager, then end it: SIGTERM, and after `GRACE` seconds `kill`."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
        self._threads[2].join(GRACE)
        if not self.over():
            self.kill()
        self.wait()

    def wait(self) -> None:
        for thread in self._threads[1:]:
            thread.join()

    def _renewed(self, deadline: float) -> None:
        self._deadline = deadline

    def _watch(self) -> None:
        while not select.select([self._pidfd], [], [], max(0.0, min(1.0, self._deadline - boottime())))[0]:
            if boottime() >= self._deadline:
                self.kill()
        status = self._process.wait()
        self._threads[1].join()
        # The runner is gone; what it started may need a moment, and what survived it is not to.
        kill_run(self.run, self._process.pid, leader_alive=False)
        shutil.rmtree(self.folder, ignore_errors=True)
        if status not in (0, 1, EXIT_REFUSED, EXIT_LOST) and not self._lost_told:
            late = boottime() >= self._deadline
            self._on_event({"event": "killed", "run": self.run, "by": "lease" if late else "signal", "status": status})
        self._on_event({"event": "keys_wiped", "run": self.run})

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self._pidfd)

    def _listen(self, descriptor: int) -> None:
        with open(descriptor, "rb") as lines:
            while line := lines.readline(MAX_EVENT):
                try:
                    event = load_json(line)
                except PerunError:
                    continue
                self._lost_told = self._lost_told or event.get("event") == "lease_lost"
                self._on_event(event)


def kill_run(run: str, pid: int, *, leader_alive: bool = True, wait: float = 10.0) -> None:
    """SIGKILL for a runner's process group, its cgroup and every process of its job's user; returns when the latter two are
    empty, or after `wait` seconds."""
    if leader_alive:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    until = time.monotonic() + wait
    while True:
        groups = find_cgroups(run)
        for group in groups:
            group.kill()
            group.remove(wait=0.1)
        left = processes_of(FIRST_UID + pid)
        for each in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        if (not left and not groups) or time.monotonic() > until:
            return
        time.sleep(0.02)


def processes_of(user: int) -> list[int]:
    """Process ids of a user's live processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if path.stat().st_uid == user and _stat(path)[0] not in ("Z", "X"):
                found.append(int(path.name))
    return found


def clean_leftovers(folder: Path) -> list[str]:
    """End and remove what an earlier agent's runs left in `folder`; the runs' ids. Their keys are gone: they existed in
    processes that died with that agent, and what did not die dies here."""
    found = []
    for each in sorted(folder.iterdir()) if folder.is_dir() else []:
        found.append(each.name)
        try:
            record = json.loads((each / RECORD).read_bytes())
            pid, same_boot = int(record["pid"]), record["boot"] == boot_id()
            alive = same_boot and start_time(pid) == record["start"]
        except (OSError, ValueError, KeyError, TypeError):
            pid, same_boot, alive = 0, False, False
        if same_boot:
            kill_run(each.name, pid, leader_alive=alive)
        shutil.rmtree(each, ignore_errors=True)
    return found


def start_time(pid: int) -> str:
    """Ticks since boot when the process started, "" when there is none: with the boot's id, a process id used anew is told
    apart."""
    try:
        return _stat(Path(f"/proc/{pid}"))[19]
    except OSError:
        return ""


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(path: Path) -> list[str]:
    """The fields of /proc/<pid>/stat after the name: state first."""
    return (path / "stat").read_text().rpartition(")")[2].split()


def _environment() -> dict[str, str]:
    kept = {"PATH": os.environ.get("PATH", os.defpath)}
    if "PYTHONPATH" in os.environ:  # the runner works in /
        kept["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, os.environ["PYTHONPATH"].split(os.pathsep)))
    return {**kept, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
