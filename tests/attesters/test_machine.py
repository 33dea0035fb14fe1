"""The simulated machine itself, as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from perunml.evidence.baseline import Baseline
from perunml.testing.machine import SimulatedMachine

pytestmark = pytest.mark.swtpm


def test_a_machine_in_a_process_of_its_own_takes_commands(
    powered: SimulatedMachine, tmp_path: Path, files: list[Path]
) -> None:
    """It says where it is, measures, extends, tells its baseline, and leaves no process behind."""
    process = subprocess.Popen(
        [sys.executable, "-m", "perunml.testing.machine", str(tmp_path / "machine"), str(files[0])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def answer() -> Any:
        assert process.stdout is not None
        return json.loads(process.stdout.readline())

    def say(line: str) -> Any:
        assert process.stdin is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        return answer()

    try:
        told = answer()
        assert set(told) == {"tcti", "ima_log", "event_log", "cmdline", "roots"}
        assert all(Path(root).is_file() for root in told["roots"])
        before = Baseline.from_json(say("baseline"))
        assert set(before.files) == {str(files[0])}
        assert say(f"measure {files[1]}") == {"ok": True}
        assert say("extend 1 00ff") == {"ok": True}
        after = Baseline.from_json(say("baseline"))
        assert set(after.files) == {str(path) for path in files}
        assert {i for i in range(3) if before.pcrs["sha256"][i] != after.pcrs["sha256"][i]} == {1}
        assert say("measure /no/such/file")["ok"] is False
        assert say("extend 99 zz")["ok"] is False
        assert say("dance")["ok"] is False
    finally:
        process.communicate("quit\n", timeout=20)
    assert process.returncode == 0
    assert not _swtpms_of(tmp_path / "machine")


def test_a_killed_machine_takes_its_tpm_along(tmp_path: Path) -> None:
    """kill -9 leaves no software TPM behind, and the next start works."""
    command = [sys.executable, "-m", "perunml.testing.machine", str(tmp_path / "machine")]
    for _ in range(2):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert b"tcti" in process.stdout.readline()
        process.kill()
        process.communicate(timeout=20)
        end = 200
        while _swtpms_of(tmp_path / "machine") and end:
            end -= 1
            time.sleep(0.01)
        assert not _swtpms_of(tmp_path / "machine")


def _swtpms_of(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if line.startswith(b"swtpm\0") and os.fsencode(folder) in line:
                found.append(int(entry.name))
    return found


def test_a_machine_needs_a_folder() -> None:
    """Usage, with the exit code of usage."""
    done = subprocess.run([sys.executable, "-m", "perunml.testing.machine"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"usage" in done.stderr


def test_nothing_outside_of_the_folder_is_touched(powered: SimulatedMachine) -> None:
    """The CA lies in the machine's folder."""
    assert all(powered.folder in root.parents and root.is_file() for root in powered.roots)
    assert powered.pid > 0
