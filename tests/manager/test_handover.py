"""A new version of the manager gets the root key when the newest version in force of every agreement admits it, and else nobody does."""

from __future__ import annotations

import asyncio
import http.client
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from manager.audits import audited_by_all
from manager.joining import Led, joined, machine, move, only
from manager.road import PARTIES, push, seal
from manager.test_witnesses import Watched, impatient, refusal
from manager.world import PASSPHRASE, PROFILE, World, code_of
from perunml.agreements.document import agreement_from_json
from perunml.api.handover import HandoverAnswer, HandoverChallenge, HandoverRequest
from perunml.api.ledger import EntryList
from perunml.api.pin import pinned_context
from perunml.api.trust import RootCustody, manager_binding
from perunml.client.handover import Taker
from perunml.client.trust import trust
from perunml.evidence.policy import Machine
from perunml.manager import admission, limits, lines, setup
from perunml.manager.backup import backup, restore
from perunml.manager.custody import Kept
from perunml.manager.keys import Keys
from perunml.manager.pending import HANDOVER_TTL, Handover, Handovers
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey

__all__ = ["impatient"]
NOBODY = {"profile": "simulated", "machines": ["simulated:sha256:" + "0" * 64]}


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests ask from one address."""
    monkeypatch.setattr(limits, "HANDOVER", limits.Rate(100, 100))


@pytest.fixture
def road(own_world: World, tmp_path: Path) -> Led:
    return Led(own_world, tmp_path / "road")


def refusals(road: Led, by: str = "hospital") -> list[dict[str, Any]]:
    """What the ledger tells a party of machines that were refused the root key."""
    path = f"/v1/ledger/entries?agreement={road.agreement.digest}"
    told = [item.entry for item in road.party[by].call("GET", path, EntryList).entries]
    return [
        entry["body"] for entry in told if entry["type"] == "refusal" and entry["body"].get("purpose") == "handover"
    ]


# the whole road


def test_a_new_version_takes_over_with_everything(road: Led, tmp_path: Path) -> None:
    """Join, backup, restore, serve: same identity, parties' pins and connections hold, counts go on, and the audit finds both managers' work."""
    _, sealed, _ = road.trained()
    identity, intake, new = road.world.pin.identity, road.world.pin.intake, tmp_path / "new"
    asker = joined(road.world, new, machine())
    assert sorted(path.name for path in new.iterdir()) == ["joined.json", "root.json"]
    assert code_of(lambda: setup.unlock(new, PASSPHRASE)) == "folder_in_use"
    move(road.world, new, tmp_path / "copy")
    assert not (new / "joined.json").exists()
    again = trust(road.world.url, PROFILE)
    assert (again.identity, again.intake, again.tls) == (identity, intake, road.world.pin.tls)
    assert road.delivery(sealed.digest).output == "model"
    road.started()
    handovers = [entry for entry in entries(road) if entry["type"] == "handover"]
    assert [entry["body"]["machine"] for entry in handovers] == [sent_machine(asker.sent[0][1])]
    assert handovers[0]["body"]["custody"] == {"kind": "passphrase", "pcrs": []}
    audited_by_all(road.world)


def entries(road: Led) -> list[dict[str, Any]]:
    path = f"/v1/ledger/entries?agreement={road.agreement.digest}"
    return [item.entry for item in road.party["hospital"].call("GET", path, EntryList).entries]


def sent_machine(answer: HandoverAnswer) -> str:
    from perunml.evidence.simulated.verify import machine_id

    return machine_id(answer.evidence["parts"][0]["key"])


def test_a_backup_of_another_manager_is_not_restored(road: Led, tmp_path: Path) -> None:
    """Both are named, and the folder that was joined stays as it was."""
    new, other = tmp_path / "new", tmp_path / "other"
    joined(road.world, new)
    setup.init(other, PASSPHRASE, url="https://127.0.0.1:1")
    backup(other, tmp_path / "copy")
    exc = refusal(lambda: restore(tmp_path / "copy", new))
    assert exc.code == "backup_other"
    assert road.world.pin.identity in exc.reasons[0].expected
    assert exc.reasons[0].seen.startswith("perunml.ledger/")
    assert sorted(path.name for path in new.iterdir()) == ["joined.json", "root.json"]
    move(road.world, new, tmp_path / "right")


def test_a_crash_while_a_backup_is_restored_into_it_is_none(road: Led, tmp_path: Path) -> None:
    """Half of it is there: no manager, and the backup is restored again."""
    new = tmp_path / "new"
    joined(road.world, new)
    (new / "blobs").mkdir()
    (new / "blobs" / "half").write_bytes(b"x")
    (new / "tls.pem").write_bytes(b"half")
    move(road.world, new, tmp_path / "copy")
    assert road.submit().state == "queued"


# who does not get it


def test_a_machine_that_an_agreement_does_not_admit(road: Led, tmp_path: Path) -> None:
    """One constant answer; the agreement's parties find in the ledger why."""
    road.next(NOBODY)
    exc = refusal(lambda: joined(road.world, tmp_path / "new"))
    assert exc.code == "handover_refused"
    assert len(exc.reasons) == 1
    assert not exc.reasons[0].expected + exc.reasons[0].seen
    assert [reason["code"] for reason in refusals(road)[0]["reasons"]] == ["wrong_machine"]
    assert not (tmp_path / "new" / "root.json").exists()


