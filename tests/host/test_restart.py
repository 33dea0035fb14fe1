"""An agent in a process of its own: killed, stopped, started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from host.road import Road, until
from host.test_road import LEASE, SLEEP, TRAIN, no_trace
from perunml.attesters.simulated import SimulatedAttester
from perunml.host.agent import Agent
from perunml.host.process import processes_of
from perunml.wire.errors import UsageError

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="the agent runs as root, here and in CI"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed; `make setup` installs it"),
]
WAITING = """
import json, os, time
if json.load(open(os.environ["PERUNML_PARAMS"]))["epochs"] == 1:
    os.fork()
    time.sleep(600)
"""


class AgentProcess:
    """`agent_process.py`, its events read line by line."""

    def __init__(self, road: Road, folder: Path | None = None, state: Path | None = None) -> None:
        (road.folder / "pin.json").write_bytes(road.pin.to_file())
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("agent_process.py")),
             str(folder or road.agent_folder), str(road.folder / "pin.json"), str(state or road.folder / "state")],
            stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        self.events: list[dict[str, Any]] = []

    def heard(self, name: str) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == name:
                return self.events[-1]
        raise AssertionError(f"no {name}: {self.events}")

    def end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.wait(60)
        if self.process.stdout:
            self.process.stdout.close()


@pytest.fixture
def simulated(road: Road) -> Road:
    road.tpm = SimulatedAttester(road.folder / "state")
    road.enrol()
    return road


def test_killed_agent_takes_everything_along_and_starts_clean(simulated: Road) -> None:
    """kill -9 of the agent: runner, sandbox and mounts are gone at once; the next agent removes the folder, holds no keys, and
    does the next run."""
    agreement = simulated.agree(WAITING + TRAIN, lease=LEASE)
    run = simulated.submit(agreement, epochs=1)
    first = AgentProcess(simulated)
    user = os.stat(f"/proc/{first.heard('running')['init']}").st_uid
    first.end(signal.SIGKILL)
    until(lambda: not processes_of(user), "the sandbox's end")
    assert (simulated.agent_folder / "runs" / run).exists()
    second = AgentProcess(simulated)
    assert second.heard("cleaned")["run"] == run
    second.heard("ready")
    no_trace(simulated, user)
    simulated.wait_state(run, "lost")
    again = simulated.submit(agreement)
    second.heard("finished")
    assert simulated.view(again).state == "finished"
    second.end(signal.SIGTERM)
    assert second.process.returncode == 0


def test_stopped_agent_tells_the_manager(simulated: Road) -> None:
    """SIGTERM ends a run as `killed`, in order, before its lease does."""
    run = simulated.submit(simulated.agree(SLEEP))
    agent = AgentProcess(simulated)
    user = os.stat(f"/proc/{agent.heard('running')['init']}").st_uid
    agent.process.send_signal(signal.SIGTERM)
    assert agent.heard("failed")["error"] == "killed"
    agent.heard("keys_wiped")
    agent.end(signal.SIGTERM)
    assert simulated.view(run).state == "failed"
    no_trace(simulated, user)


def test_second_agent_in_one_folder_is_refused(simulated: Road) -> None:
    """Two agents would end one another's runs."""
    agent = AgentProcess(simulated)
    agent.heard("ready")
    with pytest.raises(UsageError) as caught:
        Agent(simulated.agent_folder, simulated.pin, simulated.tpm).run_forever()
    assert caught.value.code == "agent_busy"
    agent.end(signal.SIGTERM)
