"""The host's disk is full, while it fetches and while it seals: said with its code, nothing half-registered, and the next run works."""

from __future__ import annotations

import os
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.road import Road, until
from perunml.host.process import processes_of
from perunml.host.sandbox import FIRST_UID

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="the agent runs as root, here and in CI"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed; `make setup` installs it"),
]
SMALL, LARGE = "1m", "32m"
OUTPUT = 3 * 2**20
"""Bytes of the job's output: more than the small disk has, less than the large one."""
TRAIN = textwrap.dedent(
    f"""
    import json
    json.dump({{"weights": "w" * {OUTPUT}}}, open("/out/model.json", "w"))
    """
)
DECLARED = {"model": {"to": "acme", "format": "json", "max_size": "8MiB"}}


@pytest.fixture
def disk(road: Road) -> Iterator[Path]:
    """Where the agent keeps ciphertext, on a file system of its own that is small."""
    folder = road.agent_folder / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL},mode=700", "tmpfs", str(folder)], check=True)
    yield folder
    road.stop_agent()
    subprocess.run(["umount", str(folder)], check=True)


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={LARGE}", str(disk)], check=True)


def failed(road: Road, run: str) -> None:
    """It ended for want of room, and left nothing with the manager or here."""
    view = road.wait_state(run, "failed")
    assert [reason["code"] for reason in view.reasons] == ["disk_full"]
    assert view.outputs == []
    assert view.receipt is not None
    road.heard("keys_wiped")
    until(lambda: not processes_of(FIRST_UID), "the job's processes")
    assert not (road.agent_folder / "runs" / run).exists()


def works(road: Road, agreement: str) -> None:
    """The same job, with room."""
    view = road.wait_state(road.submit(agreement), "finished")
    assert [output.name for output in view.outputs] == ["model"]


def test_s9_a_disk_that_fills_up_while_outputs_are_sealed(road: Road, disk: Path) -> None:
    """S9: the job is done and its model finds no room: the run fails, says so, and the next one delivers."""
    road.enrol()
    agreement = road.agree(TRAIN, outputs=DECLARED)
    run = road.submit(agreement)
    road.start_agent()
    failed(road, run)
    assert "job_ended" in road.names()
    enlarge(disk)
    works(road, agreement)


@pytest.mark.parametrize("left", [2, 0], ids=["before-inputs-are-fetched", "before-the-run-starts"])
def test_s9_a_disk_that_is_full(road: Road, disk: Path, left: int) -> None:
    """S9: no room for the inputs, or not even for the run's own record, with `left` pages free: no job starts, and the agent lives."""
    road.enrol()
    agreement = road.agree(TRAIN, outputs=DECLARED)
    run = road.submit(agreement)
    with (disk / "filler").open("wb", buffering=0) as filler:
        while (room := os.statvfs(disk).f_bavail) > left:
            filler.write(bytes((room - left) * os.statvfs(disk).f_frsize))
    road.start_agent()
    if left:
        failed(road, run)
        assert "running" not in road.names()
    else:
        told = road.heard("not_started")
        assert [reason["code"] for reason in told["reasons"]] == ["disk_full"]
        assert road.view(run).state == "queued"
    enlarge(disk)
    works(road, agreement)