def test_each_of_two_agreements_must_admit_it(road: Led, tmp_path: Path) -> None:
    """The other one's parties are not told; once both admit it, it gets the key."""
    one = machine()
    road.other("beside", NOBODY)
    assert code_of(lambda: joined(road.world, tmp_path / "new", one)) == "handover_refused"
    assert refusals(road) == []


def test_the_newest_version_in_force_decides(road: Led, tmp_path: Path) -> None:
    """Never a superseded one, nor one that is only proposed."""
    old, new = machine(), machine()
    road.next(only(old))
    road.next(only(new), propose=True)
    assert code_of(lambda: joined(road.world, tmp_path / "a", new)) == "handover_refused"
    road.in_force(proposed := road_version(road, only(new)))
    road.agreement = proposed
    assert code_of(lambda: joined(road.world, tmp_path / "b", old)) == "handover_refused"
    joined(road.world, tmp_path / "c", new)


def road_version(road: Led, led: dict[str, Any]) -> Any:
    road.led, before = led, road.agreement
    document = road.document()
    version = before.metadata.version + 1
    document["metadata"] = {"name": before.name, "version": version, "predecessor": before.digest}
    return agreement_from_json(document)


def test_without_any_agreement_there_is_nothing_to_hand_over(own_world: World, tmp_path: Path) -> None:
    """A new manager is as good."""
    assert code_of(lambda: joined(own_world, tmp_path / "new")) == "handover_closed"


def test_an_owner_without_an_agreement_keeps_it_here(road: Led, tmp_path: Path) -> None:
    """Its data key lies under the root key, and nobody asked it."""
    key = SigningKey.generate()
    sealed = seal(tmp_path / "stray", key, "stray", "dataset", {"a": b"1"})
    push(road.world.party(key), sealed)
    assert code_of(lambda: joined(road.world, tmp_path / "new")) == "handover_refused"


def test_an_owner_that_is_only_listed_keeps_it_here(road: Led, tmp_path: Path) -> None:
    """Others may write any key beside their own board: its owner never said a word. When it does, the key may go."""
    owner, lab = SigningKey.generate(), SigningKey.generate()
    push(road.world.party(owner), seal(tmp_path / "stray", owner, "stray", "dataset", {"a": b"1"}))
    document = road.document()
    document["metadata"] = {"name": "listed"}
    keys = {"own": lab.public.text, "listed": owner.public.text}
    document["parties"]["lab"] = {"keys": keys, "approve": {"at_least": 1, "of": ["own", "listed"]}}
    made = agreement_from_json(document)
    road.propose(made)
    for by in PARTIES:
        road.approve(made, by)
    road.keys["lab"], road.party["lab"] = lab, road.world.party(lab)
    assert road.approve(made, "lab").state == "in_force"
    assert code_of(lambda: joined(road.world, tmp_path / "a")) == "handover_refused"
    road.keys["lab"], road.party["lab"] = owner, road.world.party(owner)
    road.approve(made, "lab")
    joined(road.world, tmp_path / "b")


