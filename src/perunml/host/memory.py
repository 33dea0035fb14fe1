"""Where unsealed bytes may exist: memory mounts in a mount namespace of the runner's own, never on a disk, never in swap.

The namespace makes cleaning up the kernel's affair: when the last process of the run is gone, whatever ended it, the mounts
and what was in them are gone too. Nobody else on the machine sees them (root can enter a namespace; DESIGN section 3
says which profile keeps root out).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from perunml.host.codes import HOST_UNFIT, MEMORY_CAN_SWAP, MEMORY_SHORT
from perunml.sealing.mounted.messages import MAX_READ, READ_AHEAD
from perunml.wire.errors import refuse

STAGE = Path("/run/perunml")
"""Mount point of the runner's memory, inside its own mount namespace only; below /run because a job's user must be able
to walk there, which an agent's folder below /root does not let it."""
NOSWAP_SINCE = (6, 4)
"""First Linux with tmpfs's noswap option (commit 2c6efe9cf2d7)."""
SLACK = 16 << 20
"""Bytes that a mount has beyond what was asked: tmpfs counts pages and inodes too."""
_KEEP_FREE = 256 << 20
"""Bytes of memory left to the rest of the machine."""

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18,
)  # fmt: skip
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_PR_SET_DUMPABLE, _PR_SET_PDEATHSIG = 4, 1

_libc = ctypes.CDLL(None, use_errno=True)


def wipe(buffer: bytearray | memoryview) -> None:
    """Overwrite a buffer with zeros, in place."""
    view = memoryview(buffer).cast("B")
    if len(view):
        ctypes.memset((ctypes.c_char * len(view)).from_buffer(view), 0, len(view))


def swap_is_on(swaps: Path = Path("/proc/swaps")) -> bool:
    """Whether any swap device or file is in use. A file that cannot be read counts as yes."""
    try:
        return len(swaps.read_text().splitlines()) > 1
    except OSError:
        return True


def kernel_has_noswap(release: str | None = None) -> bool:
    parts = (release or os.uname().release).split(".")
    try:
        return (int(parts[0]), int(parts[1].split("-")[0])) >= NOSWAP_SINCE
    except (ValueError, IndexError):
        return False


