"""The sandbox: bubblewrap with everything unshared, a user of the run's own, and nothing of the machine that is not named here.

Layers, each of which holds if another fails: namespaces without network (bubblewrap), a user id outside that no other
process of the machine has (so neither root's files nor root's sysctls are the job's, even where a path shows them), no
capabilities and no new user namespaces, a system call filter (`seccomp`), Landlock and resource limits (`launch`), a cgroup
(`limits`). The job sees /usr, the interpreter, its code and inputs read-only; /out, /tmp and /dev/shm are memory mounts of
the runner's. What the code prints is derived from sealed data: it goes to /dev/null, or into the runner's own memory (`logs`).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from perunml.host import keeper, launch
from perunml.host.clock import boottime
from perunml.host.codes import HOST_UNFIT
from perunml.host.contract import CHECKPOINTS, CODE, IN, OUT, PARAMETERS, SHM, TMP
from perunml.host.limits import MAX_FILES, MAX_PROCESSES, Cgroup
from perunml.host.memory import PrivateMemory
from perunml.host.seccomp import filter_program
from perunml.wire.errors import refuse

FIRST_UID = 0x70000000
"""Outside the sandbox a job's user is this plus its runner's process id: above what distributions and systemd give out
(systemd's "Users, Groups, UIDs and GIDs": unused from 1879048192 on), and no two runs have the same."""
_FLAGS = [
    "--unshare-all",
    "--unshare-user",
    "--uid",
    "65534",
    "--gid",
    "65534",
    "--cap-drop",
    "ALL",
    "--disable-userns",
    "--new-session",
    "--die-with-parent",
]
_LAUNCH = "/run/perunml/launch.py"
_PASSWD = b"job:x:65534:65534::/tmp:/usr/sbin/nologin\n"
_SYSTEM = ("/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin")
_ETC = ("/etc/ld.so.cache", "/etc/alternatives")
_SYS = ("/sys/devices/system/cpu", "/sys/devices/system/node")
"""PyTorch learns from these which vector units it may use; without them it computes otherwise than outside."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def job_user() -> int:
    """The user id, outside the sandbox, of this runner's job."""
    return FIRST_UID + os.getpid()


@dataclass(frozen=True, slots=True)
class View:
    """What a job sees. Paths on the left are where the runner has them, already readable for the job's user."""

    code: Path
    inputs: Mapping[str, Path]  # mount (/in/scans) -> folder
    out: Path
    tmp: Path
    shm: Path
    parameters: bytes
    python: str = sys.executable
    prefixes: Mapping[str, Path] = field(default_factory=dict)  # path in the sandbox -> folder
    devices: Mapping[str, Path] = field(default_factory=dict)  # path in the sandbox -> device node
    checkpoints: Path | None = None


def check_bubblewrap() -> None:
    """Start an empty sandbox. Raises `UsageError` (host_unfit) where this machine lets none be made."""
    bwrap = _bwrap()
    shown = ["--ro-bind", "/usr", "/usr", *_system(), "--proc", "/proc", "--dev", "/dev", "--", "/usr/bin/true"]
    user = FIRST_UID + os.getpid()
    done = subprocess.run([bwrap, *_FLAGS, *shown], capture_output=True, user=user, group=user, extra_groups=[], cwd="/", timeout=60)  # fmt: skip
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise refuse(
            HOST_UNFIT, "bubblewrap makes no sandbox on this machine", seen=said, command="perunml host doctor"
        )


def show_interpreter(memory: PrivateMemory) -> dict[str, Path]:
    """Show this interpreter's prefixes where the job's user can walk to; what lies below /usr is shown anyway."""
    shown: dict[str, Path] = {}
    for number, prefix in enumerate(sorted({os.path.realpath(sys.prefix), sys.prefix, sys.base_prefix})):
        if not Path(prefix).is_relative_to("/usr"):
            shown[prefix] = memory.show(f"prefix{number}", Path(prefix))
    return shown


def bwrap_arguments(
    view: View, *, info: int, block: int, passwd: int, parameters: int, launcher: int, seccomp: int
) -> list[str]:
    """Bubblewrap's arguments up to the command; the numbers are descriptors it inherits."""
    args = [*_FLAGS, "--seccomp", str(seccomp), "--info-fd", str(info), "--block-fd", str(block), "--clearenv"]
    args += ["--ro-bind", "/usr", "/usr"]
    args += _system()
    for path in (*_ETC, *_SYS):
        args += ["--ro-bind-try", path, path]
    args += ["--ro-bind-data", str(passwd), "/etc/passwd"]
    args += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev", "--bind", str(view.shm), SHM]
    for shown, node in sorted(view.devices.items()):
        args += ["--dev-bind", str(node), shown]
    args += ["--remount-ro", "/dev", "--bind", str(view.tmp), TMP, "--bind", str(view.out), OUT]
    if view.checkpoints:
        args += ["--bind", str(view.checkpoints), CHECKPOINTS]
    for shown, real in sorted(view.prefixes.items()):  # after /tmp: an interpreter may lie below it
        args += ["--ro-bind", str(real), shown]
    args += ["--ro-bind", str(view.code), CODE, "--dir", IN]
    for mount, real in sorted(view.inputs.items()):
        args += ["--ro-bind", str(real), mount]
    args += ["--ro-bind-data", str(parameters), PARAMETERS, "--ro-bind-data", str(launcher), _LAUNCH]
    return [*args, "--remount-ro", "/", "--chdir", CODE]


def launch_argument(view: View, command: list[str], *, file_size: int, landlock: bool) -> str:
    """What `launch` is told, as JSON."""
    shown = [
        "/usr",
        "/etc",
        "/dev",
        "/proc",
        CODE,
        IN,
        "/run/perunml",
        *view.prefixes,
        *(p for p in _SYSTEM if os.path.isdir(p)),
    ]
    shown += [path for path in _SYS if os.path.exists(path)]
    return json.dumps({
        "read": shown,
        "write": [OUT, TMP, SHM, *_DEVICES, *view.devices, *([CHECKPOINTS] if view.checkpoints else [])],
        "limits": {
            "RLIMIT_CORE": 0,
            "RLIMIT_NPROC": MAX_PROCESSES,
            "RLIMIT_NOFILE": MAX_FILES,
            "RLIMIT_FSIZE": file_size,
        },
        "landlock": "required" if landlock else "none",
        "command": command,
    })  # fmt: skip


class Sandbox:
    """A job's processes; `init_pid` is the first one's id outside, and when it ends, all of them do. Start it from a thread that lives as long: bubblewrap dies with the thread that started it.
    As a context manager it leaves nothing alive."""

    def __init__(self, view: View, command: list[str], environment: Mapping[str, str], *, file_size: int,
                 cgroup: Cgroup | None = None, uid: int | None = None, output: int = subprocess.DEVNULL) -> None:  # fmt: skip
        """Start `command`; what it prints goes to the descriptor `output`. Raises `UsageError` (host_unfit) when bubblewrap is missing or does not come up."""
        bwrap = _bwrap()
        self._cgroup = cgroup
        self.landlock = launch.landlock_version() > 0
        user = job_user() if uid is None else uid
        argument = launch_argument(view, command, file_size=file_size, landlock=self.landlock)
        self._keeper = _keeper(user)
        with contextlib.ExitStack() as stack:
            info_out, info_in = (
                stack.enter_context(open(end, mode, 0)) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True)
            )
            block_out, block_in = (
                stack.enter_context(open(end, mode, 0)) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True)
            )
            data = (_PASSWD, view.parameters, Path(launch.__file__).read_bytes(), filter_program())
            files = [_file(stack, each) for each in data]
            args = bwrap_arguments(
                view, info=info_in.fileno(), block=block_out.fileno(), passwd=files[0], parameters=files[1],
                launcher=files[2], seccomp=files[3],
            )  # fmt: skip
            for name, value in environment.items():
                args += ["--setenv", name, value]
            # In a file, not on the command line, which every user of the machine can read.
            listed = _file(stack, b"".join(os.fsencode(each) + b"\0" for each in args))
            self._process = subprocess.Popen(
                [bwrap, "--args", str(listed), "--", view.python, "-I", "-S", _LAUNCH, argument],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=(listed, info_in.fileno(), block_out.fileno(), *files),
                user=user, group=user, extra_groups=[], cwd="/", env={"PATH": os.defpath},
            )  # fmt: skip
            info_in.close()
            try:
                self.init_pid, self._init = _open_init(info_out.fileno())
                if cgroup is not None:
                    cgroup.add(self.init_pid)
                # Should memory run out, the job goes first.
                Path(f"/proc/{self.init_pid}/oom_score_adj").write_text("1000")
                block_in.write(b"1")
            except BaseException:
                self._process.kill()
                self._process.wait()
                _dismiss(self._keeper)
                raise

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()
        self.wait(None)
        os.close(self._init)
        if self._cgroup is not None:
            self._cgroup.kill()
            self._cgroup.remove()
        _dismiss(self._keeper)

    def wait(self, deadline: float | None) -> int | None:
        """The job's exit status (128 + signal when it was killed), once no process of it is left; None when `deadline`,
        in seconds of CLOCK_BOOTTIME, comes first."""
        while self._process.poll() is None or not select.select([self._init], [], [], 0)[0]:
            left = 1.0 if deadline is None else min(1.0, deadline - boottime())
            if left <= 0:
                return None
            # The first process's descriptor is readable when it, and with it the PID namespace, is gone.
            if select.select([self._init], [], [], left)[0]:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(left)
        return self._process.returncode

    def kill(self) -> None:
        """SIGKILL for everything in the sandbox; from any thread, any number of times."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._init, signal.SIGKILL)

    def out_of_memory(self) -> bool:
        """Whether the kernel ended the job for want of memory, as far as a cgroup can tell."""
        return self._cgroup is not None and self._cgroup.out_of_memory()


def _keeper(user: int) -> subprocess.Popen[bytes]:
    """A process that ends everything of the user should this one die. In a session of its own: what kills this process's
    group is not to kill it. Raises `UsageError` (host_unfit)."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", keeper.__file__, str(user)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/", env={},
    )  # fmt: skip
    assert process.stdout is not None
    if process.stdout.read(len(keeper.READY)) != keeper.READY:
        process.kill()
        _dismiss(process)
        raise refuse(HOST_UNFIT, "what ends a job with its runner does not start", command="perunml host doctor")
    return process


