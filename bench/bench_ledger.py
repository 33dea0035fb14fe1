"""The ledger's own cost, without a store: appends, proofs, checkpoints."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from perunml.ledger.checkpoint import open_checkpoint, sign_checkpoint
from perunml.ledger.entries import Entry, leaf_data
from perunml.ledger.merkle import MemoryNodes, Tree, leaf_hash
from perunml.ledger.proofs import verify_consistency, verify_inclusion
from perunml.wire.identity import SigningKey

SIZE = 100_000
"""Entries: one a minute for 70 days."""
ROUNDS = 300
BATCH = 20
"""Decisions under one commit when many hosts renew at once."""


def run() -> dict[str, Any]:
    """Medians over `ROUNDS` calls on a ledger of `SIZE` entries."""
    nodes = MemoryNodes()
    start = time.perf_counter()
    tree = Tree(0, nodes)
    for first in range(0, SIZE, BATCH):
        growth = tree.append([leaf_hash(i.to_bytes(32)) for i in range(first, first + BATCH)])
        nodes.add(growth.nodes)
        tree = Tree(growth.size, nodes)
    grown = time.perf_counter() - start
    root, signer = tree.root(), SigningKey.generate()
    places = [int.from_bytes(hashlib.sha256(b"%d" % i).digest()) % SIZE for i in range(ROUNDS)]
    proofs = [tree.inclusion_proof(place) for place in places]
    changes = [(place + 1, tree.root(place + 1), tree.consistency_proof(place + 1)) for place in places]
    entry = Entry(
        "renewal", 1_800_000_000, "sha256:" + "0" * 64, "run", {"machine": "ek:sha256:" + "0" * 64, "verdict": "ok"}
    )
    note = sign_checkpoint(SIZE, root, signer)
    return {
        "title": f"The Merkle log in memory, {SIZE:,} entries; a manager adds its store's time.",
        "results": [
            _result(f"appends, {BATCH} at a time", SIZE / grown, "entries/s", higher=True, target=50_000),
            _timed("append of one", lambda i: tree.append([i.to_bytes(32)])),
            _timed("leaf (salted commitment)", lambda i: leaf_data(entry, i.to_bytes(32))),
            _timed("inclusion proof, make", lambda i: tree.inclusion_proof(places[i])),
            _timed(
                "inclusion proof, check",
                lambda i: verify_inclusion(leaf_hash(places[i].to_bytes(32)), places[i], SIZE, proofs[i], root),
            ),
            _timed("consistency proof, make", lambda i: tree.consistency_proof(changes[i][0])),
            _timed(
                "consistency proof, check",
                lambda i: verify_consistency(changes[i][0], SIZE, changes[i][2], changes[i][1], root),
            ),
            _timed("checkpoint, sign", lambda i: sign_checkpoint(SIZE, root, signer)),
            _timed("checkpoint, open", lambda i: open_checkpoint(note, signer.public)),
            _result(
                "longest inclusion proof", max(map(len, proofs)), "hashes", higher=False, target=(SIZE - 1).bit_length()
            ),
        ],
    }


def _timed(name: str, act: Callable[[int], object]) -> dict[str, Any]:
    times = []
    for i in range(ROUNDS):
        start = time.perf_counter()
        act(i)
        times.append(time.perf_counter() - start)
    return _result(name, statistics.median(times) * 1e6, "µs", higher=False)


def _result(name: str, value: float, unit: str, *, higher: bool, target: float | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "value": value, "unit": unit, "higher_is_better": higher}
    return made if target is None else {**made, "target": target}
