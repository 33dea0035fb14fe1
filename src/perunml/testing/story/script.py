"""Acts 1 to 6: from five strangers to a served model. What goes wrong on purpose is in `troubles`."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perunml.testing.story import data, weights
from perunml.testing.story.agreement import LEASE_SECONDS, RUNS, Terms
from perunml.testing.story.processes import StoryError
from perunml.testing.story.report import Report
from perunml.testing.story.world import PARTIES, World

CODE = Path(__file__).with_name("code")
SEED, EPOCHS, BATCH = 7, 12, 32
VALID_DAYS = 200


@dataclass
class Story:
    """What has become known on the way."""

    world: World
    report: Report
    source: Path | None = None
    assets: dict[str, str] = field(default_factory=dict)
    machines: dict[str, str] = field(default_factory=dict)
    agreement: str = ""
    agreement_file: Path = Path()
    run: dict[str, Any] = field(default_factory=dict)
    service: dict[str, Any] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)

    def tell(self) -> None:
        for act in (self.trust, self.enrol, self.seal, self.agree, self.train, self.compare, self.serve):
            act()

    # --- 1 ---

    def trust(self) -> None:
        world, report = self.world, self.report
        report.heading("1. A manager starts; each party makes an identity, verifies the manager and pins it")
        with report.step("gpu-cloud", "starts a machine with a software TPM (simulated)"):
            world.start_tpm()
        with report.step("manager", "makes its root key, starts (TLS 1.3, SQLite in WAL, every commit synced)") as step:
            world.init_manager()
            world.start_manager()
            step.found(f"{world.manager_url} (simulated: its root key lies under a passphrase)")
        with report.step("all five", "make an identity, verify the manager's evidence and pin it") as step:
            for name in (*PARTIES, "stranger"):
                party = world[name]
                made = party.run("id", "create", "--name", name)
                party.identity, party.receive = made["identity"], made["receive"]
            admitted = [world[name].identity for name in PARTIES]
            world["manager"].run("manager", "admit", "--folder", str(world["manager"].folder / "state"), *admitted)
            for name in (*PARTIES, "stranger"):
                pin = world[name].run("trust", world.manager_url, "--profile", str(world.manager_profile(name)))
                if pin["identity"] != world.manager_identity or not pin["simulated"]:
                    raise StoryError(f"{name} pinned something else: {pin}")
            step.found("pinned, as simulated")

    # --- 2 ---

    def enrol(self) -> None:
        world, report = self.world, self.report
        report.heading("2. The operator enrols two hosts")
        cloud = world["gpu-cloud"]
        for host, what in (
            ("trainer", "EK chain, AK attributes, credential activated by the TPM"),
            ("inference", "a key"),
        ):
            with report.step("gpu-cloud", f"enrols the {host}: {what}") as step:
                flags = [*world.machine_flags(host), "--folder", str(cloud.folder / host), "--name", host]
                done = cloud.run("host", "enrol", *flags)
                if not done["simulated"]:
                    raise StoryError(f"a simulated machine was not called so: {done}")
                self.machines[host] = done["machine"]
                step.found(f"{done['machine'][:20]}… (simulated)")
        with report.step("gpu-cloud", "reads what the trainer's boot log tells") as step:
            logs = [world.tpm["event_log"], "--cmdline", world.tpm["cmdline"]]
            boot = cloud.run("evidence", "check", "event-log", *logs)["claims"]["boot"]
            if boot["secure_boot"] is not True or len(boot["cmdline"]) != 1:
                raise StoryError(f"a boot log tells something else than was booted: {boot}")
            step.found(f"{boot['events']} events, Secure Boot on, {boot['cmdline'][0]}")
        with report.step(
            "gpu-cloud",
            "publishes the trainer's baseline: firmware, boot images, command line, files its IMA log may show",
        ):
            baseline = {"apiVersion": "perunml/v1", "kind": "Baseline", **world.servers["tpm"].ask("baseline")}
            path = world.write_json("gpu-cloud", "baseline.json", baseline)
            self.found["baseline"] = cloud.run("document", "push", str(path))["digest"]

    # --- 3 ---

    def seal(self) -> None:
        world, report = self.world, self.report
        report.heading("3. Data, code and weights are sealed and pushed")
        hospital = world["st-vitus"]
        if self.source is None:
            scans = hospital.folder / "scans"
            data.write_scans(scans)
        else:
            scans = self.source
        self.found["scans"] = scans
        code = world["acme"].folder / "code"
        code.mkdir()
        (code / "train.py").write_text((CODE / "train.py").read_text())
        initial = world["modelworks"].folder / "weights"
        data.initial_weights(initial / "start.safetensors", data.shape(scans))
        for party, name, kind, folder in (
            ("st-vitus", "scans", "dataset", scans),
            ("acme", "classifier", "code", code),
            ("modelworks", "weights", "model", initial),
        ):
            with report.step(party, f"seals and pushes its {kind}") as step:
                made = world[party].run("seal", str(folder), "--name", name, "--kind", kind)
                world[party].run("push", name)
                self.assets[name] = made["asset"]
                step.found(f"{made['asset'][:23]}…")

    # --- 4 ---

    def agree(self) -> None:
        world, report = self.world, self.report
        report.heading("4. One agreement, reviewed and signed by every party")
        until = dt.datetime.now(dt.UTC) + dt.timedelta(days=VALID_DAYS)
        terms = Terms(
            name="tumour-2026",
            manager=world.manager_identity,
            keys={name: world[name].identity for name in PARTIES},
            receive={name: world[name].receive for name in PARTIES},
            assets=self.assets,
            baseline=self.found["baseline"],
            trainer=self.machines["trainer"],
            inference=self.machines["inference"],
            until=until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        self.agreement_file = world.write("acme", "agreement.yaml", terms.yaml())
        with report.step("acme", "writes and proposes the agreement") as step:
            self.agreement = world["acme"].run("agreement", "propose", str(self.agreement_file))["digest"]
            step.found(f"{self.agreement[:23]}…")
        for name in PARTIES:
            with report.step(name, "reviews and signs") as step:
                review = world[name].run("agreement", "review", self.agreement)
                if "simulated" not in json.dumps(review):
                    raise StoryError("the review does not say simulated")
                done = world[name].run("agreement", "approve", self.agreement, "--digest", self.agreement)
                step.found("in force" if done["state"] == "in_force" else f"waits for {', '.join(done['missing'])}")
        if done["state"] != "in_force":
            raise StoryError(f"signed by all, and not in force: {done}")

    # --- 5 ---

    def train(self) -> None:
        world, report = self.world, self.report
        report.heading("5. Training: challenge, TPM quote, decision, ledger entry, keys under a lease, sandbox")
        with report.step("gpu-cloud", "starts the trainer's agent; it holds no keys"):
            world.start_host("trainer")
        with report.step("acme", f"asks for a run (one of {RUNS})") as step:
            self.run = self.submit("train", epochs=EPOCHS, batch_size=BATCH, seed=SEED, pause_ms=400)
            step.found(f"run {self.run['run'][:8]}…")
        with report.step(
            "trainer", f"proves itself, trains in the sandbox, renews its lease every {LEASE_SECONDS}s"
        ) as step:
            view = world["acme"].run("job", "wait", self.run["run"])
            renewals = sum(
                1
                for line in world.servers["trainer"].lines
                if line.get("event") == "renewed" and line.get("run") == view["run"]
            )
            if view["state"] != "finished" or not view["simulated"] or renewals < 1:
                raise StoryError(f"the run ended otherwise: {view}, {renewals} renewals")
            self.run = view
            step.found(f"finished on a simulated host, {renewals} renewals; receipt signed")

    def submit(self, job: str, **parameters: int) -> dict[str, Any]:
        flags = [f"--parameter={name}={value}" for name, value in parameters.items()]
        return dict(self.world["acme"].run("job", "submit", self.agreement, job, *flags))

    def compare(self) -> None:
        world, report = self.world, self.report
        acme = world["acme"]
        with report.step("acme", "pulls the model that the agreement gives it, and the metrics") as step:
            self.found["model"] = self.pull("acme", "model", acme.folder / "model")
            metrics = json.loads(self.pull("acme", "metrics", acme.folder / "metrics").read_text())
            self.found["accuracy"] = float(metrics["accuracy"][-1])
            step.found(f"training accuracy {self.found['accuracy']:.3f}")
        with report.step("st-vitus", "pulls the metrics; the model is not for it") as step:
            self.pull("st-vitus", "metrics", world["st-vitus"].folder / "metrics")
            target = str(world["st-vitus"].folder / "model")
            refused = world["st-vitus"].refused("output", "pull", self.run["run"], "model", "--to", target)
            step.found(f"the model: {refused.code}")
        with report.step(
            "modelworks", "takes the receipt and verifies it: what ran, where, with which digests"
        ) as step:
            kept = world["modelworks"].folder / "receipt.json"
            world["modelworks"].run("job", "show", self.run["run"], "--receipt", str(kept))
            receipt = world["modelworks"].run("receipt", "verify", str(kept))["receipt"]
            if self.assets["weights"] not in json.dumps(receipt):
                raise StoryError(f"the receipt does not name the weights: {receipt}")
            step.found("signed by the pinned manager; the weights' digest is in it")
        with report.step("the demo", "runs the same code on the same data unsealed, with the same seed") as step:
            plain = self.plain_run()
            sealed, open_ = weights.weights_digest(self.found["model"]), weights.weights_digest(plain)
            self.found["weights_identical"] = sealed == open_
            if not self.found["weights_identical"]:
                raise StoryError(f"weights differ: {sealed} sealed, {open_} unsealed")
            step.found(f"weights are byte-identical: {sealed[:23]}…")

    def pull(self, party: str, output: str, target: Path) -> Path:
        self.world[party].run("output", "pull", self.run["run"], output, "--to", str(target))
        files = [path for path in sorted(target.rglob("*")) if path.is_file()]
        if len(files) != 1:
            raise StoryError(f"{output} has {len(files)} files")
        return files[0]

    def plain_run(self) -> Path:
        """The same train.py, no Perun, no sandbox."""
        folder = self.world.folder / "unsealed"
        inputs, out = folder / "in", folder / "out"
        out.mkdir(parents=True)
        shutil.copytree(self.found["scans"], inputs / "scans")
        shutil.copytree(self.world["modelworks"].folder / "weights", inputs / "weights")
        parameters = folder / "parameters.json"
        parameters.write_text(json.dumps({"epochs": EPOCHS, "batch_size": BATCH, "seed": SEED, "pause_ms": 0}))
        environment = {
            **os.environ,
            "PERUNML_IN": str(inputs),
            "PERUNML_OUT": str(out),
            "PERUNML_PARAMS": str(parameters),
        }
        done = subprocess.run(
            [sys.executable, str(CODE / "train.py")], env=environment, capture_output=True, timeout=120, check=False
        )
        if done.returncode != 0:
            raise StoryError(f"the unsealed run failed: {done.stderr.decode()[-2000:]}")
        return next(out.glob("model*"))

    # --- 6 ---

    def serve(self) -> None:
        world, report = self.world, self.report
        report.heading("6. The model is served; the clinic asks, sealed end to end")
        with report.step("gpu-cloud", "starts the inference host (the tee role, simulated)"):
            world.start_host("inference")
        with report.step("acme", "asks for the service") as step:
            self.service = self.submit("serve")
            line = world.servers["inference"].wait_for(event="serving", run=self.service["run"])
            step.found(f"{line['endpoint']} (simulated)")
        question = world.write_json("clinic", "question.json", data.patient(self.found["scans"]))
        with report.step("clinic", "sends sealed requests, gets predictions and a receipt") as step:
            answer = world["clinic"].run(
                "infer",
                self.service["run"],
                str(question),
                "--receipt",
                str(world["clinic"].folder / "receipt.json"),
            )
            if not answer["simulated"]:
                raise StoryError("the answer does not say simulated")
            self.found["answer"] = answer["outputs"]
            step.found("answered (simulated)")
        with report.step("clinic", "verifies the receipt offline") as step:
            receipt = world["clinic"].run("receipt", "verify", str(world["clinic"].folder / "receipt.json"))["receipt"]
            step.found(f"model {receipt['model'][:23]}…, {'simulated' if receipt['simulated'] else 'attested'}")
