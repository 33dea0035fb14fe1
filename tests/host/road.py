"""A real manager on loopback, three parties with real keys, one machine: what the host's tests of the whole road need."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perunml.agreements.document import load_agreement
from perunml.api.pin import Pin
from perunml.api.runs import RunView
from perunml.client import agreements, assets, runs
from perunml.client.connection import Connection
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.client.profile import ManagerProfile
from perunml.client.trust import trust
from perunml.host.agent import Agent
from perunml.host.enrol import enrol
from perunml.host.progress import Event
from perunml.manager import setup
from perunml.manager.keys import Keys
from perunml.manager.server import Server
from perunml.testing.forge import ForgedTpm, default_ca
from perunml.wire.canonical import canonical
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey

PASSPHRASE = b"a passphrase for tests"
PROFILE = ManagerProfile.load(b"apiVersion: perunml/v1\nkind: ManagerProfile\nprofile: {profile: simulated}\n")
LONG = 120.0
"""Seconds after which a test gives up; nothing waits that long unless it hangs."""


@functools.cache
def _made_manager() -> Path:
    """A manager's folder as `init` leaves it, to be copied: its scrypt takes a third of a second each time."""
    folder = Path(tempfile.mkdtemp(prefix="perunml-road-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "root.der").write_bytes(default_ca().root)
    setup.init(folder / "manager", PASSPHRASE, url="https://127.0.0.1:1", simulated_ek_roots=[folder / "root.der"])
    return folder / "manager"


@functools.cache
def _unlocked() -> Keys:
    return setup.unlock(_made_manager(), PASSPHRASE)


class Party:
    """A party: identity, home folder, connection."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.identity = Identity(name, SigningKey.generate(), HpkePrivateKey.generate())
        self.home = Home(folder / name)
        self.home.create()
        self.connection: Connection

    @property
    def key(self) -> str:
        return self.identity.signing.public.text


class Road:
    """Manager, parties and one forged TPM, enrolled; `agree` brings an agreement into force, `submit` asks for a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(_made_manager(), folder / "manager")
        self.keys = _unlocked()
        self.port = 0
        self.server: Server | None = None
        self.start_manager()
        self.pin: Pin = trust(f"https://127.0.0.1:{self.port}", PROFILE)
        self.hospital, self.startup, self.cloud = (Party(folder, name) for name in ("st-vitus", "acme", "gpu-cloud"))
        for party in self.parties:
            setup.admit(folder / "manager", [party.key])
            party.connection = Connection(self.pin, party.identity.signing)
        self.tpm: Any = ForgedTpm()
        self.agent_folder = folder / "agent"
        self.events: list[Event] = []
        self.more_machines: list[str] = []  # that the agreement names beside this one
        self.training: dict[str, Any] = {}  # what else the agreement says of its training
        self.store = ""  # where what is pushed lies: the manager's folder, or one of its buckets
        self._agent: tuple[Agent, threading.Thread] | None = None
        self._told = threading.Condition()

    @property
    def parties(self) -> tuple[Party, Party, Party]:
        return self.hospital, self.startup, self.cloud

    def start_manager(self) -> None:
        self.server = Server(self.folder / "manager", self.keys, port=self.port)
        _, self.port = self.server.start()

    def stop_manager(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None

    def close(self) -> None:
        self.stop_agent()
        for party in self.parties:
            party.connection.close()
        self.stop_manager()

    def enrol(self) -> None:
        enrol(self.pin, self.cloud.identity.signing, self.tpm, self.agent_folder, "gpu-1")

    # The agreement.

    def agree(self, code: str, *, lease: str = "30s", wall: str = "10m", outputs: dict[str, Any] | None = None) -> str:
        """Seal and push code and data, agree on one training of them by this machine; the agreement's digest."""
        digests = {
            "scans": self._push(self.hospital, "scans", "dataset", {"a.csv": "1,2\n", "deep/b.csv": "3,4\n"}),
            "unet": self._push(self.startup, "unet", "code", {"train.py": code}),
        }
        role: dict[str, Any] = {"profile": "simulated", "machines": [self.tpm.machine, *self.more_machines]}
        if isinstance(self.tpm, ForgedTpm):
            baseline = self.tpm.baseline().as_json()
            view = assets.push_document(self.cloud.connection, self.cloud.identity, "Baseline", baseline)
            role |= {"imitates": "measured", "baseline": view.digest}
        document = load_agreement(canonical(self._agreement(digests, role, lease, wall, outputs)))
        agreements.propose(self.startup.connection, self.startup.home, self.startup.identity, document)
        for party in self.parties:
            shown, again = agreements.show(party.connection, document.digest)
            agreements.approve(party.connection, party.home, party.identity, again, shown)
        return document.digest

    def _agreement(
        self, digests: dict[str, str], role: dict[str, Any], lease: str, wall: str, outputs: dict[str, Any] | None
    ) -> dict[str, Any]:
        def member(party: Party) -> dict[str, Any]:
            return {"keys": {"main": party.key}, "receive": party.identity.receiving.public.text}

        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86400))
        return {
            "apiVersion": "perunml/v1",
            "kind": "Agreement",
            "metadata": {"name": "road"},
            "manager": {"key": self.pin.identity, "profile": {"profile": "simulated"}},
            "witnesses": {"waived_because_simulated": True},
            "parties": {party.name: member(party) for party in self.parties},
            "assets": {
                "scans": {"kind": "dataset", "owner": "st-vitus", "digest": digests["scans"]},
                "unet": {"kind": "code", "owner": "acme", "digest": digests["unet"], "entry": "train.py"},
            },
            "hosts": {"trainer": role},
            "jobs": {
                "train": {
                    "code": "unet", "inputs": {"scans": "/in/scans"}, "hosts": "trainer", "operator": "gpu-cloud",
                    "parameters": {"epochs": {"max": 50}}, "limits": {"runs": 3, "until": until, "wall": wall, **({"resumes": 3} if self.training else {})},
                    "network": "none", "lease": lease,
                    "outputs": outputs or {
                        "model": {"to": "acme", "format": "json", "max_size": "1MiB"},
                        "metrics": {"to": ["acme", "st-vitus"], "fields": ["loss"]},
                    },
                    **self.training,
                },
            },
        }  # fmt: skip

    def _push(self, party: Party, name: str, kind: str, files: dict[str, str]) -> str:
        source = self.folder / f"plain-{name}"
        for path, text in files.items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_text(text)
        sealed = assets.seal(party.home, party.identity, source, name=name, kind=kind)
        view = assets.push(party.connection, party.home, party.identity, name, store=self.store)
        assert view.complete
        return sealed.asset

    # Runs.

    def submit(self, agreement: str, epochs: int = 2) -> str:
        party = self.startup
        return runs.submit(party.connection, party.identity, agreement, "train", {"epochs": epochs}).run

    def view(self, run: str) -> RunView:
        return runs.show(self.startup.connection, run)

    def wait_state(self, run: str, state: str) -> RunView:
        end = time.monotonic() + LONG
        while (view := self.view(run)).state != state:
            assert time.monotonic() < end, f"waited for {state}, is {view.model_dump_json()}"
            time.sleep(0.05)
        return view

    # The agent, in a thread of this process.

    def start_agent(self, **options: Any) -> None:
        agent = Agent(self.agent_folder, self.pin, self.tpm, on_event=self._hear, poll=0.1, **options)
        thread = threading.Thread(target=agent.run_forever)
        thread.start()
        self._agent = (agent, thread)

    def stop_agent(self) -> None:
        if self._agent is not None:
            agent, thread = self._agent
            agent.stop()
            thread.join()
            self._agent = None

    def heard(self, name: str) -> Event:
        """The first event of this name, waited for. An event that ends the run before is shown instead."""
        with self._told:
            self._told.wait_for(lambda: any(event["event"] == name for event in self.events), LONG)
            for event in self.events:
                if event["event"] == name:
                    return event
        raise AssertionError(f"no {name}: {json.dumps(self.events, indent=1)}")

    def names(self) -> list[str]:
        with self._told:
            return [event["event"] for event in self.events]

    def _hear(self, event: Event) -> None:
        with self._told:
            self.events.append(event)
            self._told.notify_all()


def until(look: Callable[[], Any], what: str) -> Any:
    """What `look` gives once it gives something."""
    end = time.monotonic() + LONG
    while not (found := look()):
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.05)
    return found
