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
from manager.road import push, seal
from manager.test_audit import Altered, exported
from manager.test_tees import RULES, ChipSource, TeeWorld
from manager.test_witnesses import Watched, impatient, refusal
from manager.world import PASSPHRASE, PROFILE, World, cached_keys, code_of
from perunml.api.handover import HandoverAnswer, HandoverChallenge, HandoverRequest
from perunml.api.ledger import EntryList
from perunml.api.pin import pinned_context
from perunml.api.trust import Origin, RootCustody, manager_binding
from perunml.attesters.tee import TeeAttester
from perunml.client.audit_verify import verify_export
from perunml.client.handover import Taker
from perunml.client.trust import trust
from perunml.manager import admission, limits, lines, setup
from perunml.manager.backup import backup, restore
from perunml.manager.custody import Kept
from perunml.manager.custody_tee import TeeCustody
from perunml.manager.device import Device
from perunml.manager.keys import Keys
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import PublicKey, SigningKey

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
    from perunml.agreements.document import agreement_from_json

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


# the audit


@pytest.fixture(scope="module")
def handed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Led:
    """Two agreements, and a key that was handed over under both."""
    road = Led(world, tmp_path_factory.mktemp("road"))
    road.other("beside", {"profile": "simulated"})
    joined(world, tmp_path_factory.mktemp("joined"))
    return road


def altered(road: Led, folder: Path, change: Any) -> str:
    key = cached_keys(road.world.folder).identity
    made = Altered.of(exported(road, "hospital", folder), key)
    change(made, [item for item in made.entries if item["entry"]["type"] == "handover"])
    exc = refusal(lambda: verify_export(made.write(folder / "altered.zip"), PublicKey(road.world.pin.identity)))
    assert exc.code == "history_inconsistent"
    return exc.reasons[0].message


def test_the_audit_accepts_it(handed: Led, tmp_path: Path) -> None:
    """Nothing is left to believe."""
    report = verify_export(exported(handed, "hospital", tmp_path), PublicKey(handed.world.pin.identity))
    assert report.unchecked == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [("profile", "measured"), ("imitates", "measured"), ("judged_by", "sha256:" + "0" * 64), ("simulated", False)],
)
def test_the_audit_finds_a_machine_that_was_not_named(handed: Led, tmp_path: Path, field: str, value: Any) -> None:
    """What it proved is held against the version that was in force then."""

    def change(made: Altered, found: list[dict[str, Any]]) -> None:
        found[0]["entry"]["body"]["verdict"][field] = value

    assert "handed to what this version does not name" in altered(handed, tmp_path, change)


def test_the_audit_finds_an_agreement_that_was_not_asked(handed: Led, tmp_path: Path) -> None:
    """One entry is made to be of another attempt: then each lacks an agreement."""

    def change(made: Altered, found: list[dict[str, Any]]) -> None:
        found[0]["entry"]["body"]["handover"] = "sha256:" + "0" * 64

    assert "did not admit who got the root key" in altered(handed, tmp_path, change)


def test_the_audit_finds_a_version_that_was_not_in_force(handed: Led, tmp_path: Path) -> None:
    """Entered before everybody had approved."""

    def change(made: Altered, found: list[dict[str, Any]]) -> None:
        place = next(i for i, item in enumerate(made.entries) if item["entry"]["type"] == "in-force")
        where = made.entries.index(found[0])
        one, other = made.entries[place], made.entries[where]
        one["entry"], other["entry"] = (
            {**other["entry"], "time": one["entry"]["time"]},
            {**one["entry"], "time": other["entry"]["time"]},
        )

    assert "a version that was not in force" in altered(handed, tmp_path, change)


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


# a TEE


@pytest.fixture
def tee(tmp_path: Path) -> Any:
    """A manager that was told of a development root of TEEs; its agreement admits one measurement beside what is simulated."""
    world = TeeWorld(tmp_path)
    led = {"profile": "simulated", "imitates": "tee", "snp": RULES}
    yield Led(world, tmp_path / "road", led)
    audited_by_all(world)
    world.close()


def test_a_manager_in_a_tee_gets_it(tee: Led, tmp_path: Path) -> None:
    """No name, no key, no credential: the report says it all, and the ledger has its chip."""
    custody = TeeCustody("snp", lambda: b"k" * 32)
    joined(tee.world, tmp_path / "new", TeeAttester(ChipSource(1)), custody=custody, device=Device("snp"))
    body = next(entry["body"] for entry in entries(tee) if entry["type"] == "handover")
    assert body["machine"].startswith("chip:sha256:")
    assert (body["verdict"]["profile"], body["verdict"]["imitates"]) == ("simulated", "tee")
    assert body["custody"] == {"kind": "tee", "pcrs": []}
    root, kept = custody.open((tmp_path / "new" / "root.json").read_bytes())
    assert Keys(root).identity.public.text == tee.world.pin.identity
    assert kept == Kept("tee")


def test_t2_another_measurement_does_not(tee: Led, tmp_path: Path) -> None:
    """T2: nor a bare key, which shows nothing of what the rules ask for."""
    source = ChipSource(2)
    source.told["measurement"] = b"\x22" * 48
    custody = TeeCustody("snp", lambda: b"k" * 32)
    other = TeeAttester(source)
    assert (
        code_of(lambda: joined(tee.world, tmp_path / "a", other, custody=custody, device=Device("snp")))
        == "handover_refused"
    )
    assert code_of(lambda: joined(tee.world, tmp_path / "b")) == "handover_refused"
    told = [{reason["code"] for reason in one["reasons"]} for one in refusals(tee)]
    assert len(told) == 2
    assert "part_missing" in told[1]


def test_where_a_key_came_from_is_kept_and_judged(tmp_path: Path) -> None:
    """In a TEE's or TPM's keeping, bound to the seal: altered or left off, it does not open."""
    before = Origin(
        profile="tee", imitates="", judged_by="sha256:" + "1" * 64, identities=["chip:x"], custody="tee", pcrs=[]
    )
    custody = TeeCustody("snp", lambda: b"k" * 32)
    data = custody.seal(b"r" * 32, [before])
    assert custody.open(data) == (b"r" * 32, Kept("tee", (), (before,)))
    document = json.loads(data)
    for change in ({}, {"origin": []}, {"origin": [{**document["origin"][0], "profile": "measured"}]}, {"origin": 3}):
        changed = {**{name: value for name, value in document.items() if name != "origin"}, **change}
        assert code_of(lambda d=changed: custody.open(json.dumps(d).encode())) == "custody_elsewhere"
