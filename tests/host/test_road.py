"""The whole road on the machine's side, against the real manager: from sealed inputs to sealed outputs, and what ends it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import textwrap
import time
from pathlib import Path

import pytest

from host.road import Road, until
from perunml.agreements.document import load_agreement
from perunml.client import agreements, outputs
from perunml.host.agent import Agent
from perunml.host.memory import STAGE
from perunml.host.process import processes_of
from perunml.host.sandbox import FIRST_UID
from perunml.wire.canonical import canonical
from perunml.wire.errors import PerunError, UsageError

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="the agent runs as root, here and in CI"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed; `make setup` installs it"),
]
TRAIN = textwrap.dedent(
    """
    import json, os
    rows = sorted(os.listdir(os.environ["SM_CHANNEL_SCANS"]))
    epochs = json.load(open(os.environ["PERUNML_PARAMS"]))["epochs"]
    json.dump({"rows": rows, "epochs": epochs}, open("/out/model.json", "w"))
    json.dump({"loss": [1 / 3] * epochs}, open("/out/metrics.json", "w"))
    """
)
SLEEP = "import os, time\nos.fork()\ntime.sleep(600)\n"
LEASE = "4s"


def codes(event: dict[str, object]) -> list[str]:
    return [reason["code"] for reason in event["reasons"]]  # type: ignore[index, attr-defined]  # JSON


def no_trace(road: Road, user: int) -> None:
    """Nothing of a run is left: no process, no mount, no ciphertext, no cgroup."""
    assert processes_of(user) == []
    assert list((road.agent_folder / "runs").iterdir()) == []
    assert str(STAGE) not in Path("/proc/self/mountinfo").read_text()


def running(road: Road, code: str = SLEEP) -> tuple[str, int]:
    """A run in the sandbox; its id and its job's user."""
    road.enrol()
    run = road.submit(road.agree(code, lease=LEASE))
    road.start_agent()
    init = road.heard("running")["init"]
    return run, os.stat(f"/proc/{init}").st_uid


def test_sealed_in_sealed_out(road: Road) -> None:
    """Taken, released, trained, sealed, finished; the recipient opens the output; the agent keeps nothing."""
    road.enrol()
    run = road.submit(road.agree(TRAIN))
    road.start_agent()
    road.heard("keys_wiped")
    names = [name for name in road.names() if name not in ("renewed", "unreachable")]
    assert names == [
        "ready", "taken", "released", "fetching", "fetched", "running", "job_ended", "sealing", "sealed", "sealing", "sealed",
        "finished", "keys_wiped",
    ]  # fmt: skip
    assert all(event["simulated"] for event in road.events)
    view = road.view(run)
    assert (view.state, view.simulated, view.host) == ("finished", True, road.tpm.machine)
    assert {output.name for output in view.outputs} == {"model", "metrics"}
    party = road.startup
    pulled = outputs.pull(party.connection, party.home, party.identity, run, "model", road.folder / "model")
    assert json.loads((pulled.folder / "model.json").read_text()) == {"rows": ["a.csv", "deep"], "epochs": 2}
    metrics = outputs.pull(road.hospital.connection, road.hospital.home, road.hospital.identity, run, "metrics", road.folder / "m")  # fmt: skip
    assert (metrics.folder / "metrics.json").read_bytes() == b'{"loss":[0.333333,0.333333]}'
    no_trace(road, FIRST_UID)


@pytest.mark.parametrize(
    ("code", "error", "reasons"),
    [
        ("raise ValueError('patient-17')", "code_failed", ["code_failed"]),
        ("open('/out/patient-17', 'w').write('x')", "output_refused", ["output_missing", "output_missing", "output_undeclared"]),
    ],
    ids=["code_failed", "output_refused"],
)  # fmt: skip
def test_failed_job_ends_as_one_class(road: Road, code: str, error: str, reasons: list[str]) -> None:
    """The manager learns a class and coded reasons, nothing that the job said."""
    road.enrol()
    run = road.submit(road.agree(code))
    road.start_agent()
    failed = road.heard("failed")
    assert (failed["error"], codes(failed)) == (error, reasons)
    view = road.wait_state(run, "failed")
    assert "patient-17" not in view.model_dump_json() + json.dumps(road.events)
    assert view.outputs == []


@pytest.mark.parametrize("fails", [True, False])
def test_a_log_leaves_only_where_the_agreement_says_full(road: Road, fails: bool) -> None:
    """Then for whom it names, sealed, of a run that failed too; with `error-class` there is no such output, and the class is all."""
    road.enrol()
    code = "import sys\nprint('epoch 1 of patient-17')\nopen('/out/model', 'w').write('{}')\n" + (
        "raise ValueError('boom')\n" if fails else ""
    )
    agreed = {
        "model": {"to": "acme", "format": "json", "max_size": "1KiB"},
        "log": {"to": "acme", "level": "full", "max_size": "2KiB"},
        "class": {"to": "st-vitus", "level": "error-class"},
    }
    run = road.submit(road.agree(code, outputs=agreed))
    road.start_agent()
    road.heard("keys_wiped")
    view = road.wait_state(run, "failed" if fails else "finished")
    assert {output.name for output in view.outputs} == ({"log"} if fails else {"log", "model"})
    assert "patient-17" not in view.model_dump_json() + json.dumps(road.events)
    party = road.startup
    pulled = outputs.pull(party.connection, party.home, party.identity, run, "log", road.folder / "log")
    log = (pulled.folder / "log.txt").read_text()
    assert log.startswith("epoch 1 of patient-17")
    assert ("ValueError: boom" in log) is fails
    with pytest.raises(PerunError):
        outputs.pull(
            road.hospital.connection, road.hospital.home, road.hospital.identity, run, "log", road.folder / "h"
        )


