"""A service from end to end: real manager, real agent and runner in processes of their own, real sandbox, real clients."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.kit import Party
from perunml import Client
from perunml.api.inference import ReceiptFile
from perunml.client.receipts import verify_receipt
from perunml.manager import setup
from perunml.manager.server import Server
from perunml.serving.engines import TorchExport
from perunml.testing.service import predict
from perunml.wire.errors import PerunError

pytestmark = [
    pytest.mark.torch,
    pytest.mark.sandbox,
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="the runner makes mounts, so it runs as root, here and in CI"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed; `make setup` installs it"),
]
PROGRAM = Path(__file__).with_name("host.py")
INPUTS = {"features": [[0.5] * 30]}
REQUESTS = 6
LEASE = 4
AGREEMENT = """
apiVersion: perunml/v1
kind: Agreement
metadata: {{name: served}}
manager: {{key: "{manager}", profile: {{profile: simulated}}}}
witnesses: {{waived_because_simulated: true}}
parties:
  owner: {{keys: {{k: "{owner}"}}}}
  cloud: {{keys: {{k: "{cloud}"}}}}
  clinic: {{keys: {{k: "{clinic}"}}}}
assets:
  net: {{kind: model, owner: owner, digest: "{model}"}}
hosts:
  inference: {{profile: simulated, imitates: tee, machines: ["{machine}"]}}
jobs:
  serve: {{model: net, engine: torch-export, hosts: inference, operator: cloud, clients: [clinic],
           limits: {{requests: {requests}/day, until: "2035-01-01T00:00:00Z"}}, lease: {lease}s}}
"""


class Host:
    """The agent's process, and its events as they come."""

    def __init__(self, *arguments: str | Path) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        self.seen: list[dict[str, Any]] = []
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                self._events.put(json.loads(line))

    def wait_for(self, name: str, seconds: float = 90) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while True:
            try:
                event = self._events.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {name} in {seconds} s, but {self.seen}") from None
            self.seen.append(event)
            if event["event"] == name:
                return event

    def stop(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)


def served(home: Path, agreement: str) -> str:
    """The run of the agreement's only service, as `perunml serve` answers once it answers."""
    cloud = Party(home)
    would = cloud("serve", "-o", "json", agreement, "--dry-run", passphrase=b"secret")
    assert (would.code, would.json["would_send"]["method"]) == (0, "POST")
    said = cloud("serve", "-o", "json", agreement, "--timeout", "120", passphrase=b"secret")
    assert said.code == 0, said.err
    assert said.json["endpoint"]
    return str(said.json["run"])


@pytest.fixture
def road(tmp_path: Path, model: Path) -> Iterator[tuple[dict[str, Client], Host, str]]:
    """Manager, four people, an enrolled host, a sealed model, an agreement in force, a service that answers."""
    manager = tmp_path / "manager"
    identity = setup.init(manager, b"root", url="https://127.0.0.1:1")
    profile = tmp_path / "profile.yaml"
    profile.write_text("{apiVersion: perunml/v1, kind: ManagerProfile, profile: {profile: simulated}}")
    server = Server(manager, b"root", "127.0.0.1", 0)
    _, port = server.start()
    people: dict[str, Client] = {}
    host = None
    try:
        for name in ("owner", "cloud", "clinic", "stranger"):
            people[name] = Client.create(tmp_path / name, name, b"secret")
            people[name].trust(f"https://127.0.0.1:{port}", profile)
        setup.admit(manager, [people[name].identity.signing.public.text for name in ("owner", "cloud", "clinic")])
        (tmp_path / "net").mkdir()
        shutil.copy(model, tmp_path / "net")
        sealed = people["owner"].seal(tmp_path / "net", name="net", kind="model")
        people["owner"].push("net")
        (tmp_path / "pin").write_bytes(people["cloud"].pin.to_file())
        host = Host(tmp_path / "host", tmp_path / "pin", tmp_path / "cloud", "127.0.0.1:0")
        text = AGREEMENT.format(
            manager=identity, model=sealed.asset, requests=REQUESTS, lease=LEASE,
            machine=host.wait_for("machine")["machine"],
            **{name: people[name].identity.signing.public.text for name in ("owner", "cloud", "clinic")},
        )  # fmt: skip
        view = people["owner"].propose(text.encode())
        for name in ("owner", "cloud", "clinic"):
            people[name].approve(view.digest)
        run = served(tmp_path / "cloud", view.digest)
        host.wait_for("serving")
        yield people, host, run
    finally:
        if host is not None:
            host.stop()
        for each in people.values():
            each.close()
        server.stop()


def test_a_service_from_release_to_suspension(
    road: tuple[dict[str, Client], Host, str], model: Path, tmp_path: Path
) -> None:
    """Predictions with receipts, across renewals; a stranger refused; the agreed count kept; a suspension ends it all (C14)."""
    people, host, run = road
    clinic = people["clinic"]
    found = clinic.infer(run, INPUTS)
    first = found.receipt
    assert found.outputs == predict(TorchExport(model.read_bytes()), INPUTS)
    told = verify_receipt(ReceiptFile.decode(first.encode()), clinic.pin, answer=found.answer)
    assert told["simulated"] is True
    assert told["imitates"] == "tee"

    agreement = clinic.run(run).agreement
    assert people["cloud"].serve(agreement).run == run  # one answers already
    assert clinic.infer(f"{agreement}/serve", INPUTS).outputs == found.outputs
    for job in ("train", "net"):
        with pytest.raises(PerunError) as refused:
            people["cloud"].serve(agreement, job)
        assert refused.value.code == "not_found"
    with pytest.raises(PerunError) as refused:
        clinic.infer(f"{agreement}/other", INPUTS)
    assert refused.value.code == "not_found"

    endpoint = clinic.run(run).endpoint
    with pytest.raises(PerunError) as refused:
        people["stranger"].infer(run, INPUTS, endpoint=endpoint)
    assert refused.value.code == "client_not_in_agreement"

    host.wait_for("renewed")
    host.wait_for("renewed")
    time.sleep(0.5)
    second = clinic.infer(run, INPUTS).receipt
    assert second.certificate.digest != first.certificate.digest

    for _ in range(REQUESTS - 3):
        clinic.infer(run, INPUTS)
    with pytest.raises(PerunError) as refused:
        clinic.infer(run, INPUTS)
    assert refused.value.code == "quota_exhausted"

    people["owner"].suspend("net", agreement=clinic.run(run).agreement)
    lost = host.wait_for("lease_lost", 3 * LEASE)
    assert lost["reasons"][0]["code"] == "asset_suspended"
    host.wait_for("keys_wiped")
    with pytest.raises(PerunError) as refused:
        clinic.infer(run, INPUTS, endpoint=endpoint)
    assert refused.value.code == "unreachable"
    sealed = tmp_path / "host/agent"
    assert not [path for path in sealed.rglob("*") if path.is_file() and b"archive/models" in path.read_bytes()]
