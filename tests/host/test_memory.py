"""Memory mounts of a runner: private, without swap, gone with the process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from perunml.host import memory
from perunml.wire.errors import PerunError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root; CI's container runs this as root")


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process of its own: mount namespaces are for ever."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args], capture_output=True, text=True, env=env, timeout=60
    )


def test_wiped_buffer_is_zero() -> None:
    """`wipe` leaves nothing of a key, and takes an empty buffer."""
    key = bytearray(b"secret" * 100)
    memory.wipe(key)
    memory.wipe(memoryview(bytearray()))
    assert key == bytes(600)


@pytest.mark.parametrize(
    ("release", "has"),
    [("6.4.0", True), ("6.3.9-1-amd64", False), ("5.10.0", False), ("7.0-rc1", True), ("odd", False)],
)
def test_noswap_by_kernel_release(release: str, has: bool) -> None:
    """tmpfs takes noswap from Linux 6.4 on; a release that cannot be read has it not."""
    assert memory.kernel_has_noswap(release) is has


def test_unreadable_swaps_count_as_swap(tmp_path: Path) -> None:
    """Missing is not empty: without /proc/swaps swap is taken to be on."""
    assert memory.swap_is_on(tmp_path / "missing")
    (tmp_path / "swaps").write_text("Filename Type Size Used Priority\n")
    assert not memory.swap_is_on(tmp_path / "swaps")


def test_old_kernel_with_swap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No noswap and swap on: nothing is mounted."""
    monkeypatch.setattr(memory, "kernel_has_noswap", lambda: False)
    monkeypatch.setattr(memory, "swap_is_on", lambda: True)
    with pytest.raises(PerunError) as caught:
        memory.PrivateMemory.enter()
    assert caught.value.code == "memory_can_swap"


@as_root
def test_mounts_are_private_without_swap_and_gone_afterwards() -> None:
    """What a runner mounts is seen by it alone, has mode 0700 and noswap, and does not outlive it."""
    code = """
        import os, pathlib
        from perunml.host.memory import PrivateMemory, STAGE
        memory = PrivateMemory.enter()
        out = memory.add("out", 1 << 20, owner=1879048193)
        (out / "secret").write_bytes(b"unsealed")
        line = next(l for l in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if str(out) in l)
        kernel_new = __import__("perunml.host.memory").host.memory.kernel_has_noswap()
        assert "noswap" in line or not kernel_new, line
        assert "nosuid,nodev,noexec" in line, line
        stat = out.stat()
        assert (stat.st_mode & 0o7777, stat.st_uid) == (0o700, 1879048193)
        try:
            (out / "more").write_bytes(bytes(2 << 20))
        except OSError as exc:
            assert exc.errno == 28
        else:
            raise AssertionError("the size is no limit")
        seen = pathlib.Path("/proc/1/mountinfo").read_text()
        assert str(STAGE) not in seen
        print("fine")
    """
    done = run_python(code)
    assert done.stdout == "fine\n", done.stderr
    assert not list(memory.STAGE.iterdir())
    assert str(memory.STAGE) not in Path("/proc/self/mountinfo").read_text()


@as_root
def test_frozen_mount_is_read_only() -> None:
    """Inputs are unpacked, then frozen: owned by the job's user, writable by nobody, not even root through that mount."""
    code = """
        import os
        from perunml.host.memory import PrivateMemory
        memory = PrivateMemory.enter()
        inputs = memory.add("in", 1 << 20, owner=1879048193)
        (inputs / "scans").mkdir()
        (inputs / "scans" / "a.csv").write_bytes(b"1,2")
        memory.freeze("in", 1879048193)
        for name in ("scans/a.csv", "scans/b.csv"):
            try:
                open(inputs / name, "ab")
            except OSError as exc:
                assert exc.errno == 30, exc
            else:
                raise AssertionError("written")
        assert (inputs / "scans/a.csv").stat().st_uid == 1879048193
        print("fine")
    """
    done = run_python(code)
    assert done.stdout == "fine\n", done.stderr


@as_root
def test_more_than_memory_is_refused_before_mounting() -> None:
    """An input that does not fit is `memory_short`, said before a byte is unsealed."""
    code = """
        from perunml.host.memory import PrivateMemory
        from perunml.wire.errors import PerunError
        memory = PrivateMemory.enter()
        try:
            memory.add("in", 1 << 50)
        except PerunError as exc:
            assert exc.code == "memory_short" and not (memory.root / "in").exists()
            print("fine")
    """
    done = run_python(code)
    assert done.stdout == "fine\n", done.stderr


@as_root
def test_process_with_keys_gives_no_core_and_no_ptrace() -> None:
    """`guard_process` forbids core dumps and marks the process undumpable."""
    code = """
        import ctypes, resource
        from perunml.host.memory import guard_process
        guard_process()
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0
        print("fine")
    """
    done = run_python(code)
    assert done.stdout == "fine\n", done.stderr


@as_root
def test_process_dies_with_its_parent() -> None:
    """A runner whose agent is killed is killed by the kernel."""
    code = """
        import os, subprocess, sys, time
        inner = "import os,sys,time; from perunml.host.memory import die_with_parent; die_with_parent(int(sys.argv[1])); print('ready', flush=True); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", inner, str(os.getpid())], stdout=subprocess.PIPE)
        child.stdout.readline()
        print(child.pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    done = run_python(code)
    pid = int(done.stdout)
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]:
            return
        __import__("time").sleep(0.05)
    pytest.fail("still alive")
