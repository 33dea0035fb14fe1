"""What a job may not do, tried from inside the real sandbox."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from host.road import until
from perunml.host import contract, launch

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(os.geteuid() != 0, reason="the runner makes mounts, so it runs as root, here and in CI"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed; `make setup` installs it"),
]
PROGRAM = Path(__file__).with_name("sandboxed.py")
PROLOGUE = """
import json, os, sys
def attempt(name, act):
    try:
        found[name] = repr(act())
    except BaseException as exc:
        found[name] = f"{type(exc).__name__} {getattr(exc, 'errno', '')}".strip()
found = {}
def end():
    with open("/out/found.json", "w") as out:
        json.dump(found, out)
"""


def ask(code: str, **settings: Any) -> dict[str, Any]:
    """Run `code` as a job's train.py; the run's end, with `found` as the code filled it by `attempt`."""
    settings["code"] = {"train.py": PROLOGUE + textwrap.dedent(code) + "\nend()\n"}
    done = start(settings)
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0, err
    first, last = (json.loads(line) for line in out.splitlines())
    found = json.loads(last["out"].get("found.json", "{}"))
    return {**first, **last, "found": found}


def start(settings: dict[str, Any]) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "SECRET_OF_THE_AGENT": "1"}
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(json.dumps(settings))
    process.stdin.close()
    process.stdin = None
    return process


@pytest.mark.parametrize("landlock", [True, False], ids=["every layer", "without Landlock"])
def test_job_reads_and_writes_only_what_is_its_own(tmp_path: Path, landlock: bool) -> None:
    """Neither root's files nor the agent's folder can be read, and nothing but /out, /tmp and /dev/shm be written."""
    tmp_path.chmod(0o755)
    agent = tmp_path / "agent"
    agent.mkdir(mode=0o777)
    (agent / "tls.key").write_text("secret")
    (agent / "tls.key").chmod(0o666)
    found = ask(
        f"""
        for path in ("/etc/shadow", "/etc/hostname", "/etc/resolv.conf", "/root/.bashrc", {str(agent / "tls.key")!r},
                     "/var/lib/dpkg/status", "/sys/kernel/notes", "/run/perunml/in"):
            attempt("read " + path, lambda: open(path, "rb").read(1))
        for path in ("/x", "/etc/x", "/usr/x", "/code/x", "/in/x", "/in/scans/a.csv", "/dev/x", "/run/perunml/x", "/sys/x",
                     "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/self/oom_score_adj"):
            attempt("write " + path, lambda: open(path, "ab"))
        for path in ("/out/x", "/tmp/x", "/dev/shm/x"):
            attempt("own " + path, lambda: open(path, "wb").write(b"x"))
        attempt("input", lambda: open("/in/scans/a.csv").read())
        attempt("mnt", lambda: os.listdir("/mnt"))
        attempt("landlock", lambda: os.listdir("/"))
        attempt("first process", lambda: open("/proc/1/environ").read())
        """,
        inputs={"scans": {"a.csv": "1,2"}},
        landlock=landlock,
    )["found"]
    refused = {"PermissionError 13", "FileNotFoundError 2", "OSError 30", "PermissionError 1"}
    for name, result in found.items():
        if name.startswith(("read", "write")) or name == "mnt":
            assert result in refused, (name, result)
        elif name.startswith("own"):
            assert result == "1", (name, result)
    assert found["input"] == "'1,2'"
    assert "SECRET" not in found["first process"]
    # Nothing hides / itself from a job but Landlock, so this says that it stands.
    assert found["landlock"] == "PermissionError 13" or not (landlock and launch.landlock_version())


def test_job_is_nobody_without_rights() -> None:
    """No user id of the machine's, no groups, no capabilities, no way to gain any; a filter is loaded."""
    found = ask(
        """
        import re
        status = open("/proc/self/status").read()
        for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"):
            found[name] = re.search(name + ":\\\\s+(\\\\S+)", status)[1]
        found["ids"] = [os.getuid(), os.geteuid(), os.getgid(), os.getgroups()]
        attempt("setuid", lambda: os.setuid(0))
        attempt("chown", lambda: (open("/tmp/f", "w").close(), os.chown("/tmp/f", 0, 0)))
        """
    )
    seen = found["found"]
    assert seen["ids"] == [65534, 65534, 65534, []]
    assert {seen[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")
    assert seen["setuid"].startswith(("PermissionError", "OSError"))
    assert seen["chown"].startswith(("PermissionError", "OSError"))
    assert found["user"] >= 0x70000000


def test_job_reaches_no_network_and_no_socket() -> None:
    """No address family but AF_UNIX, and no interface to use one with."""
    found = ask(
        """
        import socket
        for family in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG"):
            kind = socket.SOCK_RAW if family in ("AF_NETLINK", "AF_PACKET") else socket.SOCK_STREAM
            attempt(family, lambda: socket.socket(getattr(socket, family), kind))
        attempt("AF_BLUETOOTH", lambda: socket.socket(31, socket.SOCK_RAW, 1))
        attempt("create_connection", lambda: socket.create_connection(("1.1.1.1", 443), 2))
        attempt("getaddrinfo", lambda: socket.getaddrinfo("example.com", 443))
        attempt("pair", lambda: [each.close() for each in socket.socketpair()])
        attempt("interfaces", lambda: [l.split(":")[0].strip() for l in open("/proc/net/dev").readlines()[2:]])
        """
    )["found"]
    for name in (
        "AF_INET",
        "AF_INET6",
        "AF_NETLINK",
        "AF_PACKET",
        "AF_VSOCK",
        "AF_ALG",
        "AF_BLUETOOTH",
        "create_connection",
    ):
        assert found[name] == "OSError 97", (name, found[name])
    assert found["getaddrinfo"].startswith("gaierror")
    assert found["pair"] == "[None, None]"
    assert found["interfaces"] in ("['lo']", "PermissionError 13")


def test_job_finds_nobody_outside_to_talk_to() -> None:
    """A socket with an abstract name, shared memory, a queue, processes: what the machine has under such names is not the job's."""
    libc = ctypes.CDLL(None, use_errno=True)
    key, create = 0x70657275, 0o1666
    outside = libc.shmget(key, 4096, create), libc.msgget(key, create), libc.semget(key, 1, create)
    assert min(outside) >= 0
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("\0perunml-outside")
            listening.listen()
            found = ask(
                f"""
                import ctypes, signal, socket
                libc = ctypes.CDLL(None, use_errno=True)
                attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0perunml-outside"))
                attempt("shm", lambda: libc.shmget({key}, 0, 0))
                attempt("msg", lambda: libc.msgget({key}, 0))
                attempt("sem", lambda: libc.semget({key}, 0, 0))
                attempt("kill", lambda: os.kill({os.getpid()}, signal.SIGTERM))
                attempt("everybody", lambda: len([pid for pid in os.listdir("/proc") if pid.isdigit()]) < 6)
                attempt("roots", lambda: [os.stat(f"/proc/{{p}}/root/root/.") for p in os.listdir("/proc") if p.isdigit()])
                """
            )["found"]
    finally:
        libc.shmctl(outside[0], 0, None)
        libc.msgctl(outside[1], 0, None)
        libc.semctl(outside[2], 0, 0)
    assert found["abstract"] == "ConnectionRefusedError 111"
    assert (found["shm"], found["msg"], found["sem"]) == ("-1", "-1", "-1")
    assert found["kill"] == "ProcessLookupError 3"
    assert found["everybody"] == "True"
    assert found["roots"].split()[0] in ("FileNotFoundError", "PermissionError")


def test_job_makes_no_namespace_mount_trace_or_key() -> None:
    """The calls that reach out of a sandbox, or into the kernel's dark corners, are refused by number."""
    found = ask(
        """
        import ctypes, errno, platform
        libc = ctypes.CDLL(None, use_errno=True)
        def call(number, *args):
            result = libc.syscall(ctypes.c_long(number), *args)
            return 0 if result >= 0 else errno.errorcode[ctypes.get_errno()]
        x86 = platform.machine() == "x86_64"
        calls = {
            "unshare user": (272 if x86 else 97, 0x10000000), "unshare net": (272 if x86 else 97, 0x40000000),
            "unshare mnt": (272 if x86 else 97, 0x00020000), "setns": (308 if x86 else 268, 0, 0),
            "clone user": (56 if x86 else 220, 0x10000000 | 17, 0, 0, 0, 0), "clone3": (435, 0, 0),
            "mount": (165 if x86 else 40, b"none", b"/tmp", b"tmpfs", 0, 0), "umount": (166 if x86 else 39, b"/tmp", 2),
            "pivot_root": (155 if x86 else 41, b"/tmp", b"/tmp"), "chroot": (161 if x86 else 51, b"/tmp"),
            "fsopen": (430, b"tmpfs", 0), "open_tree": (428, -100, b"/", 1), "mount_setattr": (442, -100, b"/", 0, 0, 0),
            "ptrace": (101 if x86 else 117, 0, 0, 0, 0), "bpf": (321 if x86 else 280, 0, 0, 0),
            "keyctl": (250 if x86 else 219, 0, 0), "add_key": (248 if x86 else 217, b"user", b"x", b"x", 1, -3),
            "perf": (298 if x86 else 241, 0, 0, 0, 0, 0), "userfaultfd": (323 if x86 else 282, 0),
            "io_uring": (425, 8, 0), "kexec": (246 if x86 else 104, 0, 0, 0, 0), "init_module": (175 if x86 else 105, 0, 0, 0),
            "finit_module": (313 if x86 else 273, 0, 0, 0), "reboot": (169 if x86 else 142, 0, 0, 0, 0),
            "swapon": (167 if x86 else 224, 0, 0), "process_vm_readv": (310 if x86 else 270, 1, 0, 0, 0, 0, 0),
            "by_handle": (304 if x86 else 265, 0, 0, 0), "personality": (135 if x86 else 92, 0xFFFFFFFF),
        }
        if x86:
            calls["x32 unshare"] = (0x40000000 + 272, 0x10000000)
        for name, args in calls.items():
            attempt(name, lambda: call(*args))
        """
    )["found"]
    assert len(found) >= 28
    for name, result in found.items():
        wanted = "'ENOSYS'" if name in ("clone3", "io_uring", "x32 unshare") else "'EPERM'"
        assert result == wanted, (name, result)


def test_environment_is_exactly_the_contract() -> None:
    """Nothing of the agent's environment passes, and nothing is there but the contract's variables; streams are empty."""
    found = ask(
        """
        found["env"] = dict(os.environ)
        found["parameters"] = open(os.environ["PERUNML_PARAMS"]).read()
        found["argv"], found["cwd"] = sys.argv, os.getcwd()
        found["streams"] = [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)]
        found["open"] = sorted(os.listdir("/proc/self/fd"))[:-1]
        print("patient 17")
        """,
        inputs={"scans": {"a.csv": "1"}},
        parameters={"epochs": 3, "rate": 0.5},
    )["found"]
    assert found["env"] == contract.environment({"scans": "/in/scans"}, {"epochs": 3, "rate": 0.5}, threads=1)
    assert found["env"]["SM_CHANNEL_SCANS"] == "/in/scans"
    assert found["parameters"] == '{"epochs":3,"rate":0.5}'
    assert (found["argv"], found["cwd"]) == (["/code/train.py"], "/code")
    assert found["streams"] == ["/dev/null"] * 3
    assert found["open"] == ["0", "1", "2"]


def test_limits_of_the_process_hold() -> None:
    """No core dumps, a bound on processes and files; /tmp ends at its size, and Landlock stands where the kernel has it."""
    found = ask(
        """
        import resource
        for name in ("CORE", "NPROC", "FSIZE"):
            found[name] = resource.getrlimit(getattr(resource, "RLIMIT_" + name))[1]
        attempt("too much", lambda: open("/tmp/big", "wb").write(bytes(2 << 20)))
        """,
        tmp_size=1 << 20,
    )["found"]
    assert (found["CORE"], found["NPROC"], found["FSIZE"]) == (0, 4096, 1 << 30)
    assert found["too much"] == "OSError 28"


def test_exit_status_is_the_jobs_own() -> None:
    """An exception ends as 1; what it says stays inside."""
    end = ask("raise SystemExit(3)")
    assert end["status"] == 3


def test_failed_confinement_never_starts_the_code() -> None:
    """When Landlock or a limit cannot be set the launcher ends with a status of its own."""
    argument = json.dumps(
        {"read": ["/nowhere"], "write": [], "limits": {}, "landlock": "required", "command": ["/bin/true"]}
    )
    done = subprocess.run([sys.executable, launch.__file__, argument], capture_output=True)
    assert done.returncode == launch.EXIT_UNCONFINED


def test_kill_ends_everything_in_the_sandbox() -> None:
    """Children, grandchildren and those in sessions of their own die together, and nothing writes on."""
    end = ask(
        """
        import subprocess, time
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        open("/out/found.json", "w").write("{}")
        time.sleep(600)
        """,
        kill_after=1.0,
    )
    assert end["status"] == 128 + signal.SIGKILL
    assert not processes_of(end["user"])


@pytest.mark.parametrize("after", [0.0, 0.002, 0.004, 0.006, 0.008, 0.012])
def test_a_runner_killed_while_its_sandbox_starts_takes_it_along(after: float) -> None:
    """Bubblewrap's processes bind their lives to their parents' late; whenever the runner is killed, nothing runs on, or waits."""
    crashed = start({"code": {"train.py": "import time\ntime.sleep(600)"}, "then": "crash", "kill_after": after})
    out, _ = crashed.communicate(timeout=60)
    user = json.loads(out.splitlines()[0])["user"]
    until(lambda: not processes_of(user), "the sandbox's end")


def test_killed_runner_takes_its_sandbox_along() -> None:
    """kill -9 of the runner: no process of the job's user is left, and no mount."""
    process = start(
        {"code": {"train.py": "import os, time\nos.fork()\ntime.sleep(600)"}, "then": "crash", "kill_after": 0.5}
    )
    out, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    user = json.loads(out)["user"]
    until = time.monotonic() + 20
    while processes_of(user):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_memory_hog_is_ended_and_named() -> None:
    """Where a cgroup can be made, too much memory ends the job alone, and the host knows why."""
    end = ask("hog = [b'x' * (8 << 20) for _ in range(64)]", memory=128 << 20)
    if not end["group"]:
        pytest.skip("no cgroup can be made here; where one can, this runs")
    assert end["oom"]
    assert end["status"] != 0


@pytest.mark.torch
def test_plain_pytorch_trains_and_computes_as_outside() -> None:
    """Training code that knows nothing of Perun runs, with the vector units it has outside."""
    torch = pytest.importorskip("torch", reason="PyTorch is in the train extra; `make setup` installs it")
    found = ask(
        """
        import torch
        torch.manual_seed(7)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        data = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.randn(64, 1))
        loader = torch.utils.data.DataLoader(data, batch_size=16, num_workers=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
        found["loss"], found["units"] = loss.item(), torch.backends.cpu.get_cpu_capability()
        """
    )["found"]
    assert found["units"] == torch.backends.cpu.get_cpu_capability()
    assert found["loss"] > 0


def processes_of(user: int) -> list[str]:
    """Live processes of a user id."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        if f"\nUid:\t{user}\t" in text and "\nState:\tZ" not in text:
            found.append(text)
    return found