def guard_process() -> None:
    """No core dumps, no ptrace by others of the same user, own pages locked: for a process that holds keys. Call before
    any key exists. Locking is the kernel's to grant (RLIMIT_MEMLOCK); without swap nothing is lost when it does not."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "PR_SET_DUMPABLE")
    locked = _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0
    if not locked and swap_is_on():
        raise refuse(MEMORY_CAN_SWAP, "swap is on and this process may not lock its memory", command="swapoff -a")


def die_with_parent(parent: int) -> None:
    """SIGKILL for this process when the thread that started it ends. Raises `ProcessLookupError` when `parent`
    is gone already: the signal for that will never come."""
    import signal

    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        raise ProcessLookupError("the agent is gone")


@dataclass(slots=True)
class PrivateMemory:
    """The run's memory mounts, by name, under `root`. Made by `enter`, once per process."""

    root: Path

    @classmethod
    def enter(cls, stage: Path = STAGE, *, swap_allowed: bool = False) -> PrivateMemory:
        """Give this process its own mount namespace and mount the empty root. Raises `UsageError` (host_unfit,
        memory_can_swap). Must be called while the process has one thread. `swap_allowed` is for simulated machines, which
        promise nothing in use: a new Debian has swap, and no noswap."""
        if not kernel_has_noswap() and swap_is_on() and not swap_allowed:
            raise refuse(
                MEMORY_CAN_SWAP,
                "swap is on, and memory mounts without swap need Linux 6.4 or newer",
                seen=os.uname().release,
                command="swapoff -a",
            )
        stage.mkdir(mode=0o711, parents=True, exist_ok=True)
        _check(_libc.unshare(_CLONE_NEWNS), "unshare(CLONE_NEWNS)")
        _mount("none", Path("/"), "", _MS_REC | _MS_PRIVATE, "")
        made = cls(stage)
        _mount("perunml", stage, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, made._options(1 << 20, 0, 0o711))
        return made

    def add(self, name: str, size: int, *, owner: int = 0, executable: bool = False) -> Path:
        """Mount `size` bytes of memory as `name`, mode 0700, for the user `owner`. Raises `LimitReached` (memory_short)
        before anything is mounted that does not fit."""
        free = available_memory() - _KEEP_FREE
        if size > free:
            raise refuse(MEMORY_SHORT, f"{name}: {size} bytes do not fit into memory", expected=f"at most {free}", seen=str(size))  # fmt: skip
        path = self.root / name
        path.mkdir(mode=0o700)
        flags = _MS_NOSUID | _MS_NODEV | (0 if executable else _MS_NOEXEC)
        _mount("perunml", path, "tmpfs", flags, self._options(size, owner, 0o700))
        return path

    def freeze(self, name: str, owner: int) -> None:
        """Give everything in `name` to the user `owner`, for reading, and let nobody write it any more."""
        path = self.root / name
        for folder, folders, files in os.walk(path):
            for each in (*folders, *files):
                full = os.path.join(folder, each)
                os.lchown(full, owner, owner)
                os.chmod(full, 0o500 if each in folders else 0o400)
        _mount("perunml", path, "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "")

    def show(self, name: str, source: Path) -> Path:
        """The folder `source` again, read-only, at a place where the job's user can walk to."""
        path = self.root / name
        path.mkdir(mode=0o755)
        _mount(str(source), path, "", _MS_BIND | _MS_REC, "")
        _mount("none", path, "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV, "")
        return path

    def serve(self, name: str) -> tuple[Path, int]:
        """A file system `name`, read-only, and an open /dev/fuse behind it: whoever holds that answers what is read there. Raises
        `UsageError` (host_unfit)."""
        path = self.root / name
        path.mkdir(mode=0o700)
        try:
            descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            raise refuse(
                HOST_UNFIT, "inputs larger than memory need FUSE, and /dev/fuse does not open", seen=exc.strerror or "",
                command="perunml host doctor",
            ) from None  # fmt: skip
        # allow_other: the job is another user than the runner; default_permissions: the kernel holds it to modes and owners.
        options = (
            f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read={MAX_READ}"
        )
        _mount("perunml", path, "fuse", _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)
        _read_ahead(path)
        return path, descriptor

    def remove(self, names: Iterable[str]) -> None:
        """Unmount, which frees and so ends the bytes. What is still in use goes when its last user does."""
        for name in names:
            _libc.umount2(os.fsencode(self.root / name), 2)  # MNT_DETACH

    def _options(self, size: int, owner: int, mode: int) -> str:
        options = f"size={size},mode={mode:o},uid={owner},gid={owner}"
        return options + (",noswap" if kernel_has_noswap() else "")


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes that could be had without swapping (MemAvailable)."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise refuse(HOST_UNFIT, "/proc/meminfo does not say how much memory there is")


def _read_ahead(path: Path) -> None:
    """Let the kernel ask for what comes next. A kernel that does not let us reads in smaller steps, and so slower."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == str(path):
            with contextlib.suppress(OSError):
                Path(f"/sys/class/bdi/{fields[2]}/read_ahead_kb").write_text(str(READ_AHEAD >> 10))


def _mount(source: str, target: Path, kind: str, flags: int, options: str) -> None:
    done = _libc.mount(os.fsencode(source), os.fsencode(target), os.fsencode(kind) or None, ctypes.c_ulong(flags), os.fsencode(options) or None)  # fmt: skip
    _check(done, f"mount {target.name}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise refuse(HOST_UNFIT, f"{what}: {os.strerror(number)}", command="perunml host doctor")
