"""A manager that is killed with -9 at any moment, again and again: nothing acknowledged is lost, nothing is released past a limit, the
ledger only grows."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from manager.road import Road
from manager.test_narrowing import following
from manager.world import PASSPHRASE, World, code_of, tls_pem
from perunml.api.agreements import SuspensionView
from perunml.api.ledger import EntryList, EntryView
from perunml.api.runs import RunList
from perunml.client.audit import verify_ledger
from perunml.client.audit_verify import verify_export
from perunml.client.connection import Connection
from perunml.client.home import Home
from perunml.host import session as protocol_session
from perunml.host.protocol import ManagerLink
from perunml.wire.errors import PerunError
from perunml.wire.identity import PublicKey

SEED = 20270131
LIVES = 0.12
"""Seconds that a manager lives at most, after it took its first connection: some ten to twenty acknowledged steps."""
FORKS = """
import os, sys
from pathlib import Path
from perunml.manager.server import Server
from perunml.manager.setup import unlock
folder, port = Path(sys.argv[1]), int(sys.argv[2])
keys = unlock(folder, sys.stdin.buffer.readline().rstrip(b"\\n"))
for _ in iter(sys.stdin.buffer.readline, b""):
    child = os.fork()
    if child == 0:
        Server(folder, keys, port=port).run(lambda address: print("ready", os.getpid(), flush=True))
        os._exit(0)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


class Mortal:
    """A process that keeps a manager's program loaded, and forks a manager whenever the last one is dead."""

    def __init__(self, folder: Path, port: int) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKS, str(folder), str(port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True,
        )  # fmt: skip
        self.say(PASSPHRASE.decode())

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def heard(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    @contextmanager
    def life(self) -> Iterator[None]:
        """A manager that serves; afterwards it is dead. Killed here alone: a second kill may find it gone already, or another in its place."""
        self.say("live")
        ready, pid = self.heard()
        assert ready == "ready"
        try:
            yield
        finally:
            os.kill(int(pid), signal.SIGKILL)
            assert self.heard() == ["gone"]

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class History:
    """What is done at the manager while it lives, and what of that it acknowledged."""

    def __init__(self, road: Road, client: tuple[str, bytes]) -> None:
        self.road, self.client = road, client
        self.acknowledged: Counter[str] = Counter()
        self.submitted: list[str] = []
        self.released: dict[str, str] = {}
        self.ended: list[str] = []
        self.over = False

    def live(self) -> None:
        """Runs, from the request to the end, one after the other, with a suspension now and then. A session asks again while nobody answers; all
        else is given up, and the next run begun when somebody does."""
        own = Road.__new__(Road)
        own.__dict__.update(self.road.__dict__)
        own.party = {name: Connection(own.world.pin, own.keys[name]) for name in ("startup", "hospital")}
        while not self.over:
            try:
                with ManagerLink(own.world.pin, self.client) as link:
                    self.run(own, link)
            except PerunError as exc:
                self.acknowledged[exc.code] += 1
                time.sleep(0.01)
        for party in own.party.values():
            party.close()

    def run(self, own: Road, link: ManagerLink) -> None:
        """One run."""
        subject = own.agreement.assets["scans"].digest
        if own.party["hospital"].call("GET", f"/v1/suspensions?subject={subject}", SuspensionView).suspended:
            own.suspend("scans", "hospital", lift=True)  # it died between the two
        run = own.submit().run
        self.submitted.append(run)
        session = own.session(run)
        session.release(link, agreement=own.agreement.digest)
        self.released[run] = session.lease_id
        session.renew()
        if len(self.released) % 3 == 0:
            own.suspend("scans", "hospital")
            self.acknowledged["suspended"] += 1
            own.suspend("scans", "hospital", lift=True)
            self.acknowledged["lifted"] += 1
        session.finish({}, error="code_failed")
        self.ended.append(run)
        session.close()


def entries(road: Road, agreement: str) -> list[EntryView]:
    found: list[EntryView] = []
    while True:
        after = f"&after={found[-1].index}" if found else ""
        page = road.party["clinic"].call("GET", f"/v1/ledger/entries?agreement={agreement}{after}", EntryList).entries
        if not page:
            return found
        found += page


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions ask again fifty times a second."""
    monkeypatch.setattr(protocol_session, "RETRY_AFTER", 0.02)


def killed(world: World, folder: Path, times: int, seed: int) -> None:
    """The whole test; `seed` says when each manager dies."""
    random_ = random.Random(seed)
    road = Road(world, folder / "road", limits={"runs": 1_000_000}, lease="1h")
    agreement = road.agreement.digest
    home = Home(folder / "home")
    home.create()
    world.stop()
    mortal = Mortal(world.folder, world.port)
    history = History(road, (road.trainer.enrolled.certificate, tls_pem(road.trainer.tls)))
    thread = threading.Thread(target=history.live)
    thread.start()
    try:
        for number in range(times):
            with mortal.life():
                verify_ledger(road.party["hospital"], home, [agreement] if number % 10 == 0 else [])
                time.sleep(random_.random() * LIVES)
        with mortal.life():
            history.over = True  # what it is in the middle of comes to its end
            thread.join()
    finally:
        history.over = True
    mortal.end()
    assert set(history.acknowledged) <= {"suspended", "lifted", "unreachable", "nonce_mismatch"}, history.acknowledged
    assert history.acknowledged["unreachable"] > times // 10
    assert len(history.released) > times
    world.start()
    audit = verify_ledger(road.party["hospital"], home, [agreement])
    assert audit.seen is not None
    listed = {run.run: run for run in _runs(road, agreement)}
    assert set(history.submitted) <= set(listed)
    assert all(listed[run].state == "failed" for run in history.ended)
    shown = entries(road, agreement)
    releases = [item.entry for item in shown if item.entry["type"] == "release"]
    leases = {entry["subject"]: entry["body"]["lease"] for entry in releases}
    assert len(leases) == len(releases), "a run was released twice"
    assert all(leases[run] == lease for run, lease in history.released.items())
    changes = Counter(item.entry["body"]["action"] for item in shown if item.entry["type"] == "suspension")
    assert changes["suspend"] >= history.acknowledged["suspended"]
    # What was released is what was counted: of two more runs there are two.
    road.tpm.reboot()
    made = following(road, runs=len(releases) + 2)
    road.propose(made, "hospital")
    assert road.approve(made, "hospital").state == "in_force"
    road.agreement = made
    for _ in range(2):
        road.started()
    assert code_of(road.submit) == "runs_exhausted"
    from manager.test_audit import exported

    assert verify_export(exported(road, "clinic", folder), PublicKey(world.pin.identity)).counts["releases"] == (
        len(releases) + 2
    )


def _runs(road: Road, agreement: str) -> list[object]:
    return list(road.party["startup"].call("GET", f"/v1/runs?agreement={agreement}", RunList).runs)


def test_s2_killed_fifty_times(own_world: World, tmp_path: Path) -> None:
    """S2: at moments that are the same each time, as far as a machine lets them be."""
    killed(own_world, tmp_path, 50, SEED)


@pytest.mark.long
@pytest.mark.parametrize("part", range(10))
def test_s2_killed_a_thousand_times(own_world: World, tmp_path: Path, part: int) -> None:
    """S2: a hundred lives a manager, at moments of their own."""
    killed(own_world, tmp_path, 100, SEED + part)
