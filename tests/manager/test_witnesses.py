"""Nothing is released before the agreement's witnesses cosigned the ledger; an old copy of a manager, or a second one, finds none."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from manager.road import Road
from manager.world import World, code_of
from perunml.agreements.conditions import condition_change
from perunml.agreements.document import agreement_from_json
from perunml.api.conditions import ChangeCondition, ConditionList
from perunml.api.ledger import ConsistencyProof, EntryList
from perunml.api.witness import Accepted, Cosignature, Objection, WitnessView
from perunml.client.connection import Connection
from perunml.client.home import Home
from perunml.client.witness import Witnessed, witness, witness_until
from perunml.host import session as protocol_session
from perunml.ledger.checkpoint import open_checkpoint
from perunml.ledger.notes import parse_note
from perunml.ledger.witnessing import sign_as_witness
from perunml.manager import quorum
from perunml.wire.dsse import signed
from perunml.wire.errors import IntegrityError, PerunError
from perunml.wire.identity import PublicKey, SigningKey
from perunml.wire.timestamps import format_time

QUORUM = {"at_least": 1, "of": ["hospital", "watcher"]}
MAJORITY = {"at_least": 2, "of": ["hospital", "startup", "watcher"]}


class Watched(Road):
    """A road whose agreement asks for witnesses: parties, and a stand-alone one called watcher."""

    quorum: dict[str, Any] = QUORUM

    def document(self) -> dict[str, Any]:
        self.watcher = getattr(self, "watcher", None) or SigningKey.generate()
        made = super().document()
        return {**made, "witnesses": {**self.quorum, "keys": {"watcher": self.watcher.public.text}}}

    def home(self, name: str) -> Home:
        return Home(self.folder / "homes" / name)

    def key(self, name: str) -> SigningKey:
        return self.watcher if name == "watcher" else self.keys[name]

    def witness(self, name: str, **options: Any) -> Witnessed:
        """One look of a witness, over a connection of its own."""
        with Connection(self.world.pin, self.key(name)) as connection:
            return witness(connection, self.home(name), self.key(name), **options)

    @contextmanager
    def witnessing(self, *names: str) -> Iterator[list[Any]]:
        """These witness in the background."""
        stop, heard = threading.Event(), []

        def work(name: str) -> None:
            with Connection(self.world.pin, self.key(name)) as connection:
                try:
                    witness_until(stop, connection, self.home(name), self.key(name), heard.append)
                except IntegrityError as exc:
                    heard.append(exc)

        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        try:
            yield heard
        finally:
            stop.set()
            for thread in threads:
                thread.join()


class Majority(Watched):
    quorum = MAJORITY


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait half a second for witnesses who do not come, and witnesses are let go that often, so that they stop."""
    monkeypatch.setattr(quorum, "PATIENCE", 0.5)
    monkeypatch.setattr(quorum, "IDLE", 0.5)
    monkeypatch.setattr(quorum.Witnessed.wait, "__kwdefaults__", {"size": 0, "within": None, "patience": 0.5})


@pytest.fixture
def road(own_world: World, tmp_path: Path) -> Watched:
    return Watched(own_world, tmp_path / "road")


def refusal(call: Callable[[], Any]) -> PerunError:
    with pytest.raises(PerunError) as caught:
        call()
    return caught.value


def test_nothing_is_released_without_witnesses_and_all_is_with_them(road: Watched) -> None:
    """No cosignature: no challenge, told with who is missing; with one of the two named the whole road is open."""
    run = road.submit().run
    exc = refusal(lambda: road.release(run))
    assert exc.code == "witnesses_unreachable"
    assert "hospital (not heard of" in exc.reasons[0].seen
    assert "watcher (not heard of" in exc.reasons[0].seen
    assert exc.reasons[0].expected == "1 of hospital, watcher"
    with road.witnessing("watcher"):
        session, delivery = road.release(run)
        session.renew()
        sealed = road.output(session, delivery)
        session.finish({"model": sealed.digest})
        assert road.delivery(sealed.digest).output == "model"
    assert road.run(run).state == "finished"


