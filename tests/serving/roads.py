"""The road of a service, for tests: real manager, real agent and runner in processes of their own, real sandbox."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.kit import Party
from perunml import Client
from perunml.manager import setup
from perunml.manager.server import Server

PROGRAM = Path(__file__).with_name("host.py")
PARTIES = ("owner", "coder", "cloud", "clinic")
LEASE = 4
AGREEMENT = """
apiVersion: perunml/v1
kind: Agreement
metadata: {{name: served}}
manager: {{key: "{manager}", profile: {{profile: simulated}}}}
witnesses: {{waived_because_simulated: true}}
parties:
  owner: {{keys: {{k: "{owner}"}}}}
  coder: {{keys: {{k: "{coder}"}}}}
  cloud: {{keys: {{k: "{cloud}"}}}}
  clinic: {{keys: {{k: "{clinic}"}}}}
assets: {assets}
hosts:
  inference: {{profile: simulated, imitates: tee, machines: ["{machine}"]}}
jobs:
  serve: {{model: net, {job}, hosts: inference, operator: cloud, clients: [clinic],
           limits: {{requests: {requests}/day, until: "2035-01-01T00:00:00Z"}}, lease: {lease}s}}
"""


@dataclass(frozen=True)
class Sealed:
    """An asset to bring: its owner, kind, folder, and the entry of code."""

    owner: str
    kind: str
    folder: Path
    entry: str = ""


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


@dataclass(frozen=True)
class Road:
    """Manager, five people, an enrolled host, sealed assets, an agreement in force, a service that answers."""

    people: dict[str, Client]
    host: Host
    run: str
    metrics: str


@contextmanager
def road(folder: Path, assets: Mapping[str, Sealed], job: str, requests: int = 1000) -> Iterator[Road]:
    """A service of the model `net` among `assets`; `job` is what the agreement says of its engine."""
    manager = folder / "manager"
    identity = setup.init(manager, b"root", url="https://127.0.0.1:1")
    profile = folder / "profile.yaml"
    profile.write_text("{apiVersion: perunml/v1, kind: ManagerProfile, profile: {profile: simulated}}")
    server = Server(manager, b"root", "127.0.0.1", 0)
    _, port = server.start()
    people: dict[str, Client] = {}
    host = None
    try:
        for name in (*PARTIES, "stranger"):
            people[name] = Client.create(folder / name, name, b"secret")
            people[name].trust(f"https://127.0.0.1:{port}", profile)
        setup.admit(manager, [people[name].identity.signing.public.text for name in PARTIES])
        listed = {name: _brought(people[each.owner], name, each) for name, each in assets.items()}
        (folder / "pin").write_bytes(people["cloud"].pin.to_file())
        host = Host(folder / "host", folder / "pin", folder / "cloud", "127.0.0.1:0")
        text = AGREEMENT.format(
            manager=identity, assets=json.dumps(listed), requests=requests, lease=LEASE, job=job, machine=host.wait_for("machine")["machine"],
            **{name: people[name].identity.signing.public.text for name in PARTIES},
        )  # fmt: skip
        view = people["owner"].propose(text.encode())
        for name in PARTIES:
            people[name].approve(view.digest)
        run = served(folder / "cloud", view.digest)
        yield Road(people, host, run, host.wait_for("serving")["metrics"])
    finally:
        if host is not None:
            host.stop()
        for each in people.values():
            each.close()
        server.stop()


def _brought(owner: Client, name: str, asset: Sealed) -> dict[str, str]:
    """Sealed and pushed, as the agreement lists it."""
    made = owner.seal(asset.folder, name=name, kind=asset.kind)
    owner.push(name)
    entry = {"entry": asset.entry} if asset.entry else {}
    return {"kind": asset.kind, "owner": asset.owner, "digest": made.asset, **entry}