def test_a_log_that_is_narrowed_away_in_mid_run_takes_nothing_with_it(road: Road) -> None:
    """An owner says `error-class` while the job runs: the model comes as agreed, the log does not."""
    road.enrol()
    code = "import os, time\nprint('patient-17', flush=True)\nopen('/out/model', 'w').write('{}')\nwhile not os.path.exists('/tmp/go'):\n    time.sleep(0.05)\n"
    agreed = {
        "model": {"to": "acme", "format": "json", "max_size": "1KiB"},
        "log": {"to": "acme", "level": "full", "max_size": "2KiB"},
    }
    digest = road.agree(code, outputs=agreed)
    run = road.submit(digest)
    road.start_agent()
    init = road.heard("running")["init"]
    owner = road.hospital
    document = json.loads(agreements.show(owner.connection, digest)[1].payload)
    document["metadata"] |= {"version": 2, "predecessor": digest}
    document["jobs"]["train"]["outputs"]["log"]["level"] = "error-class"
    narrower = load_agreement(canonical(document))
    agreements.propose(owner.connection, owner.home, owner.identity, narrower)
    shown, again = agreements.show(owner.connection, narrower.digest)
    assert agreements.approve(owner.connection, owner.home, owner.identity, again, shown).state == "in_force"
    Path(f"/proc/{init}/root/tmp/go").touch()
    road.heard("keys_wiped")
    assert codes(road.heard("left_out")) == ["output_not_agreed"]
    view = road.wait_state(run, "finished")
    assert [output.name for output in view.outputs] == ["model"]
    assert "patient-17" not in view.model_dump_json() + json.dumps(road.events)


def test_extended_pcr_in_mid_run_ends_it(road: Road) -> None:
    """C14: a renewal with a changed PCR is refused; job killed, keys wiped, nothing accepted afterwards."""
    run, user = running(road)
    road.tpm.extend(4, b"another boot loader")
    lost = road.heard("lease_lost")
    assert "pcr_mismatch" in codes(lost)
    road.heard("keys_wiped")
    no_trace(road, user)
    view = road.wait_state(run, "lost")
    assert view.reasons
    assert view.outputs == []


def test_i5_unlisted_file_in_mid_run_ends_it(road: Road) -> None:
    """C14, I5: a file that nobody agreed on is loaded while the job runs, after a renewal or two. The next one is refused: the
    job is killed, keys are wiped, and host and parties know the path and the digest."""
    run, user = running(road)
    road.heard("renewed")
    road.tpm.measure("/opt/evil", b"evil")
    lost = road.heard("lease_lost")
    assert codes(lost) == ["not_in_policy"]
    road.heard("keys_wiped")
    no_trace(road, user)
    for reason in (lost["reasons"][0], road.wait_state(run, "lost").reasons[0]):
        assert reason["message"] == "/opt/evil was loaded and is not agreed"
        assert reason["seen"] == f"sha256:{hashlib.sha256(b'evil').hexdigest()}"


def test_suspended_asset_ends_the_run(road: Road) -> None:
    """The hospital's word ends a run at its next renewal."""
    run, user = running(road)
    agreements.suspend(road.hospital.connection, road.hospital.identity, "scans")
    assert "asset_suspended" in codes(road.heard("lease_lost"))
    road.heard("keys_wiped")
    no_trace(road, user)
    road.wait_state(run, "lost")


def test_silent_manager_ends_the_run_with_its_lease(road: Road) -> None:
    """Without an accepted renewal nothing outlives the lease, counted from the sending of the request."""
    _, user = running(road)
    road.stop_manager()
    stopped = time.monotonic()
    until(lambda: "lease_lost" in road.names() or "killed" in road.names(), "the lease's end")
    assert time.monotonic() - stopped < 30
    road.heard("keys_wiped")
    no_trace(road, user)


def test_frozen_runner_is_killed_by_the_agent(road: Road) -> None:
    """A runner that does nothing any more cannot outlive its lease: the agent's clock ends it."""
    _, user = running(road)
    os.kill(user - FIRST_UID, signal.SIGSTOP)
    killed = road.heard("killed")
    assert killed["by"] == "lease"
    road.heard("keys_wiped")
    no_trace(road, user)


def test_killed_job_and_restarted_manager(road: Road) -> None:
    """kill -9 of the job fails the run as code_failed; a manager restarted in between goes on where it was."""
    run, user = running(road)
    road.stop_manager()
    road.start_manager()
    for pid in processes_of(user):
        with contextlib.suppress(ProcessLookupError):  # the first one takes the others along
            os.kill(pid, signal.SIGKILL)
    failed = road.heard("failed")
    assert failed["error"] == "code_failed"
    assert road.wait_state(run, "failed").state == "failed"
    road.heard("keys_wiped")
    no_trace(road, user)


def test_manager_away_while_outputs_are_made(road: Road) -> None:
    """A manager that is gone for a moment loses nothing: the job goes on, and its outputs arrive when it is back."""
    road.enrol()
    run = road.submit(road.agree("import time\ntime.sleep(1)\n" + TRAIN))
    road.start_agent()
    road.heard("running")
    road.stop_manager()
    road.heard("sealing")
    road.start_manager()
    road.heard("finished")
    assert road.wait_state(run, "finished").outputs


def test_machine_without_sandbox_takes_no_work(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bubblewrap the agent does not even start, and says what to install."""
    road.enrol()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError) as caught:
        Agent(road.agent_folder, road.pin, road.tpm).run_forever()
    assert caught.value.code == "host_unfit"
    assert "install" in caught.value.reasons[0].command
