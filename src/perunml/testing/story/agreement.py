"""The story's agreement, as a person would write it."""

from __future__ import annotations

from dataclasses import dataclass

LEASE_SECONDS = 6
"""Short, so that the story need not wait long to see a lease end; real agreements say 30s."""
RUNS = 3

TEMPLATE = """\
apiVersion: perunml/v1
kind: Agreement
metadata: {{name: {name}}}
manager: {{key: "{manager}", profile: {{profile: simulated}}}}
witnesses: {{waived_because_simulated: true}}
parties:
  st-vitus: {{keys: {{data-officer: "{keys[st-vitus]}"}}, receive: "{receive[st-vitus]}"}}
  acme: {{keys: {{engineer: "{keys[acme]}"}}, receive: "{receive[acme]}"}}
  modelworks: {{keys: {{owner: "{keys[modelworks]}"}}}}
  gpu-cloud: {{keys: {{ops: "{keys[gpu-cloud]}"}}}}
  clinic: {{keys: {{developer: "{keys[clinic]}"}}}}
assets:
  scans: {{kind: dataset, owner: st-vitus, digest: "{assets[scans]}"}}
  classifier: {{kind: code, owner: acme, digest: "{assets[classifier]}", entry: train.py}}
  weights: {{kind: model, owner: modelworks, digest: "{assets[weights]}"}}
hosts:
  trainer: {{profile: simulated, imitates: measured, baseline: "{baseline}", machines: ["{trainer}"]}}
  inference: {{profile: simulated, imitates: tee, machines: ["{inference}"]}}
jobs:
  train:
    code: classifier
    inputs: {{scans: /in/scans, weights: /in/weights}}
    hosts: trainer
    operator: gpu-cloud
    parameters:
      epochs: {{min: 1, max: 50}}
      batch_size: {{in: [16, 32]}}
      seed: {{min: 0, max: 1000}}
      pause_ms: {{min: 0, max: 5000}}
    limits: {{runs: {runs}, until: "{until}", wall: 10m}}
    network: none
    lease: {lease}s
    outputs:
      model: {{to: [acme], format: pt2, max_size: 4MiB, use: [serve]}}
      metrics: {{to: [acme, st-vitus], format: json, max_size: 64KiB, fields: [epoch, loss, accuracy]}}
  serve:
    model: train.outputs.model
    engine: torch-export
    hosts: inference
    operator: gpu-cloud
    clients: [clinic]
    limits: {{requests: 1000/day, until: "{until}"}}
    lease: {lease}s
"""


@dataclass(frozen=True)
class Terms:
    """What the story puts into the agreement."""

    name: str
    manager: str
    keys: dict[str, str]
    receive: dict[str, str]
    assets: dict[str, str]
    baseline: str
    trainer: str
    inference: str
    until: str

    def yaml(self) -> str:
        return TEMPLATE.format(
            name=self.name,
            manager=self.manager,
            keys=self.keys,
            receive=self.receive,
            assets=self.assets,
            baseline=self.baseline,
            trainer=self.trainer,
            inference=self.inference,
            until=self.until,
            runs=RUNS,
            lease=LEASE_SECONDS,
        )
