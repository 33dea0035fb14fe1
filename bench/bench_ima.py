"""How long does a first IMA log take, and a renewal that tells a hundred new lines after 200,000? And what memory?

Forged evidence under a development CA, judged by `judge` and `judge_new` as the manager does: quote, boot, log, appraisal.
The baseline lists every file; it was read before, as a manager keeps it. Against Keylime's functions: `bench_peers.py`.
"""

from __future__ import annotations

import gc
import hashlib
import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from perunml.evidence.baseline import Baseline
from perunml.evidence.bundle import Bundle
from perunml.evidence.compiled import compile_baseline, load_compiled
from perunml.evidence.judge import Judgement, judge, judge_new
from perunml.evidence.policy import Policy
from perunml.testing.forge import ForgedTpm
from perunml.wire.dsse import unsigned

FIRST = 100_000
"""Lines of a first log."""
BEFORE, NEW = 200_000, 100
"""Lines judged before a renewal, and new ones in it."""
ROUNDS = 7
NOW = 1_800_000_000
BINDING = b"\x5a" * 48


class Machine:
    """A machine that has measured so many files, and the baseline that lists them."""

    def __init__(self, lines: int) -> None:
        self.tpm = ForgedTpm(files={})
        self.files = {f"/usr/lib/package/file-{i:06d}.so": hashlib.sha256(b"%d" % i).digest() for i in range(lines)}
        for path, digest in self.files.items():
            self.tpm.measure(path, b"", digest=digest)
        own = self.tpm.baseline()
        listed = {path: frozenset([f"sha256:{digest.hex()}"]) for path, digest in self.files.items()}
        self.policy = Policy("simulated", "measured", Baseline(own.pcrs, listed), True)
        self.clock: tuple[int, int, int] | None = None

    def first(self, bundle: Bundle) -> Judgement:
        machine = self.tpm.enrolled(self.clock)
        return judge(bundle, machine=machine, policy=self.policy, binding=BINDING, now=NOW)

    def renewed(self, bundle: Bundle, before: Judgement) -> Judgement:
        assert before.state is not None
        machine = self.tpm.enrolled(before.clock)
        found = judge_new(bundle, machine=machine, policy=self.policy, binding=BINDING, now=NOW, state=before.state)
        assert found is not None
        return found


def run(first: int = FIRST, before: int = BEFORE, new: int = NEW) -> dict[str, Any]:
    """``{title, results}`` as bench/README.md says, medians."""
    machine = Machine(first - 1)  # boot_aggregate is a line too
    bundle = machine.tpm.collect(BINDING)
    spent = _median(lambda: _good(machine.first(bundle), first))
    results = [
        _result(f"first log of {first:,} entries, judged", spent * 1e3, "ms", target=500),
        _result("memory while it is judged", _memory(lambda: machine.first(bundle)) / first, "bytes/entry"),
        _result("memory of its listed files", _memory(lambda: _listed(machine)) / first, "bytes/entry"),
    ]
    machine = Machine(before - 1)
    bundle = machine.tpm.collect(BINDING)
    judged = _good(machine.first(bundle), before)
    machine.tpm.accepted(bundle)
    for path, digest in list(machine.files.items())[:new]:
        machine.tpm.measure(path, b"", digest=digest)
    bundle = machine.tpm.collect(BINDING)
    spent = _median(lambda: _good(machine.renewed(bundle, judged), before + new))
    label = f"renewal of {new} entries after {before:,}, judged"
    results.append(_result(label, spent * 1e3, "ms", target=5))
    results += _loading(machine)
    return {"title": f"IMA logs of a forged TPM, every file listed; medians of {ROUNDS}.", "results": results}


def _loading(machine: Machine) -> list[dict[str, Any]]:
    """A baseline of all its files until a log can be judged by it: from the document, and from the compiled form."""
    baseline = machine.policy.baseline
    assert baseline is not None
    document, compiled = unsigned("Baseline", baseline.as_json()), compile_baseline(baseline)

    def ready(made: Baseline) -> int:
        return len(made.at(NOW).plain)

    ways = {
        "from JSON, judged": lambda: ready(Baseline.from_payload(document.payload)),
        "from JSON, judged before": lambda: ready(Baseline.from_payload(document.payload, document.digest)),
        "compiled": lambda: ready(load_compiled(compiled, document.digest)),
    }
    count = len(baseline.files)
    return [_result(f"baseline of {count:,} files, {name}", _median(way) * 1e3, "ms") for name, way in ways.items()]


def _good(found: Judgement, lines: int) -> Judgement:
    assert not found.appraisal.reasons, found.appraisal.reasons
    assert found.appraisal.claims["entries_proven"] == lines
    return found


def _listed(machine: Machine) -> Any:
    baseline = machine.policy.baseline
    assert baseline is not None
    return Baseline(baseline.pcrs, baseline.files).at(NOW)


def _median(judging: Callable[[], Any]) -> float:
    times = []
    for round_ in range(ROUNDS + 1):
        start = time.perf_counter()
        judging()
        if round_:  # the first one warms up
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _memory(work: Callable[[], Any]) -> int:
    """The most bytes that were taken at once beyond those at the start."""
    gc.collect()
    tracemalloc.start()
    try:
        kept = work()
        _, peak = tracemalloc.get_traced_memory()
        del kept
    finally:
        tracemalloc.stop()
    return peak


def _result(name: str, value: float, unit: str, target: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "value": value, "unit": unit, "higher_is_better": False}
    return found if target is None else {**found, "target": target}


if __name__ == "__main__":
    json.dump(run(), sys.stdout, indent=2)
