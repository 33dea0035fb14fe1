"""Histories of honest managers verify, whoever looks: who joined later, who left, whose key was replaced, with witnesses, under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manager.road import Road
from manager.test_audit import exported
from manager.test_witnesses import Watched
from manager.world import PASSPHRASE, World, cached_keys, code_of
from perunml.agreements.document import agreement_from_json
from perunml.client.audit_export import export
from perunml.client.audit_verify import AuditReport, verify_export
from perunml.client.connection import Connection
from perunml.client.home import Home
from perunml.host import session as protocol_session
from perunml.manager import journal, quorum, setup
from perunml.manager.keys import Keys
from perunml.manager.store.database import Database
from perunml.manager.writer import Transaction, Writer
from perunml.release import replay
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import PublicKey, SigningKey


def audited(road: Road, by: str, folder: Path) -> AuditReport:
    return verify_export(exported(road, by, folder), PublicKey(road.world.pin.identity))


def told(report: AuditReport, words: str) -> bool:
    return any(words in line for line in report.unchecked)


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Road:
    """A model was trained and the data suspended; then the clinic leaves, a lab comes, the startup's key is replaced; and all goes on."""
    road = Road(world, tmp_path_factory.mktemp("road"))
    _, sealed, _ = road.trained()
    road.suspend("scans", "hospital")
    document = road.document()
    road.keys["lab"], road.receiving["lab"] = SigningKey.generate(), HpkePrivateKey.generate()
    road.party["lab"] = world.party(road.keys["lab"])
    fresh = SigningKey.generate()
    parties = document["parties"]
    parties["lab"] = {"keys": {"main": road.keys["lab"].public.text}, "receive": road.receiving["lab"].public.text}
    parties["startup"]["keys"] = {"main": fresh.public.text}
    del parties["clinic"]
    document["jobs"]["serve"]["clients"] = ["lab"]
    document["metadata"] |= {"version": 2, "predecessor": road.agreement.digest}
    second = agreement_from_json(document)
    road.propose(second, "hospital")
    for by in ("hospital", "startup", "cloud", "clinic", "lab"):
        road.approve(second, by)
    road.keys["startup"], road.party["startup"] = fresh, world.party(fresh)
    assert road.approve(second, "startup").state == "in_force"
    road.agreement = second
    road.suspend("scans", "hospital", lift=True)
    road.delivery(sealed.digest)
    road.release(road.submit("serve", "lab").run, road.server)
    road.started()
    return road


def test_who_stays_sees_all(road: Road, tmp_path: Path) -> None:
    """Both versions, nothing left to believe."""
    report = audited(road, "hospital", tmp_path)
    assert (len(report.agreements), report.counts["releases"], report.unchecked) == (2, 3, ())


def test_a_new_key_reads_what_its_party_did(road: Road, tmp_path: Path) -> None:
    """It is named by the second version only; the first one's entries are its party's all the same."""
    report = audited(road, "startup", tmp_path)
    assert (len(report.agreements), report.counts["releases"], report.unchecked) == (2, 3, ())


def test_who_joined_later_is_told_what_it_cannot_know(road: Road, tmp_path: Path) -> None:
    """Who approved the first version, what was suspended before, which run made the model."""
    report = audited(road, "lab", tmp_path)
    assert (len(report.agreements), report.counts["releases"]) == (1, 2)
    for words in ("who had to approve", "suspensions of", "which run made"):
        assert told(report, words)


def test_who_left_is_told_where_its_sight_ends(road: Road, tmp_path: Path) -> None:
    """Another version is in force, and not its to read."""
    report = audited(road, "clinic", tmp_path)
    assert (len(report.agreements), report.counts["releases"]) == (1, 1)
    assert told(report, "is not shown")


