"""A runner seen from outside: the watchdog, and what a restarted agent finds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perunml.host import process
from perunml.host.process import boot_id, clean_leftovers, kill_run, processes_of, start_time
from perunml.host.sandbox import FIRST_UID

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="ends processes of other users, so it runs as root, here and in CI"
)


def sleeper(user: int | None = None) -> subprocess.Popen[bytes]:
    started = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True, user=user)
    while "sleep" not in Path(f"/proc/{started.pid}/comm").read_text():
        time.sleep(0.01)
    return started


def test_process_id_used_anew_is_told_apart() -> None:
    """A process is itself by boot, id and start time together."""
    assert start_time(os.getpid()).isdigit()
    assert start_time(2**22 + 1) == ""
    assert len(boot_id()) == 36


@as_root
def test_kill_reaches_group_and_job_user() -> None:
    """The runner's group and every process of its job's user die, in whatever session they are."""
    runner = sleeper()
    job = sleeper(user=FIRST_UID + runner.pid)
    assert processes_of(FIRST_UID + runner.pid) == [job.pid]
    kill_run("ab" * 16, runner.pid)
    assert runner.wait(10) == job.wait(10) == -signal.SIGKILL
    assert processes_of(FIRST_UID + runner.pid) == []


@as_root
def test_restarted_agent_ends_and_removes_leftovers(tmp_path: Path) -> None:
    """A runner that outlived its agent dies, its folder goes; a record of another boot or a reused id harms nobody."""
    alive, other = sleeper(), sleeper()
    for name, record in {
        "a": {"pid": alive.pid, "start": start_time(alive.pid), "boot": boot_id()},
        "b": {"pid": other.pid, "start": "1", "boot": boot_id()},
        "c": {"pid": other.pid, "start": start_time(other.pid), "boot": "another"},
        "d": "nonsense",
    }.items():
        (tmp_path / name / "sealed").mkdir(parents=True)
        (tmp_path / name / "sealed" / "blob").write_bytes(b"ciphertext")
        (tmp_path / name / process.RECORD).write_text(json.dumps(record))
    try:
        assert clean_leftovers(tmp_path) == ["a", "b", "c", "d"]
        assert list(tmp_path.iterdir()) == []
        assert alive.wait(10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_nothing_left_is_nothing_to_do(tmp_path: Path) -> None:
    """A first start, and an empty folder."""
    assert clean_leftovers(tmp_path / "missing") == []
    assert clean_leftovers(tmp_path) == []


def test_runner_starts_without_the_agents_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the operator's shell holds does not pass to the process that will hold keys."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    assert set(process._environment()) <= {"PATH", "PYTHONPATH", "LANG", "PYTHONDONTWRITEBYTECODE"}
    assert sys.executable
