"""What a decision costs: `decide()` for an agreement of 50 assets."""

from __future__ import annotations

import statistics
import time
from typing import Any

from perunml.agreements.document import agreement_from_json
from perunml.release.decide import decide
from perunml.release.types import Release, Run, State, Usage
from perunml.testing.appraisals import appraisal
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey

ASSETS = 50
ROUNDS = 2000
NOW = 1_800_000_000


def agreement(assets: int = ASSETS) -> dict[str, Any]:
    """A simulated agreement with `assets` assets, one of them code, the rest data sets of ten owners, all read by one job."""
    owners = [f"owner-{i}" for i in range(10)]
    made: dict[str, Any] = {
        "code": {"kind": "code", "owner": owners[0], "digest": f"sha256:{0:064x}", "entry": "train.py"}
    }
    for i in range(1, assets):
        made[f"data-{i}"] = {"kind": "dataset", "owner": owners[i % 10], "digest": f"sha256:{i:064x}"}
    parties: dict[str, Any] = {name: {"keys": {"k": SigningKey.generate().public.text}} for name in owners}
    parties["owner-0"]["receive"] = HpkePrivateKey.generate().public.text
    return {
        "apiVersion": "perunml/v1",
        "kind": "Agreement",
        "metadata": {"name": "bench"},
        "manager": {"key": SigningKey.generate().public.text, "profile": {"profile": "simulated"}},
        "witnesses": {"waived_because_simulated": True},
        "parties": parties,
        "assets": made,
        "hosts": {"trainer": {"profile": "simulated", "imitates": "tee"}},
        "jobs": {
            "train": {
                "code": "code",
                "inputs": {name: f"/in/{name}" for name in made if name != "code"},
                "hosts": "trainer",
                "operator": "owner-1",
                "parameters": {f"p{i}": {"min": 0, "max": 9} for i in range(10)},
                "limits": {"runs": 3, "until": "2030-01-01T00:00:00Z", "wall": "1h"},
                "outputs": {"model": {"to": "owner-0", "format": "pt2", "max_size": "1MiB"}},
            }
        },
    }


def run() -> dict[str, Any]:
    """Median and 99th percentile of one decision, microseconds."""
    found = agreement_from_json(agreement())
    binding = bytes(48)
    wanted = Run(
        found.digest,
        "train",
        "00" * 16,
        {f"p{i}": 5 for i in range(10)},
        {name: asset.digest for name, asset in found.assets.items()},
        "release",
        binding,
        next(iter(found.parties["owner-1"].keys.values())),
    )
    verdict = appraisal(binding=binding)
    state, usage = State(True, {}, frozenset()), Usage.none(found)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        decision = decide(found, state=state, run=wanted, appraisal=verdict, usage=usage, now=NOW)
        times.append((time.perf_counter_ns() - start) / 1000)
        if not isinstance(decision, Release):
            raise RuntimeError(f"the bench's own run is refused: {decision.reasons}")
    return {
        "title": f"`decide()` for an agreement of {ASSETS} assets of ten owners, all read by one job.",
        "results": [
            {
                "name": "decide, p50",
                "value": statistics.median(times),
                "unit": "µs",
                "higher_is_better": False,
                "target": 1000,
            },
            {
                "name": "decide, p99",
                "value": statistics.quantiles(times, n=100)[98],
                "unit": "µs",
                "higher_is_better": False,
            },
        ],
    }