def test_n3_evidence_that_was_made_for_something_else(road: Led, tmp_path: Path) -> None:
    """N3, C5: for an attestation, for another key, another keeper or another nonce, of this very machine."""
    one = machine()
    identity = road.world.pin.identity

    def as_attestation(challenge: HandoverChallenge, message: HandoverAnswer) -> HandoverAnswer:
        bound = manager_binding(
            nonce=challenge.nonce, identity=identity, intake=message.hpke, tls="", host_ca="", custody=message.custody,
            machine=one.machine,
        )  # fmt: skip
        return message.model_copy(update={"evidence": one.collect(bound).as_json()})

    def other_key(challenge: HandoverChallenge, message: HandoverAnswer) -> HandoverAnswer:
        return message.model_copy(update={"hpke": HpkePrivateKey.generate().public.text})

    def other_custody(challenge: HandoverChallenge, message: HandoverAnswer) -> HandoverAnswer:
        return message.model_copy(update={"custody": RootCustody(kind="tee", pcrs=[])})

    before = joined(road.world, tmp_path / "before", one).sent[0][1]

    def from_before(challenge: HandoverChallenge, message: HandoverAnswer) -> HandoverAnswer:
        return before

    for number, change in enumerate((as_attestation, other_key, other_custody, from_before)):
        folder = tmp_path / f"folder-{number}"
        assert code_of(lambda f=folder, c=change: joined(road.world, f, one, answered=c)) == "handover_refused", change
    assert {reason["code"] for told in refusals(road) for reason in told["reasons"]} == {"binding_mismatch"}


def test_n1_an_answer_is_read_once(road: Led, tmp_path: Path) -> None:
    """N1: the same again, an invented name, and another's: the constant answer of who is not known, and the body is not read."""
    asker = joined(road.world, tmp_path / "new")
    name, answer = asker.sent[0]
    with Taker(road.world.pin) as taker:
        assert code_of(lambda: taker.answer(name, answer)) == "request_unsigned"
        assert code_of(lambda: taker.answer("0" * 32, answer)) == "request_unsigned"
        challenge = taker.begin(HandoverRequest(key=SigningKey.generate().public.text))
        assert code_of(lambda: taker.answer(challenge.handover, answer)) == "handover_refused"
    context = pinned_context(road.world.pin)
    connection = http.client.HTTPSConnection("127.0.0.1", road.world.port, context=context, timeout=20)
    connection.putrequest("POST", f"/v1/handovers/{'0' * 32}/answer")
    connection.putheader("content-length", str(30 * 2**20))
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


def test_d7_attempts_are_bounded(road: Led, monkeypatch: pytest.MonkeyPatch) -> None:
    """D7: a few at once from an address, and a few in a while; others' are not in the way of one that was begun."""
    with Taker(road.world.pin) as taker:
        request = HandoverRequest(key=SigningKey.generate().public.text)
        for _ in range(4):
            taker.begin(request)
        assert code_of(lambda: taker.begin(request)) == "rate_limited"
        monkeypatch.setattr(limits, "HANDOVER", limits.Rate(0.001, 1))
        assert code_of(lambda: taker.begin(request)) == "rate_limited"


