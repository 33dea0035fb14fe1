"""Checkpoints: a training that is killed, or moved, goes on from the last one, on another machine, and ends as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from host.road import Road, until
from host.test_restart import AgentProcess
from perunml.attesters.simulated import SimulatedAttester
from perunml.client import outputs
from perunml.host.checkpoints import Busy, still
from perunml.host.enrol import enrol
from perunml.host.process import processes_of

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="the agent runs as root, here and in CI"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed; `make setup` installs it"),
]
TRAIN = textwrap.dedent(
    """
    # Ordinary code that keeps checkpoints: weights, place and the generator's state, written aside and renamed.
    import json, os, random, time

    folder = os.environ["PERUNML_CHECKPOINTS"]
    path = os.path.join(folder, "deep", "last.json")
    epochs = json.load(open(os.environ["PERUNML_PARAMS"]))["epochs"]
    rng, weights, done = random.Random(7), [0.0] * 8, 0
    if os.path.exists(path):
        kept = json.load(open(path))
        weights, done = kept["weights"], kept["step"]
        rng.setstate((kept["rng"][0], tuple(kept["rng"][1]), kept["rng"][2]))
    began = done
    while done < 40 * epochs:
        weights = [w - 0.1 * (w - rng.random()) for w in weights]
        done += 1
        time.sleep(0.04)
        if done % 5 == 0:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            json.dump({"weights": weights, "step": done, "rng": rng.getstate()}, open(path + ".part", "w"))
            os.replace(path + ".part", path)
    json.dump({"weights": weights, "steps": done}, open("/out/model.json", "w"))
    json.dump({"loss": [began]}, open("/out/metrics.json", "w"))
    """
)
BEAT = {"checkpoints": {"max_size": "64KiB", "every": "1s"}}
LEASE = "4s"


class Two:
    """The road's machine, and a second one that the agreement admits too, each with an agent's folder of its own."""

    def __init__(self, road: Road) -> None:
        self.road = road
        second = SimulatedAttester(road.folder / "state2")
        road.tpm = SimulatedAttester(road.folder / "state")
        road.more_machines = [second.machine]
        road.training = BEAT
        road.enrol()
        enrol(road.pin, road.cloud.identity.signing, second, road.folder / "agent2", "gpu-2")

    def first(self) -> AgentProcess:
        return AgentProcess(self.road)

    def second(self) -> AgentProcess:
        return AgentProcess(self.road, self.road.folder / "agent2", self.road.folder / "state2")

    def result(self, run: str, name: str) -> Any:
        party = self.road.startup
        pulled = outputs.pull(
            party.connection, party.home, party.identity, run, name, self.road.folder / f"{name}-{run}"
        )
        return json.loads((pulled.folder / f"{name}.json").read_text())


@pytest.fixture
def two(road: Road) -> Two:
    return Two(road)


@pytest.fixture
def ended() -> Iterator[list[AgentProcess]]:
    agents: list[AgentProcess] = []
    yield agents
    for agent in agents:
        agent.end(signal.SIGKILL)


def rows(two: Two, kind: str = "checkpoint") -> list[tuple[int, int, str]]:
    with contextlib.closing(
        sqlite3.connect(f"file:{two.road.folder / 'manager' / 'manager.sqlite'}?mode=ro", uri=True)
    ) as database:
        return database.execute("SELECT version, size, digest FROM assets WHERE kind = ?", (kind,)).fetchall()


def test_a_run_killed_in_mid_epoch_ends_on_another_machine_as_if_undisturbed(
    two: Two, ended: list[AgentProcess]
) -> None:
    """kill -9 after a checkpoint: the lease ends, the other machine goes on from it, and the model is the undisturbed run's to the byte."""
    road = two.road
    agreement = road.agree(TRAIN, lease=LEASE)
    run = road.submit(agreement, epochs=3)
    first = two.first()
    user = os.stat(f"/proc/{first.heard('running')['init']}").st_uid
    assert first.heard("checkpoint")["number"] == 1
    first.end(signal.SIGKILL)
    until(lambda: not processes_of(user), "the sandbox's end")
    assert {size for _, size, _ in rows(two)} == {256 * 1024 + 64 * 1024}
    second = two.second()
    ended.append(second)
    number = second.heard("resuming")["number"]
    assert number >= 1
    second.heard("finished")
    began = two.result(run, "metrics")["loss"][0]
    assert 0 < began < 120
    undisturbed = road.submit(agreement, epochs=3)
    second.heard("finished")
    assert two.result(undisturbed, "metrics")["loss"] == [0]
    assert two.result(run, "model") == two.result(undisturbed, "model")
    assert road.view(run).receipt is not None
    inputs = json.loads(road.view(run).receipt.payload)["inputs"]  # type: ignore[union-attr]  # asserted
    assert set(inputs) == {"scans", "#checkpoint"}
    until(lambda: road.view(undisturbed).state == "finished", "the end")


