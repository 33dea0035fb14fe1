"""How fast does training read sealed records, beside the same records unsealed?

50,000 records of 3 KiB (CIFAR-10's size) in one .npy file of the page cache. Windowed shuffle: `perunml.torch.SealedIterable` against the same order, blocks, windows and batches over a memory map of the plain file,
in one process without workers. Whole set into RAM: `SealedReader.read_into` into an array against `numpy.load`. They take turns; medians of each round's own ratio.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from perunml.client import assets
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.fs import sealed
from perunml.sealing.views.records import npy_records
from perunml.sealing.views.windows import Plan
from perunml.torch import SealedIterable

RECORDS, SHAPE, BATCH = 50_000, (32, 32, 3), 128
ROUNDS = 7
PASSPHRASE = b"bench"


def run(records: int = RECORDS, rounds: int = ROUNDS) -> dict[str, Any]:
    """``{title, results}`` as bench/README.md says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = folder / "plain"
        plain.mkdir()
        rng = np.random.default_rng(1)
        np.save(plain / "x.npy", rng.integers(0, 256, (records, *SHAPE), np.uint8))
        home = Home(folder / "home")
        assets.seal(home, Identity.create(home, "bench", PASSPHRASE), plain, name="x", kind="dataset")
        where = sealed("x", home=home.folder, passphrase=PASSPHRASE)
        dataset = SealedIterable(where, "x.npy", batch_size=BATCH)
        sums: dict[str, int] = {}
        ways: dict[str, Callable[[], None]] = {
            "mmap": lambda: sums.update(mmap=_mapped(plain / "x.npy", dataset.plan)),
            "sealed": lambda: sums.update(sealed=sum(_look(batch.numpy()) for batch in dataset)),
            "load": lambda: sums.update(load=int(np.load(plain / "x.npy").shape[0])),
            "whole": lambda: sums.update(whole=_whole(where)),
        }
        spent: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds + 1):
            for way, work in ways.items():
                began = time.perf_counter()
                work()
                if number:  # the first round warms up
                    spent[way].append(time.perf_counter() - began)
        if sums["mmap"] != sums["sealed"] or sums["load"] != sums["whole"]:
            raise RuntimeError("sealed and plain records are not the same")
    size = records * int(np.prod(SHAPE))
    shuffled = statistics.median(a / b for a, b in zip(spent["mmap"], spent["sealed"], strict=True))
    loaded = statistics.median(b / a for a, b in zip(spent["load"], spent["whole"], strict=True))
    return {
        "title": f"{records:,} records of 3 KiB, read in a windowed shuffle in batches of {BATCH} and as a whole; one process.",
        "results": [
            {"name": "windowed shuffle, sealed", "value": size / statistics.median(spent["sealed"]) / 1e9, "unit": "GB/s", "higher_is_better": True},
            {"name": "windowed shuffle, plain memory map", "value": size / statistics.median(spent["mmap"]) / 1e9, "unit": "GB/s", "higher_is_better": True},
            {"name": "windowed shuffle, sealed against plain", "value": shuffled, "unit": "x", "higher_is_better": True, "target": 0.6},
            {"name": "whole set into RAM, sealed", "value": size / statistics.median(spent["whole"]) / 1e9, "unit": "GB/s", "higher_is_better": True},
            {"name": "whole set into RAM, time against numpy.load", "value": loaded, "unit": "x", "higher_is_better": False, "target": 1.1},
        ],
    }  # fmt: skip


def _mapped(path: Path, plan: Plan) -> int:
    """The same order over a memory map: blocks of a window, then its records mixed, in batches."""
    array = np.load(path, mmap_mode="r")
    order, total = plan.order(0), 0
    for window in range(plan.windows):
        places = np.concatenate([np.arange(first, first + count) for first, count in plan.runs(order, window)])
        mixed = places[plan.mix(0, window, len(places))]
        for at in range(0, len(mixed), plan.batch):
            total += _look(np.ascontiguousarray(array[mixed[at : at + plan.batch]]))
    return total


def _look(batch: np.ndarray[Any, Any]) -> int:
    """Something of each record, so that both must have given the same."""
    return int(batch.reshape(len(batch), -1)[:, ::512].sum())


def _whole(where: Any) -> int:
    source = where.open()
    records = npy_records(source, "x.npy")
    out = np.empty((records.count, *records.shape), records.dtype)
    records.read(source, 0, out)
    source.close()
    return len(out)