def _dismiss(process: subprocess.Popen[bytes]) -> None:
    """All is over: it ends without killing anybody."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(b".")
    process.stdout.close()
    process.wait()


def _bwrap() -> str:
    found = shutil.which("bwrap")
    if found is None:
        raise refuse(HOST_UNFIT, "bubblewrap is not installed", command="apt-get install bubblewrap")
    return found


def _system() -> list[str]:
    """Arguments that show /lib and the like as this machine has them: links into /usr, or folders."""
    args: list[str] = []
    for path in _SYSTEM:
        if os.path.islink(path):
            args += ["--symlink", os.readlink(path).lstrip("/"), path]
        elif os.path.isdir(path):
            args += ["--ro-bind", path, path]
    return args


def _open_init(info: int) -> tuple[int, int]:
    """Process id, and a descriptor, of the sandbox's first process, from what bubblewrap writes about it. The process
    cannot be another by then: it waits for --block-fd."""
    text = b""
    while chunk := os.read(info, 4096):
        text += chunk
        with contextlib.suppress(ValueError):
            pid = int(json.loads(text)["child-pid"])
            return pid, os.pidfd_open(pid)
    raise refuse(HOST_UNFIT, "bubblewrap does not come up on this machine", command="perunml host doctor")


def _file(stack: contextlib.ExitStack, data: bytes) -> int:
    descriptor = os.memfd_create("perunml", 0)
    stack.callback(os.close, descriptor)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
