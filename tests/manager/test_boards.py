"""Boards at a real manager: several keys decide, withdraw, sign elsewhere, and are replaced."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from manager.road import PARTIES, Road
from manager.world import World, code_of
from perunml.agreements.approvals import approval
from perunml.agreements.changes import suspension
from perunml.agreements.conditions import condition_change
from perunml.agreements.document import agreement_from_json
from perunml.agreements.offline import attach
from perunml.agreements.schema import Agreement
from perunml.agreements.withdrawals import withdrawal
from perunml.api.agreements import AgreementView, ApproveAgreement, SuspendAsset, SuspensionView, WithdrawApproval
from perunml.api.conditions import ChangeCondition, ConditionList
from perunml.api.ledger import EntryList
from perunml.client.rotation import rotated
from perunml.wire.dsse import Envelope, signed, unsigned
from perunml.wire.encoding import b64
from perunml.wire.identity import PublicKey, SigningKey

SEATS = ("chair", "dpo", "it")


class Board(Road):
    """The hospital decides by its chair, or by two of three."""

    def document(self) -> dict[str, Any]:
        document = super().document()
        self.seats = getattr(self, "seats", None) or {
            "chair": self.keys["hospital"],
            "dpo": SigningKey.generate(),
            "it": SigningKey.generate(),
        }
        keys = {name: key.public.text for name, key in self.seats.items()}
        document["parties"]["hospital"].update(keys=keys, approve={"at_least": 2, "of": list(SEATS)})
        return document

    def in_force(self, agreement: Agreement) -> AgreementView:
        self.propose(agreement)
        view = self.vote(agreement, "dpo")
        for name in PARTIES:
            view = self.approve(agreement, name)
        assert view.state == "in_force"
        return view

    def vote(self, agreement: Agreement, *seats: str, end: int = 0, by: str = "hospital") -> AgreementView:
        """An approval of the hospital's that these seats signed together."""
        made = unsigned("Approval", approval(agreement, "hospital", end or agreement.ends))
        return self.send(agreement, by_all(made, [self.seats[name] for name in seats]), by)

    def send(self, agreement: Agreement, envelope: Envelope, by: str = "hospital") -> AgreementView:
        path = f"/v1/agreements/{quote(agreement.digest)}/approvals"
        return self.party[by].call("POST", path, AgreementView, ApproveAgreement(approval=envelope))

    def withdraw(
        self, agreement: Agreement, key: SigningKey, *approvals: str, party: str = "hospital"
    ) -> AgreementView:
        made = signed("Withdrawal", withdrawal(agreement, party, approvals), key)
        path = f"/v1/agreements/{quote(agreement.digest)}/withdrawals"
        return self.party["startup"].call("POST", path, AgreementView, WithdrawApproval(withdrawal=made))

    def suspension_of(self, subject: str) -> SuspensionView:
        return self.party["hospital"].call("GET", f"/v1/suspensions?subject={subject}", SuspensionView)

    def line(self) -> Agreement:
        """A proposal of its own, which only the hospital has yet to agree to."""
        document = self.document()
        document["metadata"] = {"name": "line-" + os.urandom(4).hex()}
        made = agreement_from_json(document)
        self.propose(made)
        for name in PARTIES[1:]:
            self.approve(made, name)
        return made


def by_all(envelope: Envelope, keys: list[SigningKey]) -> Envelope:
    for key in keys:
        envelope = envelope.with_signature(key.public, key.sign(envelope.signing_bytes()))
    return envelope


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    return Board(world, tmp_path_factory.mktemp("boards"))


@pytest.fixture
def own(own_world: World, tmp_path: Path) -> Board:
    return Board(own_world, tmp_path / "own")


def test_two_of_three_one_by_one_or_together(road: Board) -> None:
    """Signatures gather on one document or on several; one seat twice is one."""
    first = road.line()
    assert road.vote(first, "dpo").state == "proposed"
    assert road.vote(first, "dpo", end=first.ends - 1).state == "proposed"
    assert road.vote(first, "it").state == "in_force"
    assert road.vote(road.line(), "chair", "it").state == "in_force"


def test_a_withdrawn_approval_counts_no_more_and_never_again(road: Board) -> None:
    """Sent again, by whomever, it stays withdrawn; the same key agrees anew with another approval."""
    made = road.line()
    given = signed("Approval", approval(made, "hospital", made.ends), road.seats["dpo"])
    road.send(made, given)
    view = road.withdraw(made, road.seats["dpo"], given.digest)
    assert (view.state, len(view.withdrawals)) == ("proposed", 1)
    assert road.vote(made, "it").state == "proposed"
    assert road.send(made, given, "startup").state == "proposed"
    assert road.vote(made, "dpo", end=made.ends + 1).state == "in_force"


