"""How fast is reading a sealed asset, beside reading the same bytes unsealed?

Both read one file of the page cache, in order, into a buffer that is used again: unsealed by `preadv` and one copy (what a
program does that keeps the data), 1 MiB at a time, which is its best; sealed by `SealedReader.read_into`, 8 MiB at a time (a
second thread helps) and 1 MiB at a time (one thread). The two take turns, so that
whatever else the machine does hits both; medians are given. Sealing is timed too, storage included.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perunml.sealing.keys import new_data_key
from perunml.sealing.manifest import open_manifest
from perunml.sealing.reader import SealedReader, verify_tree
from perunml.sealing.store import FolderStore
from perunml.sealing.writer import seal_files
from perunml.wire.identity import SigningKey

CHUNK = 1 << 20
TOGETHER = 8 * CHUNK
SIZE = 256 * CHUNK
ROUNDS = 11
TARGET = 0.5
"""Sealed reading at half the speed of plain reading, or better."""


def run(size: int = SIZE, rounds: int = ROUNDS) -> dict[str, Any]:
    """``{title, results}`` as bench/README.md says, for a file of `size` bytes, the median of `rounds` turns."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        with plain.open("wb") as file:
            for _ in range(size // CHUNK):
                file.write(os.urandom(CHUNK))
        owner, key = SigningKey.generate(), new_data_key()
        store = FolderStore(Path(folder) / "sealed")
        start = time.perf_counter()
        envelope = seal_files({"f": plain}, store, name="f", kind="dataset", owner=owner, data_key=key)
        sealing = time.perf_counter() - start
        manifest = open_manifest(envelope, [owner.public])
        fd = os.open(plain, os.O_RDONLY)
        with store, SealedReader(manifest, key, store) as reader:
            ways = {
                "preadv": lambda: _preadv(fd, size),
                "sealed": lambda: _sealed(reader, size, TOGETHER),
                "single": lambda: _sealed(reader, size, CHUNK),
                "tree": lambda: verify_tree(manifest, store),
            }
            spent = _turns(ways, rounds)
        os.close(fd)
    rate = {name: size / statistics.median(times) / 1e9 for name, times in spent.items()}
    # Of each round's two times, so that what slowed a whole round cancels out.
    ratio, single = (
        statistics.median(a / b for a, b in zip(spent["preadv"], spent[way], strict=True))
        for way in ("sealed", "single")
    )
    return {
        "title": f"Reading a sealed file of {size >> 20} MiB in order out of the page cache, "
        "beside preadv and one copy",
        "results": [
            _result("preadv and copy", rate["preadv"]),
            _result("sealed read", rate["sealed"]),
            _result("sealed read / preadv and copy", ratio, "x", target=TARGET),
            _result("sealed read, 1 MiB at a time", rate["single"]),
            _result("sealed read, 1 MiB at a time / preadv and copy", single, "x"),
            _result("Merkle tree check", rate["tree"]),
            _result("sealing, fsync included", size / sealing / 1e9),
        ],
    }


def _result(name: str, value: float, unit: str = "GB/s", **more: float) -> dict[str, Any]:
    return {"name": name, "value": round(value, 3), "unit": unit, "higher_is_better": True, **more}


def _turns(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, round by round; every round runs all of them, the first one not counted."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if round_number:
                spent[name].append(time.perf_counter() - start)
    return spent


def _preadv(fd: int, size: int) -> None:
    raw, kept = bytearray(CHUNK), bytearray(CHUNK)
    for offset in range(0, size, CHUNK):
        os.preadv(fd, [raw], offset)
        kept[:] = raw


def _sealed(reader: SealedReader, size: int, step: int) -> None:
    kept = memoryview(bytearray(step))
    for offset in range(0, size, step):
        reader.read_into("f", offset, kept)


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
