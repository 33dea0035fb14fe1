"""Four parties, one manager, one machine, one agreement: everything real but the job, which is a function."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli.kit import Party
from cli.machine import Machine
from cli.manager import Manager
from perunml.wire.timestamps import format_time

SECRET = "PATIENT-MARKER"
DAY = 86400


class World:
    """`agree` makes an agreement of its own for whoever needs one."""

    def __init__(self, folder: Path, manager: Manager) -> None:
        self.folder, self.manager = folder, manager
        names = ("st-vitus", "acme", "gpu-cloud", "clinic")
        self.parties = {name: manager.party(folder / name, name) for name in names}
        self.machine = Machine(self["gpu-cloud"], folder / "machine")
        (folder / "scans").mkdir()
        (folder / "scans" / "a.csv").write_text(f"{SECRET},1\n" * 1000)
        (folder / "unet").mkdir()
        (folder / "unet" / "train.py").write_text("print('training')\n")
        self.assets = {
            "scans": self["st-vitus"].ok("seal", folder / "scans", "--name", "scans", "--kind", "dataset")["asset"],
            "unet": self["acme"].ok("seal", folder / "unet", "--name", "unet", "--kind", "code")["asset"],
        }

    def __getitem__(self, name: str) -> Party:
        return self.parties[name]

    def document(self, name: str, *, runs: int = 100) -> dict[str, Any]:
        """An agreement; acme's model waits for st-vitus's word, its metrics do not."""
        parties: dict[str, Any] = {}
        for party, home in self.parties.items():
            public = home.ok("id", "show")
            parties[party] = {"keys": {"main": public["identity"]}, "receive": public["receive"]}
        until = format_time(int(time.time()) + DAY)
        host = {"profile": "simulated", "imitates": "tee", "machines": [self.machine.name]}
        model = {"to": ["acme"], "format": "json", "max_size": "1MiB", "release": {"approve": ["st-vitus"]}}
        return {
            "apiVersion": "perunml/v1",
            "kind": "Agreement",
            "metadata": {"name": name},
            "manager": {"key": self.manager.identity, "profile": {"profile": "simulated"}},
            "witnesses": {"waived_because_simulated": True},
            "parties": parties,
            "assets": {
                "scans": {"kind": "dataset", "owner": "st-vitus", "digest": self.assets["scans"]},
                "unet": {"kind": "code", "owner": "acme", "digest": self.assets["unet"], "entry": "train.py"},
            },
            "hosts": {"trainer": host},
            "jobs": {
                "train": {
                    "code": "unet",
                    "inputs": {"scans": "/in/scans"},
                    "hosts": "trainer",
                    "operator": "gpu-cloud",
                    "parameters": {"epochs": {"min": 1, "max": 50}},
                    "limits": {"runs": runs, "until": until, "wall": "10m"},
                    "network": "none",
                    "lease": "30s",
                    "tenancy": "shared",
                    "outputs": {
                        "model": model,
                        "metrics": {"to": ["acme", "st-vitus"], "fields": ["epoch", "loss"]},
                    },
                }
            },
        }

    def write(self, document: dict[str, Any]) -> Path:
        path = self.folder / f"{document['metadata']['name']}.yaml"
        path.write_text(json.dumps(document))
        return path

    def agree(self, name: str, **changes: Any) -> str:
        """The digest of an agreement that all approved."""
        digest: str = self["acme"].ok("agreement", "propose", self.write(self.document(name, **changes)))["digest"]
        for party in self.parties.values():
            party.ok("agreement", "approve", digest, "--digest", digest)
        return digest

    def submit(self, agreement: str, **parameters: Any) -> str:
        """A queued run's id."""
        words = [word for key, value in parameters.items() for word in ("-p", f"{key}={value}")]
        run: str = self["acme"].ok("job", "submit", agreement, "train", *(words or ("-p", "epochs=3")))["run"]
        return run

    def finished(self, agreement: str) -> str:
        """A run that went well."""
        run = self.submit(agreement)
        self.machine.take(
            run, agreement, lambda delivery: {"model": b'{"w":[1,2,3]}', "metrics": b'{"epoch":[3],"loss":[0.5]}'}
        )
        return run


@contextlib.contextmanager
def living(folder: Path) -> Iterator[World]:
    """A world in which everything is sealed and pushed."""
    manager = Manager(folder / "manager")
    with manager.running():
        world = World(folder, manager)
        world["st-vitus"].ok("push", "scans")
        world["acme"].ok("push", "unet")
        yield world