def test_strangers_do_not_fill_the_ledger(road: Led, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many attempts it tells of some."""
    monkeypatch.setattr(limits, "HANDOVER_TOLD", limits.Rate(0.0001, 2))
    road.next(NOBODY)
    for number in range(4):
        assert code_of(lambda n=number: joined(road.world, tmp_path / str(n))) == "handover_refused"
    assert len(refusals(road)) == 2


def test_s3_the_ledger_says_what_is_in_force(road: Led, tmp_path: Path) -> None:
    """S3: a row that somebody changed while the manager stood still changes nothing; an entry that somebody changed stops it."""
    road.next(NOBODY)
    first = str(road.agreement.metadata.predecessor)
    edit(road.world, "UPDATE agreements SET state = 'superseded' WHERE digest = ?", road.agreement.digest)
    edit(road.world, "UPDATE agreements SET state = 'in_force' WHERE digest = ?", first)
    assert code_of(lambda: joined(road.world, tmp_path / "a")) == "handover_refused"
    edit(road.world, "UPDATE agreements SET state = 'in_force' WHERE digest = ?", road.agreement.digest)
    edit(road.world, "UPDATE agreements SET state = 'superseded' WHERE digest = ?", first)
    where = "json_extract(entry, '$.type') = 'in-force' AND agreement = ?"
    edit(
        road.world,
        f"UPDATE entries SET entry = replace(entry, 'in-force', 'in-farce') WHERE {where}",
        road.agreement.digest,
    )
    assert code_of(lambda: joined(road.world, tmp_path / "b")) == "state_damaged"
    edit(
        road.world,
        "UPDATE entries SET entry = replace(entry, 'in-farce', 'in-force') WHERE agreement = ?",
        road.agreement.digest,
    )


def edit(world: World, sql: str, value: str) -> None:
    world.stop()
    with sqlite3.connect(world.folder / "manager.sqlite") as connection:
        assert connection.execute(sql, (value,)).rowcount
    connection.close()
    world.start()


def test_a_key_in_a_tpm_does_not_leave_without_a_counter(
    road: Led, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old copy of the store, from before an agreement was in force, would hand it to whomever the operator likes."""
    server = road.world.server
    assert server is not None
    monkeypatch.setattr(server.services.keys, "kept", Kept("tpm", (0, 2, 4, 7)))
    assert code_of(lambda: joined(road.world, tmp_path / "new")) == "handover_closed"


def test_a_root_key_that_is_not_the_managers_is_not_taken(
    road: Led, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes must be the key of the very manager whose evidence was judged."""
    server = road.world.server
    assert server is not None
    other = Keys(b"o" * 32)
    monkeypatch.setattr(server.services.keys, "hand_over", lambda key, info: other.hand_over(key, info))
    assert code_of(lambda: joined(road.world, tmp_path / "new")) == "unseal_failed"
    assert not (tmp_path / "new" / "root.json").exists()


def test_an_agreement_that_comes_into_force_meanwhile(
    road: Led, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the evidence is judged, and while witnesses are waited for: it must admit the machine too, so it is asked again."""
    real = admission.judge_all

    def slowly(*arguments: Any) -> Any:
        road.other("while-judging", NOBODY)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(admission, "judge_all", slowly)
        assert code_of(lambda: joined(road.world, tmp_path / "a")) == "handover_refused"
    assert not [entry for entry in entries(road) if entry["type"] == "handover"]


def test_an_agreement_that_comes_into_force_while_witnesses_are_waited_for(
    road: Led, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is there, the answer is not."""

    async def slowly(*arguments: Any, **how: Any) -> None:
        await asyncio.to_thread(road.other, "while-waiting", NOBODY)

    server = road.world.server
    assert server is not None
    with monkeypatch.context() as patch:
        patch.setattr(server.services.witnessed, "demand", slowly)
        assert code_of(lambda: joined(road.world, tmp_path / "b")) == "handover_refused"
    assert [entry for entry in entries(road) if entry["type"] == "handover"]


def test_a_long_ledger_is_read_in_parts(road: Led, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same root, whatever the parts."""
    monkeypatch.setattr(lines, "BATCH", 3)
    joined(road.world, tmp_path / "new")


# witnesses


@pytest.fixture
def watched(own_world: World, tmp_path: Path) -> Watched:
    return Watched(own_world, tmp_path / "road")


def test_no_quorum_no_key(watched: Watched, tmp_path: Path) -> None:
    """The entry must be seen by the agreement's witnesses before the answer leaves."""
    assert code_of(lambda: joined(watched.world, tmp_path / "a")) == "witnesses_unreachable"
    assert not (tmp_path / "a" / "root.json").exists()
    with watched.witnessing("hospital"):
        joined(watched.world, tmp_path / "b")


def test_a_damaged_joined_folder_says_so(tmp_path: Path) -> None:
    """What is not what `join` wrote is not restored into."""
    for text in (
        "{}",
        "[]",
        "",
        json.dumps({"format": "perunml/joined-v1", "identity": 3, "device": {}, "counter": ""}),
    ):
        (tmp_path / "joined.json").write_text(text)
        assert code_of(lambda: restore(tmp_path / "none", tmp_path)) == "state_damaged"


def test_n4_an_attempt_ends(tmp_path: Path) -> None:
    """N4: one answer is let in, in time; another one beside it is not, nor one that comes late; a place is free again afterwards."""
    now = [0.0]
    held = Handovers(lambda: now[0])
    until = now[0] + HANDOVER_TTL
    one = held.begin(Handover("a", b"n" * 32, Machine("", simulated=False), b"", until))
    assert held.let_in(one)
    assert not held.let_in(one)
    assert held.take(one).address == "a"
    assert code_of(lambda: held.take(one)) == "nonce_expired"
    late = held.begin(Handover("a", b"n" * 32, Machine("", simulated=False), b"", until))
    now[0] = until
    assert not held.let_in(late)
    for _ in range(4):
        held.begin(Handover("a", b"n" * 32, Machine("", simulated=False), b"", until + HANDOVER_TTL))
    assert len(held) == 4
    assert code_of(lambda: held.check_room("a")) == "rate_limited"
    held.check_room("b")
