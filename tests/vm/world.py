"""Who takes part: a hospital, a start-up, the cloud that operates the machine, and a manager on this machine, all real processes."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perunml.testing.story.processes import Party, Server, StoryError, command
from perunml.testing.story.world import free_port
from vm.images import PROJECT, keys
from vm.machine import Vm, own_keys

PARTIES = ("st-vitus", "acme", "gpu-cloud")
LEASE_SECONDS = 24
"""Long enough for a machine that is emulated on two cores; renewed at a third of it."""
GATEWAY = "10.0.2.2"
"""This machine, as a virtual one with QEMU's user network sees it."""
CODE = PROJECT / "tests" / "vm" / "code"
AGREEMENT = """\
apiVersion: perunml/v1
kind: Agreement
metadata: {{name: {name}}}
manager: {{key: "{manager}", profile: {manager_profile}}}
witnesses: {{waived_because_simulated: true}}
parties:
  st-vitus: {{keys: {{data-officer: "{keys[st-vitus]}"}}}}
  acme: {{keys: {{engineer: "{keys[acme]}"}}, receive: "{receive}"}}
  gpu-cloud: {{keys: {{ops: "{keys[gpu-cloud]}"}}}}
assets:
  scans: {{kind: dataset, owner: st-vitus, digest: "{scans}"}}
  classifier: {{kind: code, owner: acme, digest: "{code}", entry: train.py}}
hosts:
  trainer: {{profile: simulated, imitates: measured, baseline: "{baseline}", machines: {machines}}}
jobs:
  train:
    code: classifier
    inputs: {{scans: /in/scans}}
    hosts: trainer
    operator: gpu-cloud
    parameters: {{epochs: {{min: 1, max: 10000}}, pause_ms: {{min: 0, max: 5000}}}}
    limits: {{runs: 20, resumes: 3, until: "{until}", wall: 30m}}
    network: none
    lease: {lease}s
    outputs:
      model: {{to: [acme], format: safetensors, max_size: 1MiB}}
      metrics: {{to: [acme], format: json, max_size: 64KiB, fields: [epoch, loss]}}
"""