def test_of_a_joint_approval_one_seat_is_withdrawn(road: Board) -> None:
    """What the others signed on the same document still counts."""
    made = road.line()
    early = unsigned("Approval", approval(made, "hospital", made.ends - 5))
    road.send(made, by_all(early, [road.seats["it"]]))
    road.withdraw(made, road.seats["it"], early.digest)
    assert road.send(made, by_all(early, [road.seats["it"], road.seats["dpo"]])).state == "proposed"
    assert road.vote(made, "chair").state == "in_force"


def test_nobody_takes_back_anothers_word(road: Board) -> None:
    """By another seat it takes back nothing of this one's; by another party, for another agreement, or of what is not there it is
    refused; in force there is nothing to take back."""
    made, other = road.line(), road.line()
    given = signed("Approval", approval(made, "hospital", made.ends), road.seats["dpo"])
    road.send(made, given)
    road.withdraw(made, road.seats["it"], given.digest)
    assert code_of(lambda: road.withdraw(made, road.keys["cloud"], given.digest)) == "bad_signature"
    assert code_of(lambda: road.withdraw(other, road.seats["dpo"], given.digest)) == "nothing_to_withdraw"
    body = withdrawal(other, "hospital", [given.digest])
    path = f"/v1/agreements/{quote(made.digest)}/withdrawals"
    message = WithdrawApproval(withdrawal=signed("Withdrawal", body, road.seats["dpo"]))
    assert code_of(lambda: road.party["startup"].call("POST", path, AgreementView, message)) == "approval_mismatch"
    assert road.vote(made, "chair").state == "in_force"
    assert code_of(lambda: road.withdraw(made, road.seats["dpo"], given.digest)) == "already_in_force"


def test_a_stranger_withdraws_nothing_and_learns_nothing(road: Board) -> None:
    """Of an agreement that exists as of one that does not."""
    made, stranger = road.line(), SigningKey.generate()
    party = road.world.party(stranger)
    message = WithdrawApproval(withdrawal=signed("Withdrawal", withdrawal(made, "hospital", [made.digest]), stranger))
    for digest in (made.digest, "sha256:" + "0" * 64):
        path = f"/v1/agreements/{quote(digest)}/withdrawals"
        assert code_of(lambda path=path: party.call("POST", path, AgreementView, message)) == "not_entitled"


def test_signed_elsewhere_by_other_tools(road: Board, tmp_path: Path) -> None:
    """The message's bytes go to openssl, Ed25519 and P-384 (as DER), and its signatures come back."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed here")

    def run(*words: str | Path) -> bytes:
        return subprocess.run([openssl, *map(str, words)], check=True, capture_output=True).stdout

    keys, forms = {}, {"ed": ["ed25519"], "ec": ["EC", "-pkeyopt", "ec_paramgen_curve:P-384"]}
    for name, form in forms.items():
        run("genpkey", "-algorithm", *form, "-out", tmp_path / name)
        der = run("pkey", "-in", tmp_path / name, "-pubout", "-outform", "DER")
        keys[name] = _public(der)
    document = road.document()
    document["metadata"] = {"name": "elsewhere"}
    document["parties"]["hospital"]["keys"].update({name: key.text for name, key in keys.items()})
    document["parties"]["hospital"]["approve"] = {"all": ["ed", "ec"]}
    made = agreement_from_json(document)
    road.propose(made)
    for name in PARTIES[1:]:
        road.approve(made, name)
    envelope = unsigned("Approval", approval(made, "hospital", made.ends))
    (tmp_path / "tosign").write_bytes(envelope.signing_bytes())
    raw = run("pkeyutl", "-sign", "-rawin", "-inkey", tmp_path / "ed", "-in", tmp_path / "tosign")
    der = run("dgst", "-sha384", "-sign", tmp_path / "ec", tmp_path / "tosign")
    assert code_of(lambda: attach(envelope, keys["ec"], raw)) == "signature_form"
    assert code_of(lambda: attach(envelope, keys["ed"], bytes(64))) == "bad_signature"
    one = attach(envelope, keys["ed"], raw)
    assert road.send(made, one, "startup").missing.keys() == {"hospital"}
    assert road.send(made, attach(one, keys["ec"], der), "startup").state == "in_force"


def _public(der: bytes) -> PublicKey:
    key = load_der_public_key(der)
    if isinstance(key, EllipticCurvePublicKey):
        return PublicKey("p384:" + b64(key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)))
    assert isinstance(key, Ed25519PublicKey)
    return PublicKey("ed25519:" + b64(key.public_bytes_raw()))


def test_a_seat_is_replaced_by_the_boards_own_rule(own: Board) -> None:
    """The old board and the new one, nobody else; one seat's thief does not; all goes on with what the old key sealed: releases,
    outputs, suspensions and conditions; the old key is nobody's."""
    _, sealed, _ = own.trained()
    old, fresh = own.seats["chair"], SigningKey.generate()
    made = rotated(own.agreement, "hospital", "chair", fresh.public.text)
    own.propose(made)
    assert own.vote(made, "chair").state == "proposed"  # one of the old board's two
    view = own.vote(made, "it")
    assert (view.state, set(view.missing)) == ("proposed", {"hospital"})  # the new board has one of two
    own.seats = {**own.seats, "chair": fresh}
    assert own.vote(made, "chair").state == "in_force"
    own.agreement = made
    former, own.party["hospital"] = own.world.party(old), own.world.party(fresh)
    own.keys["hospital"] = fresh
    own.started()
    assert own.delivery(sealed.digest).party == "startup"
    assert code_of(lambda: former.call("GET", f"/v1/agreements/{quote(made.digest)}", AgreementView)) == "not_entitled"
    subject = own.agreement.assets["scans"].digest
    where = f"/v1/suspensions?subject={subject}"
    assert code_of(lambda: former.call("GET", where, SuspensionView)) == "not_entitled"
    by_former = SuspendAsset(change=signed("Suspension", suspension(made, "scans", "suspend", ""), old))
    assert code_of(lambda: former.call("POST", "/v1/suspensions", SuspensionView, by_former)) == "not_entitled"
    assert code_of(lambda: own.party["startup"].call("POST", "/v1/suspensions", SuspensionView, by_former)) in (
        "bad_signature",
        "not_entitled",
    )
    assert own.suspend("scans", "hospital").suspended
    assert code_of(own.submit) == "asset_suspended"


