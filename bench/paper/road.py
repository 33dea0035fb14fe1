"""A training under Perun, whole: a manager, three parties, a host with a software TPM, an agreement, sealed code and data, the sandbox, leases of 30 s."""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path
from typing import Any

from perunml.testing.story.world import World

OWNER, ENGINEER, CLOUD = "st-vitus", "acme", "gpu-cloud"
FIELDS = ("images_per_second", "epoch_seconds", "input_wait", "score", "loss", "gpu")
AGREEMENT = """\
apiVersion: perunml/v1
kind: Agreement
metadata: {{name: paper}}
manager: {{key: "{manager}", profile: {{profile: simulated}}}}
witnesses: {{waived_because_simulated: true}}
parties:
  st-vitus: {{keys: {{k: "{st-vitus[identity]}"}}, receive: "{st-vitus[receive]}"}}
  acme: {{keys: {{k: "{acme[identity]}"}}, receive: "{acme[receive]}"}}
  gpu-cloud: {{keys: {{k: "{gpu-cloud[identity]}"}}}}
assets:
  cifar: {{kind: dataset, owner: st-vitus, digest: "{cifar}"}}
  mri: {{kind: dataset, owner: st-vitus, digest: "{mri}"}}
  cifar-code: {{kind: code, owner: acme, digest: "{cifar-code}", entry: cifar.py}}
  mri-code: {{kind: code, owner: acme, digest: "{mri-code}", entry: unet.py}}
hosts:
  trainer: {{profile: simulated, imitates: measured, baseline: "{baseline}", machines: ["{machine}"]}}
jobs:
"""
JOB = """\
  {name}:
    code: {name}-code
    inputs: {{{name}: /in/{name}}}
    hosts: trainer
    operator: gpu-cloud
    parameters: {{epochs: {{max: 1000}}, batch_size: {{max: 65536}}, seed: {{max: 1000}}, width: {{max: 1024}}, images: {{max: 1000000}}, gpu: {{max: 1}}{more}}}
    limits: {{runs: 1000, until: "{until}", wall: 8h}}
    network: none
    lease: 30s
    outputs:
      model: {{to: [acme], format: safetensors, max_size: 512MiB}}
      metrics: {{to: [acme], fields: [{fields}]}}
"""


class UnderPerun:
    """Everything is set up once; `train` asks for a run and gives what it measured."""

    def __init__(self, folder: Path, data: Path, code: Path) -> None:
        self.world = world = World(folder)
        try:
            self._set_up(world, data, code)
        except BaseException:
            world.close()
            raise

    def close(self) -> None:
        self.world.close()

    def train(self, name: str, parameters: dict[str, int]) -> dict[str, Any]:
        """The metrics, and `whole_seconds` from asking for the run to its end: evidence, keys, fetching, opening, training, sealing."""
        engineer = self.world[ENGINEER]
        began = time.perf_counter()
        flags = [f"--parameter={key}={value}" for key, value in parameters.items()]
        run = engineer.run("job", "submit", self.agreement, name, *flags)["run"]
        view = engineer.run("job", "wait", run)
        whole = time.perf_counter() - began
        if view["state"] != "finished":
            raise RuntimeError(f"the run {view['state']}: {view['reasons']}")
        target = engineer.folder / f"out-{run}"
        pulled = engineer.run("output", "pull", run, "metrics", "--to", str(target))
        found: dict[str, Any] = json.loads((target / next(iter(pulled["files"]))).read_text())
        # What leaves as metrics are lists of numbers; this job gives one of each.
        return {**{field: values[-1] for field, values in found.items()}, "whole_seconds": whole}

    def _set_up(self, world: World, data: Path, code: Path) -> None:
        world.start_tpm()
        world.init_manager()
        world.start_manager()
        names: dict[str, Any] = {"manager": world.manager_identity}
        for name in (OWNER, ENGINEER, CLOUD):
            names[name] = world[name].run("id", "create", "--name", name)
        admitted = [names[name]["identity"] for name in (OWNER, ENGINEER, CLOUD)]
        world["manager"].run("manager", "admit", "--folder", str(world["manager"].folder / "state"), *admitted)
        for name in (OWNER, ENGINEER, CLOUD):
            world[name].run("trust", world.manager_url, "--profile", str(world.manager_profile(name)))
        cloud = world[CLOUD]
        flags = [*world.machine_flags("trainer"), "--folder", str(cloud.folder / "trainer"), "--name", "trainer"]
        names["machine"] = cloud.run("host", "enrol", *flags)["machine"]
        baseline = {"apiVersion": "perunml/v1", "kind": "Baseline", **world.servers["tpm"].ask("baseline")}
        path = world.write_json(CLOUD, "baseline.json", baseline)
        names["baseline"] = cloud.run("document", "push", str(path))["digest"]
        for party, asset, kind, folder in (
            (OWNER, "cifar", "dataset", data / "cifar"),
            (OWNER, "mri", "dataset", data / "mri"),
            (ENGINEER, "cifar-code", "code", code),
            (ENGINEER, "mri-code", "code", code),
        ):
            names[asset] = world[party].run("seal", str(folder), "--name", asset, "--kind", kind)["asset"]
            world[party].run("push", asset)
        until = (dt.datetime.now(dt.UTC) + dt.timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = ", ".join(FIELDS)
        jobs = [
            JOB.format(name=name, more=more, until=until, fields=fields)
            for name, more in (("cifar", ", blocks: {max: 64}"), ("mri", ""))
        ]
        file = world.write(ENGINEER, "paper.yaml", AGREEMENT.format(**names) + "".join(jobs))
        self.agreement = world[ENGINEER].run("agreement", "propose", str(file))["digest"]
        for name in (OWNER, ENGINEER, CLOUD):
            world[name].run("agreement", "approve", self.agreement, "--digest", self.agreement)
        world.start_host("trainer")