@dataclass
class World:
    """Everything that runs, under one folder. `close` stops it by process id."""

    folder: Path
    parties: dict[str, Party] = field(default_factory=dict)
    machines: list[Vm] = field(default_factory=list)
    assets: dict[str, str] = field(default_factory=dict)
    pin: Path = Path()
    url: str = ""
    identity: str = ""
    manager: Server | None = None

    def __post_init__(self) -> None:
        for name in (*PARTIES, "manager"):
            (self.folder / name).mkdir(parents=True, mode=0o700)
            self.parties[name] = Party(name, self.folder / name)

    def __getitem__(self, name: str) -> Party:
        return self.parties[name]

    def close(self) -> None:
        for vm in self.machines:
            vm.scrap()
        if self.manager is not None:
            with contextlib.suppress(OSError):
                self.manager.stop()

    def start_manager(self, roots: Sequence[Path]) -> None:
        """A manager that knows these makers of software TPMs; the parties make identities and pin it."""
        manager, state = self["manager"], str(self["manager"].folder / "state")
        port = free_port()
        self.url = f"https://127.0.0.1:{port}"
        known = [word for root in roots for word in ("--simulated-ek-root", str(root))]
        self.identity = manager.run("manager", "init", "--folder", state, "--url", self.url, *known)["identity"]
        words = ["--passphrase-fd", "{fd}", "manager", "run", "--folder", state]
        self.manager = Server("manager", command(manager.home, *words), manager.folder / "log", manager.passphrase)
        self.manager.wait_for(event="ready")
        for name in PARTIES:
            made = self[name].run("id", "create", "--name", name)
            self[name].identity, self[name].receive = made["identity"], made["receive"]
        manager.run("manager", "admit", "--folder", state, *(self[name].identity for name in PARTIES))
        profile = self.folder / "profile.yaml"
        profile.write_text(f'apiVersion: perunml/v1\nkind: ManagerProfile\nkey: "{self.identity}"\nprofile: {{profile: simulated}}\n')  # fmt: skip
        for name in PARTIES:
            self[name].run("trust", self.url, "--profile", str(profile))
        [found] = [path for path in self["gpu-cloud"].home.rglob("*.json") if b"ManagerPin" in path.read_bytes()]
        # the same manager, where the virtual machines see this one; who it is says its key
        pin = json.loads(found.read_text())
        pin["url"] = f"https://{GATEWAY}:{port}"
        self.pin = self.folder / "pin.json"
        self.pin.write_text(json.dumps(pin))

    def machine(self, name: str, image: Path, *, secure_boot: bool = True, **settings: str) -> Vm:
        """A virtual machine that boots `image`, with the operator's disk; not switched on."""
        folder = self.folder / "machines" / name
        folder.mkdir(parents=True)
        own_keys(keys(), folder / "own.fd", secure_boot=secure_boot)
        vm = Vm(folder, image / "disk.raw", folder / "data.raw", folder / "own.fd")
        self.machines.append(vm)
        return vm

    def operator_disk(self, vm: Vm) -> None:
        """The operator's disk for a machine: who may enrol it, the pinned manager, its TPM's issuer."""
        disk = vm.folder / "disk"
        shutil.rmtree(disk, ignore_errors=True)
        (disk / "ek-chain").mkdir(parents=True)
        operator = self["gpu-cloud"].identity
        (disk / "host.yaml").write_text(f'apiVersion: perunml/v1\nkind: Host\noperator: "{operator}"\n')
        shutil.copyfile(self.pin, disk / "pin.json")
        shutil.copyfile(vm.issuer, disk / "ek-chain" / "issuer.pem")
        vm.data.unlink(missing_ok=True)
        subprocess.run([PROJECT / "images" / "data.sh", disk, vm.data], check=True)

    def enrol(self, vm: Vm, name: str) -> str:
        """Once the machine waits for it; the machine's name."""
        vm.wait_for(event="waits")
        done = self["gpu-cloud"].run("host", "enrol", "--at", f"127.0.0.1:{vm.enrol_port}", "--name", name)
        return str(done["machine"])

    def boot_log(self, vm: Vm, name: str) -> Path:
        """The machine's boot log, as its operator fetches it."""
        vm.wait_for(event="waits")
        target = self.folder / f"{name}.eventlog"
        self["gpu-cloud"].run("host", "boot-log", "--at", f"127.0.0.1:{vm.enrol_port}", "--out", str(target))
        return target

    def golden(self, image: Path, event_log: Path, name: str, *more: str) -> Path:
        """The image's golden values, computed by the cloud."""
        target = self.folder / f"{name}.baseline.json"
        self["gpu-cloud"].run(
            "image", "golden", "-o", "json", str(image), "--event-log", str(event_log), "--out", str(target), *more
        )
        return target

    def publish(self, baseline: Path) -> str:
        return str(self["gpu-cloud"].run("document", "push", str(baseline))["digest"])

    def seal(self) -> None:
        """The hospital's rows and the start-up's code, sealed and pushed."""
        rows, source = self["st-vitus"].folder / "scans", random.Random(7)
        rows.mkdir()
        lines = [[source.gauss(0, 1) for _ in range(8)] for _ in range(400)]
        text = "\n".join(",".join(f"{x:.4f}" for x in line) + f",{int(sum(line[:3]) > 0)}" for line in lines)
        (rows / "rows.csv").write_text(text + "\n")
        for party, name, kind, folder in (("st-vitus", "scans", "dataset", rows), ("acme", "code", "code", CODE)):
            self.assets[name] = self[party].run("seal", str(folder), "--name", name, "--kind", kind)["asset"]
            self[party].run("push", name)

    def agree(self, name: str, baseline: str, machines: Sequence[str], *, predecessor: str = "") -> str:
        """An agreement in force; its digest. With a `predecessor` it is that one's next version."""
        until = dt.datetime.now(dt.UTC) + dt.timedelta(days=30)
        text = AGREEMENT.format(
            name=name,
            manager=self.identity,
            manager_profile="{profile: simulated}",
            keys={party: self[party].identity for party in PARTIES},
            receive=self["acme"].receive,
            scans=self.assets["scans"],
            code=self.assets["code"],
            baseline=baseline,
            machines=json.dumps(list(machines)),
            until=until.strftime("%Y-%m-%dT%H:%M:%SZ"),
            lease=LEASE_SECONDS,
        )
        if predecessor:
            text = text.replace("metadata: {", f'metadata: {{predecessor: "{predecessor}", ', 1)
        path = self.folder / f"{name}-{len(list(self.folder.glob('*.agreement.yaml')))}.agreement.yaml"
        path.write_text(text)
        digest = str(self["acme"].run("agreement", "propose", str(path))["digest"])
        for party in PARTIES:
            done = self[party].run("agreement", "approve", digest, "--digest", digest)
        if done["state"] != "in_force":
            raise StoryError(f"signed by all, and not in force: {done}")
        return digest

    def submit(self, agreement: str, *, epochs: int = 20, pause_ms: int = 100) -> str:
        flags = [f"--parameter=epochs={epochs}", f"--parameter=pause_ms={pause_ms}"]
        return str(self["acme"].run("job", "submit", agreement, "train", *flags)["run"])

    def show(self, run: str) -> dict[str, Any]:
        return dict(self["acme"].run("job", "show", run))

    def refusals(self, machine: str) -> list[dict[str, Any]]:
        """Every reason for which the manager refused this machine, newest last."""
        hosts = self["gpu-cloud"].run("host", "explain", machine)["hosts"]
        return [reason for host in hosts for refusal in host["refusals"] for reason in refusal["reasons"]]
