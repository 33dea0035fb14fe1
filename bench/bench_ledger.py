"""What the ledger costs: the tree alone, a manager's durable appends, and proofs out of its store."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from perunml.ledger.checkpoint import open_checkpoint, sign_checkpoint
from perunml.ledger.entries import Entry, leaf_data
from perunml.ledger.merkle import MemoryNodes, Tree, leaf_hash
from perunml.ledger.proofs import verify_consistency, verify_inclusion
from perunml.manager import journal, setup
from perunml.manager.keys import Keys
from perunml.manager.store.connection import Connection
from perunml.manager.store.database import Database
from perunml.manager.writer import Transaction, Writer
from perunml.wire.identity import SigningKey

SIZE = 100_000
"""Entries of the tree in memory: one a minute for 70 days."""
LONG = 1_000_000
"""Entries of the log that proofs are made of."""
ROUNDS = 300
BATCH = 20
"""Decisions under one commit when many hosts renew at once."""
DURABLE = 12_000
AT_ONCE = 128
"""Callers that wait for their entry to be durable, each asking again when it is."""
AGREEMENT = "sha256:" + "0" * 64
BODY = {"machine": "ek:sha256:" + "0" * 64, "lease": "0" * 32, "verdict": {"profile": "measured", "claims": 12}}


def run() -> dict[str, Any]:
    """Medians over `ROUNDS` calls; rates over all."""
    with tempfile.TemporaryDirectory(prefix="perunml-bench-") as folder:
        return {
            "title": (
                f"The Merkle log: in memory with {SIZE:,} entries; appended by a manager's writer, each caller answered "
                f"after its entry is synced to SQLite; proofs of {LONG:,} entries out of SQLite."
            ),
            "results": [*_memory(), *_durable(Path(folder)), *_proofs(Path(folder))],
        }


def _memory() -> Iterator[dict[str, Any]]:
    """The tree without a store."""
    nodes = MemoryNodes()
    start = time.perf_counter()
    tree = Tree(0, nodes)
    for first in range(0, SIZE, BATCH):
        growth = tree.append([leaf_hash(i.to_bytes(32)) for i in range(first, first + BATCH)])
        nodes.add(growth.nodes)
        tree = Tree(growth.size, nodes)
    grown = time.perf_counter() - start
    root, signer = tree.root(), SigningKey.generate()
    note = sign_checkpoint(SIZE, root, signer)
    entry = Entry("renewal", 1_800_000_000, AGREEMENT, "run", BODY)
    yield _result(f"appends, {BATCH} at a time", SIZE / grown, "entries/s", higher=True, target=50_000)
    yield _timed("append of one", lambda i: tree.append([i.to_bytes(32)]))
    yield _timed("leaf (salted commitment)", lambda i: leaf_data(entry, i.to_bytes(32)))
    yield _timed("checkpoint, sign", lambda i: sign_checkpoint(SIZE, root, signer))
    yield _timed("checkpoint, open", lambda i: open_checkpoint(note, signer.public))


def _durable(folder: Path) -> Iterator[dict[str, Any]]:
    """A manager's own writer and journal; beside it, callers who come one after the other."""
    place = folder / "manager"
    setup.init(place, b"bench", url="https://127.0.0.1:1")
    keys = setup.unlock(place, b"bench")
    database = Database(place / "manager.sqlite")
    together = asyncio.run(_append(database, keys, DURABLE, AT_ONCE))
    alone = asyncio.run(_append(database, keys, DURABLE // 20, 1))
    with database.read() as connection:
        found = journal.check(connection, keys)
    database.close()
    if found.size < DURABLE + DURABLE // 20:
        raise RuntimeError(f"{found.size} entries are in the ledger, too few")
    name = f"durable appends, {AT_ONCE} callers at once (group commit)"
    yield _result(name, together, "entries/s", higher=True, target=4_000)
    yield _result("durable appends, one caller", alone, "entries/s", higher=True)


async def _append(database: Database, keys: Keys, count: int, callers: int) -> float:
    """Entries a second."""
    writer = Writer(database, keys, committed=lambda _: None, forget=lambda: None, halted=lambda: None)
    running = asyncio.create_task(writer.run())
    await asyncio.sleep(0)
    left = itertools.count()

    def work(transaction: Transaction) -> int:
        return transaction.journal.append("renewal", 1_800_000_000, AGREEMENT, "0" * 32, BODY)[0]

    async def call() -> None:
        while next(left) < count:
            await writer.submit(work)

    start = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    took = time.perf_counter() - start
    writer.stop()
    await running
    return count / took


def _proofs(folder: Path) -> Iterator[dict[str, Any]]:
    """Made as the manager makes them: nodes read from the table, one statement each."""
    database = Database.create(folder / "long.sqlite")
    connection = database.writer()
    root = _fill(connection)
    tree = Tree(LONG, journal.Nodes(connection))
    if tree.root() != root:
        raise RuntimeError("the stored tree has another root")
    places = [int.from_bytes(hashlib.sha256(b"%d" % i).digest()) % LONG for i in range(ROUNDS)]
    proofs = [tree.inclusion_proof(place) for place in places]
    changes = [(place + 1, tree.root(place + 1), tree.consistency_proof(place + 1)) for place in places]
    yield _timed("inclusion proof, make", lambda i: tree.inclusion_proof(places[i]), target=1_000)
    yield _timed(
        "inclusion proof, check",
        lambda i: verify_inclusion(leaf_hash(places[i].to_bytes(32)), places[i], LONG, proofs[i], root),
        target=1_000,
    )
    yield _timed("consistency proof, make", lambda i: tree.consistency_proof(changes[i][0]), target=1_000)
    yield _timed(
        "consistency proof, check",
        lambda i: verify_consistency(changes[i][0], LONG, changes[i][2], changes[i][1], root),
        target=1_000,
    )
    yield _result(
        "longest inclusion proof", max(map(len, proofs)), "hashes", higher=False, target=(LONG - 1).bit_length()
    )
    connection.close()
    database.close()


def _fill(connection: Connection) -> bytes:
    """Every node of a log of `LONG` leaves into the table; the root over them."""
    connection.run("PRAGMA synchronous=OFF")  # what is measured later is reading
    level, nodes = 0, [leaf_hash(i.to_bytes(32)) for i in range(LONG)]
    lone: list[bytes] = []
    connection.run("BEGIN IMMEDIATE")
    while nodes:
        rows = [{"level": level, "position": at, "hash": value} for at, value in enumerate(nodes)]
        connection.many("INSERT INTO nodes (level, position, hash) VALUES (:level, :position, :hash)", rows)
        if len(nodes) % 2:
            lone.append(nodes[-1])
        sha = hashlib.sha256
        nodes = [sha(b"\x01" + a + b).digest() for a, b in zip(nodes[::2], nodes[1::2], strict=False)]
        level += 1
    connection.run("COMMIT")
    root = lone[0]
    for left in lone[1:]:
        root = hashlib.sha256(b"\x01" + left + root).digest()
    return root


def _timed(name: str, act: Callable[[int], object], target: float | None = None) -> dict[str, Any]:
    times = []
    for i in range(ROUNDS):
        start = time.perf_counter()
        act(i)
        times.append(time.perf_counter() - start)
    return _result(name, statistics.median(times) * 1e6, "µs", higher=False, target=target)


def _result(name: str, value: float, unit: str, *, higher: bool, target: float | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "value": value, "unit": unit, "higher_is_better": higher}
    return made if target is None else {**made, "target": target}