def test_a_withheld_release_leaves_when_a_witness_comes(road: Watched) -> None:
    """A fresh cosignature opens the challenge; the release's own entry wants another one. It is withheld until then, and the very
    same request gets it."""
    run = road.submit().run
    road.witness("hospital")
    late = threading.Timer(1.2, lambda: road.witness("hospital"))
    late.start()
    begun = time.monotonic()
    session, delivery = road.release(run)
    assert time.monotonic() - begun > 1
    assert delivery.run == run
    late.join()
    session.close()


def test_a_withheld_release_costs_no_run(own_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease ends unanswered: the ledger says so, the run waits again and the limit is as it was."""
    monkeypatch.setattr(protocol_session, "RETRY_AFTER", 3600.0)
    road = Watched(own_world, tmp_path / "road", limits={"runs": 1}, lease="2s")
    run = road.submit().run
    road.witness("hospital")
    assert code_of(lambda: road.release(run)) == "witnesses_unreachable"
    assert road.run(run).state == "running"
    deadline = time.monotonic() + 10
    while road.run(run).state != "queued" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert road.run(run).state == "queued"
    entries = (
        road.party["startup"].call("GET", f"/v1/ledger/entries?agreement={road.agreement.digest}", EntryList).entries
    )
    assert [e.entry["body"].get("withheld") for e in entries if e.entry["type"] == "lease-end"] == [True]
    with road.witnessing("hospital"):
        assert road.release(run)[1].run == run
        assert code_of(lambda: road.submit()) == "runs_exhausted"


def test_a_renewal_wants_a_cosignature_no_older_than_its_lease(own_world: World, tmp_path: Path) -> None:
    """Witnesses went away: renewals are put off, the lease is not ended by that, and runs out."""
    road = Watched(own_world, tmp_path / "road", lease="2s")
    with road.witnessing("watcher"):
        run, session, _ = road.started()
        session.renew()
    gone, code = time.monotonic(), ""
    while not code:
        time.sleep(0.2)
        code = code_of(session.renew)
    assert code == "witnesses_unreachable"
    assert 1.5 < time.monotonic() - gone < 4
    assert road.run(run).state == "running"
    road.witness("watcher")
    session.renew()
    time.sleep(3)
    assert refusal(session.renew).code == "lease_ended"
    assert road.run(run).state == "lost"


def test_an_operator_or_a_stranger_is_no_witness(road: Watched) -> None:
    """Only keys that the agreement names count, and the operator's cannot be named."""
    assert not road.witness("cloud").cosigned
    stranger = SigningKey.generate()
    with Connection(road.world.pin, stranger) as connection:
        assert code_of(lambda: connection.call("GET", "/v1/witness?size=0", WitnessView)) == "request_unsigned"
    with Connection(road.world.pin, road.watcher) as connection:  # a witness is a witness, and no party
        assert code_of(lambda: connection.raw("GET", "/v1/agreements")) == "request_unsigned"
    document = road.document()
    document["witnesses"] = {"at_least": 1, "of": ["cloud"]}
    assert refusal(lambda: agreement_from_json(document)).code == "agreement_inconsistent"


def test_a_cosignature_that_is_none(road: Watched) -> None:
    """Another's, another ledger's, of another time: refused, and it opens nothing."""
    road.witness("hospital")
    with Connection(road.world.pin, road.watcher) as connection:
        view = connection.call("GET", "/v1/witness?size=0", WitnessView)

        def post(note: Any) -> str:
            return code_of(lambda: connection.call("POST", "/v1/witness", Accepted, Cosignature(note=str(note))))

        note, now = parse_note(view.checkpoint), int(time.time())
        assert post(sign_as_witness(note, road.keys["hospital"], now)) == "bad_checkpoint"
        assert post(sign_as_witness(note, road.watcher, now - 600)) == "witness_clock"
        assert post(sign_as_witness(note, road.watcher, now + 600)) == "witness_clock"
        lines = note.text.split("\n")
        lines[1] = str(int(lines[1]) + 1)
        other = parse_note("\n".join(lines) + "\n" + "".join(map(str, note.signatures)))
        assert post(sign_as_witness(other, road.watcher, now)) == "split_view"
        good = str(sign_as_witness(note, road.watcher, now))
        assert post(good.replace("perunml.witness/", "perunml.witnesz/")) == "bad_checkpoint"
        assert post(good) == ""


@contextmanager
def snapshot(world: World, folder: Path) -> Iterator[Callable[[], None]]:
    """The manager's folder as it is now; what is yielded puts it back."""
    world.stop()
    shutil.copytree(world.folder, folder)
    world.start()

    def restore() -> None:
        world.stop()
        shutil.rmtree(world.folder)
        shutil.copytree(folder, world.folder)
        world.start()

    yield restore


def test_an_old_copy_is_refused_by_its_witnesses_and_by_itself(road: Watched, tmp_path: Path) -> None:
    """S1: the copy starts, and serves what it knows; the first witness that saw more shows it, and from then on it changes nothing,
    for good; the witness refuses too."""
    world = road.world
    with road.witnessing("watcher"):
        road.trained()
    with snapshot(world, tmp_path / "copy") as restore:
        with road.witnessing("watcher"):
            road.trained()
            road.witness("watcher")
        restore()
        assert refusal(lambda: road.witness("watcher")).code == "ledger_rollback"
        exc = refusal(lambda: road.submit())
        assert exc.code == "rollback_detected"
        assert "entries" in exc.reasons[0].seen
        assert road.party["startup"].raw("GET", "/v1/runs")
        with road.witnessing("hospital"):
            assert code_of(lambda: road.suspend("scans", "hospital")) == "rollback_detected"
        world.restart()
        assert code_of(lambda: road.submit()) == "rollback_detected"


def test_an_old_copy_that_meets_no_witness_releases_nothing(road: Watched, tmp_path: Path) -> None:
    """S1: nothing is remembered of cosignatures that came to another process."""
    with snapshot(road.world, tmp_path / "copy") as restore:
        with road.witnessing("watcher"):
            road.trained()
        restore()
        assert code_of(lambda: road.release(road.submit().run)) == "witnesses_unreachable"


def test_of_two_copies_one_at_most_releases(own_world: World, tmp_path: Path) -> None:
    """S5: both go on from one state, each asks the same witnesses; a majority cosigns one history only."""
    road = Majority(own_world, tmp_path / "road")
    world = road.world
    with road.witnessing("hospital", "watcher"):
        road.trained()
    with snapshot(world, tmp_path / "copy") as restore:
        with road.witnessing("hospital", "watcher"):
            first = road.trained()[0]
        assert road.run(first).state == "finished"
        restore()
        road.submit()  # the second copy's own history, as long as the first one's
        for _ in range(12):
            road.submit()
        with road.witnessing("hospital", "watcher", "startup") as heard:
            assert code_of(lambda: road.release(road.submit().run)) in ("rollback_detected", "witnesses_unreachable")
            time.sleep(0.5)
        assert {exc.code for exc in heard if isinstance(exc, IntegrityError)} <= {
            "ledger_rollback", "split_view", "bad_consistency_proof", "rollback_detected",
        }  # fmt: skip
        assert any(isinstance(exc, IntegrityError) for exc in heard)
        assert code_of(lambda: road.submit()) == "rollback_detected"


def test_what_contradicts_nothing_is_no_objection(road: Watched) -> None:
    """An older checkpoint of this very ledger, another ledger's, a forged one: the manager goes on."""
    party = road.party["hospital"]
    old = party.call("GET", "/v1/witness?size=0", WitnessView).checkpoint
    road.submit()
    assert party.call("POST", "/v1/witness/objections", Accepted, Objection(note=old)).size > 0
    forged = old.replace("\n", "\nx", 1)
    assert code_of(lambda: party.call("POST", "/v1/witness/objections", Accepted, Objection(note=forged))) == (
        "bad_checkpoint"
    )
    road.submit()


def test_a_witness_stores_before_it_signs_and_knows_after_a_crash(road: Watched) -> None:
    """What was cosigned is in its folder; two processes of one party never go back behind each other."""
    seen = road.witness("hospital")
    home = road.home("hospital")
    manager = PublicKey(road.world.pin.identity)
    assert open_checkpoint(home.checkpoint_path(road.world.pin).read_text(), manager).size == seen.size
    road.submit()
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(road.witness("hospital"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert open_checkpoint(home.checkpoint_path(road.world.pin).read_text(), manager).size == max(
        item.size for item in results
    )


def test_a_manager_that_shows_no_proof_is_not_cosigned(road: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """P16: a checkpoint whose proof fails is refused, kept out of the folder, and not cosigned."""
    road.witness("hospital")
    before = road.home("hospital").checkpoint_path(road.world.pin).read_text()
    road.submit()
    call = Connection.call

    def lying(self: Connection, method: str, path: str, answer: type[Any], body: Any = None) -> Any:
        made = call(self, method, path, answer, body)
        if isinstance(made, (WitnessView, ConsistencyProof)):
            return made.model_copy(update={"proof": [bytes(32)]})
        return made

    monkeypatch.setattr(Connection, "call", lying)
    assert refusal(lambda: road.witness("hospital")).code == "bad_consistency_proof"
    assert road.home("hospital").checkpoint_path(road.world.pin).read_text() == before


def test_a_withheld_release_is_not_taken_back_from_a_later_condition(
    own_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A condition that was added meanwhile never counted it: afterwards it allows as many runs as it says, not one more."""
    monkeypatch.setattr(protocol_session, "RETRY_AFTER", 3600.0)
    road = Watched(own_world, tmp_path / "road", lease="2s")
    run = road.submit().run
    road.witness("hospital")
    assert code_of(lambda: road.release(run)) == "witnesses_unreachable"
    subject = road.agreement.assets["scans"].digest
    change = condition_change(road.agreement, "scans", "add", "one", {"runs": 1}, "")
    message = ChangeCondition(change=signed("Condition", change, road.keys["hospital"]))
    road.party["hospital"].call("POST", "/v1/conditions", ConditionList, message)
    deadline = time.monotonic() + 10
    while road.run(run).state != "queued" and time.monotonic() < deadline:
        time.sleep(0.1)
    listed = road.party["hospital"].call("GET", f"/v1/conditions?subject={subject}", ConditionList)
    assert [item.runs for item in listed.conditions] == [0]
    with road.witnessing("hospital"):
        road.release(run)
    assert code_of(road.submit) == "owner_condition"


class Ending(Watched):
    """Ends in eight seconds."""

    def document(self) -> dict[str, Any]:
        self.end = getattr(self, "end", None) or int(time.time()) + 8
        made = super().document()
        for job in made["jobs"].values():
            job["limits"]["until"] = format_time(self.end)
        return made


def test_an_output_leaves_no_later_than_its_witnesses_say(own_world: World, tmp_path: Path) -> None:
    """A manager whose clock is half a minute slow: where a quorum has been already, the agreement is over."""
    road = Ending(own_world, tmp_path / "road")
    with road.witnessing("watcher"):
        _, sealed, _ = road.trained()
        assert road.delivery(sealed.digest).output == "model"
    with Connection(road.world.pin, road.keys["hospital"]) as connection:
        view = connection.call("GET", "/v1/witness?size=0", WitnessView)
        ahead = str(sign_as_witness(parse_note(view.checkpoint), road.keys["hospital"], road.end + 20))
        connection.call("POST", "/v1/witness", Accepted, Cosignature(note=ahead))
    assert time.time() < road.end
    assert code_of(lambda: road.delivery(sealed.digest)) == "agreement_not_in_force"
