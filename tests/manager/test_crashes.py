"""Crashes, damaged stores, full disks, clocks that jump: nothing acknowledged is lost, nothing more is released."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from manager.road import Road
from manager.world import PASSPHRASE, World, cached_keys, code_of
from perunml.api.ledger import EntryList
from perunml.api.runs import RunList
from perunml.client.audit import verify_ledger
from perunml.client.connection import Connection as PartyConnection
from perunml.client.home import Home
from perunml.manager.clock import Clock, monotonic
from perunml.manager.server import Server
from perunml.manager.store.connection import Connection
from perunml.wire.errors import PerunError

SERVE = """
import sys
from pathlib import Path
from perunml.manager.server import serve
serve(Path(sys.argv[1]), sys.stdin.buffer.read(), "127.0.0.1", int(sys.argv[2]), lambda address: print("ready", flush=True))
"""


class Process:
    """A manager in a process of its own, to be killed."""

    def __init__(self, folder: Path, port: int) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(folder), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(PASSPHRASE)
        self.process.stdin.close()
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_killed_in_mid_load(own_world: World, tmp_path: Path) -> None:
    """S2: kill -9 under load, twice: each run that was acknowledged is there, the ledger is whole, a lease goes on."""
    road = Road(own_world, tmp_path / "road")
    _, session, _ = road.started()
    own_world.stop()
    home = Home(tmp_path / "home")
    home.create()
    acknowledged: list[str] = []
    for _ in range(2):
        process = Process(own_world.folder, own_world.port)
        stop = threading.Event()

        def submit(stop: threading.Event = stop) -> None:
            connection = PartyConnection(own_world.pin, road.keys["startup"])
            mine = Road.__new__(Road)
            mine.__dict__.update(road.__dict__)
            mine.party = {**road.party, "startup": connection}
            while not stop.is_set():
                try:
                    acknowledged.append(mine.submit().run)
                    time.sleep(0.01)  # some hundreds of runs in all: far below the rate that a party may have
                except PerunError:
                    break
            connection.close()

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.7)
        verify_ledger(road.party["hospital"], home, [])
        process.kill()
        stop.set()
        for thread in threads:
            thread.join()
    assert len(acknowledged) > 20
    own_world.start()
    listed = road.party["startup"].call("GET", f"/v1/runs?agreement={road.agreement.digest}", RunList)
    assert set(acknowledged) <= {run.run for run in listed.runs}
    audit = verify_ledger(road.party["hospital"], home, [road.agreement.digest])
    assert audit.seen is not None
    assert audit.agreements[road.agreement.digest] >= len(acknowledged)
    assert session.renew().lease_seconds == 30


def test_killed_in_mid_upload(own_world: World, tmp_path: Path) -> None:
    """A part that was written and never acknowledged is written over."""
    from manager.road import push, push_message, seal
    from perunml.api.assets import AssetView
    from perunml.wire.identity import SigningKey

    key = SigningKey.generate()
    party = own_world.party(key)
    sealed = seal(tmp_path / "sealed", key, "scans", "dataset", {"a": os.urandom(100_000)})
    party.call("POST", "/v1/assets", AssetView, push_message(sealed, party.pin.intake))
    blob = sealed.manifest.all_blobs[0]
    half = own_world.folder / "blobs" / sealed.digest.removeprefix("sha256:")
    half.mkdir()
    (half / blob.id).write_bytes(os.urandom(50_000))  # as if the process had died between write and commit
    assert push(party, sealed).complete
    path = f"/v1/assets/{sealed.digest}/blobs/{blob.id}?offset=0&length={sealed.manifest.sealed_size(blob)}"
    assert party.raw("GET", path) == (sealed.folder / "blobs" / blob.id).read_bytes()


def _damaged(world: World, damage: Any) -> str:
    world.stop()
    damage(world.folder / "manager.sqlite")
    return code_of(lambda: Server(world.folder, cached_keys(world.folder)))


def _sql(statement: str) -> Any:
    def run(path: Path) -> None:
        database = sqlite3.connect(path)
        database.execute(statement)
        database.commit()
        database.close()

    return run


def _truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data), 997):
        data[at] ^= 0x40
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip,
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"not a database at all" * 1000),
        _sql("DELETE FROM entries WHERE position = (SELECT max(position) FROM entries)"),
        _sql("UPDATE checkpoint SET size = size - 1"),
        _sql("UPDATE nodes SET hash = zeroblob(32) WHERE level = 0"),
        _sql("DELETE FROM checkpoint"),
    ],
    ids=["truncated", "flipped", "missing", "garbage", "entry", "size", "node", "checkpoint"],
)
def test_damaged_database(own_world: World, damage: Any) -> None:
    """S3, S13: a manager does not start on a store that contradicts itself or its own signed checkpoint."""
    own_world.party().call("GET", "/v1/runs", RunList)
    from perunml.wire.identity import SigningKey

    own_world.enrol(SigningKey.generate())
    assert _damaged(own_world, damage) == "state_damaged"


def test_full_disk(own_world: World, tmp_path: Path) -> None:
    """S9: when the database cannot grow, what is new is refused, what was there stays, and with room it goes on."""
    road = Road(own_world, tmp_path / "road")
    run, session, _ = road.started()
    assert own_world.server is not None
    services = own_world.server.services
    pages = sqlite3.connect(own_world.folder / "manager.sqlite").execute("PRAGMA page_count").fetchone()[0]
    most = [pages + 1]

    def bounded() -> Connection:
        made = Connection(own_world.folder / "manager.sqlite")
        made.run(f"PRAGMA max_page_count={most[0]}")
        return made

    services.database.writer = bounded  # type: ignore[method-assign]  # the writer connects anew after a failure
    assert services.writer._connection is not None
    services.writer._connection.run(f"PRAGMA max_page_count={most[0]}")
    codes = {code_of(road.submit) for _ in range(60)}
    assert "disk_full" in codes
    assert codes <= {"", "disk_full"}
    most[0] = 2**30
    code_of(road.submit)  # the last one that fails: its connection is given up
    assert road.run(run).state == "running"
    assert road.submit().state == "queued"
    assert session.renew().lease_seconds == 30
    own_world.restart()
    assert road.run(run).state == "running"


def test_clock_that_jumps(tmp_path: Path) -> None:
    """S10, N11: a clock set forward or back by a day or ten years decides nothing; set right again, all goes on."""
    shift = [0.0]
    world = World(tmp_path, Clock(lambda: time.time() + shift[0], monotonic))
    try:
        road = Road(world, tmp_path / "road")
        run, session, _ = road.started()
        for jump in (-86400.0, 86400.0, 10 * 365 * 86400.0, -10 * 365 * 86400.0):
            shift[0] = jump
            assert code_of(road.submit) in ("clock_jumped", "unreachable")
            assert code_of(session.renew) in ("clock_jumped", "unreachable")
        shift[0] = 0
        assert session.renew().lease_seconds == 30
        assert road.run(run).state == "running"
    finally:
        world.close()


def test_time_never_falls_below_the_ledger(tmp_path: Path) -> None:
    """S10: started with a clock that stands before its own newest entry, a manager decides nothing."""
    clock = Clock(lambda: 1_800_000_000.0, monotonic)
    clock.raise_floor(1_800_000_005)
    assert clock.now() == 1_800_000_005
    clock.raise_floor(1_800_000_500)
    assert code_of(clock.now) == "clock_jumped"


def test_failure_inside_is_one_constant_answer(own_world: World, caplog: pytest.LogCaptureFixture) -> None:
    """No exception leaves a handler: an unforeseen failure is a number in the log and one answer, with no value in either."""
    party = own_world.party()
    assert own_world.server is not None
    database = sqlite3.connect(own_world.folder / "manager.sqlite")
    database.execute("ALTER TABLE runs RENAME TO hidden")
    database.execute(
        "INSERT INTO agreement_keys (key, agreement, party) VALUES (?, 'sha256:x', 'p')", (party._signer.public.text,)
    )
    database.execute(
        "INSERT INTO agreements (digest, name, version, line, predecessor, state, envelope) "
        "VALUES ('sha256:x', 'n', 1, 'l', '', 'proposed', 'secret bytes')"
    )
    database.commit()
    database.close()
    with pytest.raises(PerunError) as caught:
        party.call("GET", "/v1/ledger/entries?agreement=sha256:x", EntryList)
    assert caught.value.code == "manager_failed"
    assert "secret" not in str(caught.value)
    assert any("failed" in record.getMessage() for record in caplog.records)
    assert "secret bytes" not in caplog.text