def test_what_one_key_stops_the_board_lets_go_on(own: Board) -> None:
    """A suspension and a condition by one seat; neither is lifted by one, both by two."""
    subject = own.agreement.assets["scans"].digest
    stopped = own.suspend("scans", "hospital")
    body = suspension(own.agreement, "scans", "lift", stopped.digest)
    lift = signed("Suspension", body, own.seats["dpo"])

    def change(envelope: Envelope) -> SuspensionView:
        return own.party["hospital"].call("POST", "/v1/suspensions", SuspensionView, SuspendAsset(change=envelope))

    assert code_of(lambda: change(lift)) == "not_on_board"
    assert not change(by_all(lift, [own.seats["it"]])).suspended

    def condition(envelope: Envelope) -> ConditionList:
        message = ChangeCondition(change=envelope)
        return own.party["hospital"].call("POST", "/v1/conditions", ConditionList, message)

    added = condition(
        signed("Condition", condition_change(own.agreement, "scans", "add", "few", {"runs": 0}, ""), own.seats["it"])
    )
    assert code_of(own.submit) == "owner_condition"
    drop = signed(
        "Condition", condition_change(own.agreement, "scans", "drop", "few", None, added.head), own.seats["it"]
    )
    assert code_of(lambda: condition(drop)) == "not_on_board"
    assert condition(by_all(drop, [own.seats["chair"]])).conditions == []
    assert own.submit().state == "queued"
    assert subject == stopped.subject


def test_a_name_that_went_and_came_again_is_somebody_elses(own: Board) -> None:
    """The clinic leaves with one version; another clinic comes with the next. It sees nothing of what was before it, its predecessor's
    runs least of all; a key that the same party replaced sees all of it."""
    first = own.agreement
    run = own.submit().run

    def following(change: Any) -> None:
        document = own.document()
        document["metadata"] |= {"version": own.agreement.metadata.version + 1, "predecessor": own.agreement.digest}
        change(document)
        own.agreement = agreement_from_json(document)
        own.propose(own.agreement)
        own.vote(own.agreement, "dpo")
        for name in PARTIES:
            if name in own.agreement.parties or name == "clinic":
                own.approve(own.agreement, name)

    def without(document: dict[str, Any]) -> None:
        del document["parties"]["clinic"]
        document["jobs"]["serve"]["clients"] = ["startup"]

    following(without)
    own.keys["clinic"] = SigningKey.generate()
    own.party["clinic"] = own.world.party(own.keys["clinic"])
    following(lambda document: None)
    mine, theirs = own.party["clinic"], quote(first.digest)
    assert mine.call("GET", f"/v1/agreements/{quote(own.agreement.digest)}", AgreementView).state == "in_force"
    assert code_of(lambda: mine.call("GET", f"/v1/agreements/{theirs}", AgreementView)) == "not_entitled"
    assert code_of(lambda: mine.raw("GET", f"/v1/ledger/entries?agreement={theirs}&documents=1")) == "not_entitled"
    assert code_of(lambda: own.run(run, "clinic")) == "not_entitled"
    assert own.run(run, "startup").run == run