def test_a_stopped_agent_leaves_its_run_to_another(two: Two, ended: list[AgentProcess]) -> None:
    """SIGTERM: a run with checkpoints is not failed, it moves."""
    road = two.road
    run = road.submit(road.agree(TRAIN, lease=LEASE), epochs=4)
    first = two.first()
    first.heard("checkpoint")
    first.process.send_signal(signal.SIGTERM)
    first.heard("left")
    first.end(signal.SIGTERM)
    second = two.second()
    ended.append(second)
    second.heard("resuming")
    second.heard("finished")
    assert two.result(run, "model")["steps"] == 160


def test_checkpoints_larger_than_agreed_are_told_and_the_job_goes_on(two: Two, ended: list[AgentProcess]) -> None:
    """More than agreed is not kept; what there was before stays, and the beat goes on with the same size."""
    road = two.road
    code = (
        "import os, time\nopen(os.environ['PERUNML_CHECKPOINTS'] + '/big', 'wb').write(bytes(80000))\ntime.sleep(2.5)\n"
    )
    road.submit(road.agree(code, lease=LEASE), epochs=1)
    agent = two.first()
    ended.append(agent)
    told = agent.heard("checkpoint_refused")
    assert [reason["code"] for reason in told["reasons"]] == ["checkpoint_too_large"]
    assert agent.heard("checkpoint")["number"] == 1
    assert {size for _, size, _ in rows(two)} == {256 * 1024 + 64 * 1024}


def test_where_none_are_agreed_there_is_no_folder(road: Road) -> None:
    """The environment names none, and the sandbox has none."""
    road.enrol()
    road.submit(
        road.agree(
            "import os\nassert 'PERUNML_CHECKPOINTS' not in os.environ\nassert not os.path.exists('/checkpoints')\n"
        )
    )
    road.start_agent()
    assert [reason["code"] for reason in road.heard("failed")["reasons"]] == ["output_missing"] * 2


def test_a_file_that_is_being_written_is_not_taken(tmp_path: Path) -> None:
    """By another process, or by a shared map of it; once closed it is, and nobody can open it for writing while it is read."""
    path = tmp_path / "a" / "model.pt"
    path.parent.mkdir()
    path.write_bytes(b"1" * 100)
    writer = subprocess.Popen(
        [sys.executable, "-c", f"import mmap,sys\nf=open({str(path)!r},'r+b')\nm=mmap.mmap(f.fileno(),0)\nf.close()\nprint(1,flush=True)\nsys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert writer.stdout
    assert writer.stdin
    writer.stdout.readline()
    with pytest.raises(Busy), still(tmp_path):
        pass
    writer.stdin.close()
    writer.wait()
    writer.stdout.close()
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        opened: list[float] = []
        with still(tmp_path) as files:
            assert list(files) == ["a/model.pt"]
            thread = threading.Thread(target=lambda: (path.open("r+b").close(), opened.append(time.monotonic())))
            thread.start()
            time.sleep(0.3)
            assert not opened
        thread.join(10)
        assert opened
    finally:
        signal.signal(signal.SIGIO, before)


def test_names_that_change_while_they_are_looked_at_lead_nowhere(tmp_path: Path) -> None:
    """A job that swaps folders for links to the machine's own, and files for pipes and links, while the runner, who is root outside, looks: it
    never opens anything but the job's own files, and never waits."""
    secret, folder = tmp_path / "secret", tmp_path / "folder"
    (secret / "in").mkdir(parents=True)
    (secret / "in" / "key").write_bytes(b"the machine's own")
    folder.mkdir()
    program = textwrap.dedent(
        f"""
        import os, sys, time
        os.chdir({str(folder)!r})
        end = time.monotonic() + 6
        while time.monotonic() < end and not os.path.exists("stop"):
            os.mkdir("d"); open("d/key", "wb").write(b"own")
            os.rename("d", "e"); os.symlink({str(secret / "in")!r}, "d")
            os.unlink("d"); os.unlink("e/key"); os.mkfifo("e/key"); os.unlink("e/key"); os.symlink({str(secret / "in" / "key")!r}, "e/key")
            os.unlink("e/key"); os.rmdir("e")
        """
    )
    swapper = subprocess.Popen([sys.executable, "-c", program])
    try:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            try:
                with still(folder) as files:
                    for path, descriptor in files.items():
                        assert os.pread(descriptor, 100, 0) in (b"own", b""), path
            except Busy:
                continue
    finally:
        (folder / "stop").touch()
        swapper.wait(30)
    with still(folder) as files:
        assert list(files) == ["stop"]


def test_links_are_left_out(tmp_path: Path) -> None:
    """A link out of the folder would show the runner's files to the next session."""
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "dir").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"x")
    with still(tmp_path) as files:
        assert list(files) == ["file"]