def test_p17_witnesses_words_are_verified_and_releases_they_did_not_see_are_told(
    own_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that was cosigned leaves nothing open; one that waits is told, and one that was withheld to its end too."""
    monkeypatch.setattr(quorum, "PATIENCE", 0.3)
    monkeypatch.setattr(quorum.Witnessed.wait, "__kwdefaults__", {"size": 0, "within": None, "patience": 0.3})
    monkeypatch.setattr(protocol_session, "RETRY_AFTER", 3600.0)
    road = Watched(own_world, tmp_path / "road", lease="2s")
    second = road.submit().run
    with road.witnessing("watcher"):
        road.started()
    road.witness("watcher")
    until(lambda: audited(road, "startup", tmp_path).unchecked == ())
    assert [found.key for found in audited(road, "startup", tmp_path).witnesses] == [road.watcher.public.text]
    assert audited(road, "startup", tmp_path).counts["cosigned"] == 1
    with monkeypatch.context() as patch:
        patch.setattr(replay, "SEEN_WITHIN", -1)  # as if its clock had been two minutes later
        late = audited(road, "startup", tmp_path)
    assert late.counts["cosigned"] == 0
    assert told(late, "left before its quorum had cosigned it")
    assert code_of(lambda: road.release(second)) == "witnesses_unreachable"
    assert told(audited(road, "startup", tmp_path), "whether witnesses saw the release")
    until(lambda: road.run(second).state == "queued")
    road.witness("watcher")
    last = audited(road, "startup", tmp_path)
    assert last.counts["releases"] == 2
    assert told(last, "calls withheld")
    assert not told(last, "whether witnesses saw")


def until(met: Callable[[], bool]) -> None:
    """The manager keeps cosignatures, and ends leases, in the background."""
    deadline = time.monotonic() + 10
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_p16_a_manager_whose_leaves_are_others_is_not_exported(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, and leaves no half of a file behind; a file that is there is not touched."""
    exported(road, "cloud", tmp_path)
    (first,) = tmp_path.glob("*.zip")
    before = first.read_bytes()
    home = Home(tmp_path / "cloud")
    with pytest.raises(FileExistsError):
        export(road.party["cloud"], home, [], first)
    assert first.read_bytes() == before
    asked = Connection.raw

    def lying(self: Connection, method: str, path: str, *args: Any, **options: Any) -> bytes:
        data = asked(self, method, path, *args, **options)
        return data.replace(b'"v":1}', b'"v":2}') if "/tile/" in path else data

    monkeypatch.setattr(Connection, "raw", lying)
    assert code_of(lambda: export(road.party["cloud"], home, [], tmp_path / "second.zip")) == "bad_checkpoint"
    assert not (tmp_path / "second.zip").exists()


def test_times_do_not_run_backwards_under_load(tmp_path: Path) -> None:
    """Who waits, in the queue or for a witness, took the time before others who were faster: its entry is not earlier than theirs."""
    setup.init(tmp_path / "manager", PASSPHRASE, url="https://127.0.0.1:1")
    keys = cached_keys(tmp_path / "manager")
    database = Database(tmp_path / "manager" / "manager.sqlite")
    asyncio.run(_append(database, keys, [100, 103, 101, 102, 103, 99]))
    asyncio.run(_append(database, keys, [98, 104]))
    with database.read() as connection:
        found = [row[0] for row in connection.run("SELECT entry FROM entries ORDER BY position")]
        assert journal.state(connection).time == 104
    database.close()
    assert [line.split('"time":"')[1][17:19] for line in found] == ["40", "43", "43", "43", "43", "43", "43", "44"]


async def _append(database: Database, keys: Keys, times: list[int]) -> None:
    writer = Writer(database, keys, committed=lambda _: None, forget=lambda: None, halted=lambda: None)
    running = asyncio.create_task(writer.run())
    await asyncio.sleep(0)

    def work(now: int) -> Any:
        return lambda tx: _one(tx, now)

    await asyncio.gather(*(writer.submit(work(now)) for now in times))
    writer.stop()
    await running


def _one(transaction: Transaction, now: int) -> None:
    at = transaction.journal.at(now)
    transaction.journal.append("enrolment", at if now % 2 else now, "", "machine", {})


def test_a_witness_first_word_on_an_entry_counts(tmp_path: Path) -> None:
    """Whatever it cosigned later, and in whatever order its words come: by each size, the earliest time of that or a larger one."""
    firsts = replay._Firsts([(9, 300), (4, 100), (6, 90)])
    assert [firsts.over(index) for index in (0, 3, 4, 5, 6, 8, 9)] == [90, 90, 90, 90, 300, 300, None]
    assert replay._Firsts([]).over(0) is None