def test_nobody_takes_an_asset_out_by_listing_its_sealers_former_key(own: Board) -> None:
    """The clinic, who can stop nothing, writes the key that the hospital replaced among its own: the hospital's scans are the hospital's all the
    same, and the clinic decides nothing about them."""
    former, fresh = own.seats["chair"], SigningKey.generate()
    made = rotated(own.agreement, "hospital", "chair", fresh.public.text)
    own.propose(made)
    own.vote(made, "chair", "it")
    own.seats = {**own.seats, "chair": fresh}
    assert own.vote(made, "chair").state == "in_force"
    own.agreement, own.keys["hospital"], own.party["hospital"] = made, fresh, own.world.party(fresh)
    document = own.document()
    document["metadata"] |= {"version": 3, "predecessor": made.digest}
    document["parties"]["clinic"]["keys"]["found"] = former.public.text
    document["parties"]["clinic"]["approve"] = "main"
    own.agreement = agreement_from_json(document)
    own.propose(own.agreement)
    assert own.approve(own.agreement, "clinic").state == "in_force"
    own.started()
    assert own.suspend("scans", "hospital").suspended
    subject = own.agreement.assets["scans"].digest
    body = suspension(own.agreement, "scans", "lift", own.suspension_of(subject).digest)
    lift = SuspendAsset(change=by_all(signed("Suspension", body, former), [own.keys["clinic"]]))
    assert code_of(lambda: own.party["clinic"].call("POST", "/v1/suspensions", SuspensionView, lift)) in (
        "bad_signature",
        "not_on_board",
    )


def test_signatures_of_nobody_add_nothing(road: Board) -> None:
    """Another party's approval again, with a stranger's signature beside it, a hundred ways: one row and one entry."""
    made = road.line()
    given = signed("Approval", approval(made, "hospital", made.ends), road.seats["dpo"])
    road.send(made, given)
    where = f"/v1/ledger/entries?agreement={quote(made.digest)}"
    before = len(road.party["startup"].call("GET", where, EntryList).entries)
    for _ in range(5):
        stranger = SigningKey.generate()
        view = road.send(made, by_all(given, [stranger]), "startup")
    assert len(view.approvals) == len(PARTIES)
    assert len(road.party["startup"].call("GET", where, EntryList).entries) == before
    assert road.send(made, by_all(given, [road.seats["it"]])).state == "in_force"


def test_an_owner_of_two_names_stops_and_lets_go(own: Board) -> None:
    """The hospital is a hospital here and a clinic there: what one of its boards stopped is stopped in both agreements, and let go by a word
    that satisfies both boards, under either name; by one board's alone it is not. An audit finds all of it in order."""
    other = own.document()
    other["metadata"] = {"name": "elsewhere"}
    home = other["parties"].pop("hospital")
    other["parties"]["ward"] = {**home, "approve": "chair"}
    other["assets"]["scans"]["owner"] = "ward"
    made = agreement_from_json(other)
    own.propose(made)
    for name in (*PARTIES[1:], "ward"):
        body = approval(made, name, made.ends)
        key = own.keys["hospital" if name == "ward" else name]
        assert own.send(made, signed("Approval", body, key), "startup").state
    first, subject = own.agreement, made.assets["scans"].digest

    def change(agreement: Agreement, action: str, *keys: SigningKey) -> str:
        body = suspension(agreement, "scans", action, own.suspension_of(subject).digest)
        message = SuspendAsset(change=by_all(unsigned("Suspension", body), list(keys)))
        return code_of(lambda: own.party["hospital"].call("POST", "/v1/suspensions", SuspensionView, message))

    chair, dpo, it = (own.seats[name] for name in SEATS)
    assert change(first, "suspend", dpo) == ""
    assert code_of(own.submit) == "asset_suspended"
    assert change(first, "lift", dpo, it) == "bad_signature"  # the other board is the chair alone, who signed nothing
    assert change(made, "lift", chair) == "not_on_board"  # and this one two of three
    assert change(made, "lift", chair, it) == ""
    own.started()
    assert change(made, "suspend", chair) == ""
    assert change(first, "lift", chair, dpo) == ""
    own.started()
