"""Parties of one agreement who try to reach what is another's through agreements of their own making."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from manager.road import Road, push, seal
from manager.world import Host, World, code_of
from perunml.agreements.approvals import approval
from perunml.agreements.conditions import condition_change
from perunml.agreements.document import agreement_envelope, agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.api.agreements import AgreementView, ApproveAgreement, ProposeAgreement, SuspendAsset, SuspensionView
from perunml.api.conditions import ChangeCondition, ConditionList
from perunml.attesters.simulated import SimulatedAttester
from perunml.wire.dsse import signed
from perunml.wire.errors import PerunError
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey


class Thief:
    """The startup: it knows the digest of the hospital's scans, and writes an agreement in which they belong to a party that
    has the hospital's key by name and the thief's key on its board."""

    def __init__(self, road: Road, folder: Path) -> None:
        self.road = road
        self.key = SigningKey.generate()
        self.party = road.world.party(self.key)
        self.host: Host = road.world.enrol(road.keys["startup"], "thief", SimulatedAttester(folder))

    def document(self, name: str) -> dict[str, Any]:
        document = self.road.document()
        document["metadata"] = {"name": name}
        document["parties"] = {
            "puppet": {
                "keys": {"owner": self.road.keys["hospital"].public.text, "thief": self.key.public.text},
                "approve": "thief",
            },
            "startup": {
                "keys": {"main": self.road.keys["startup"].public.text},
                "receive": HpkePrivateKey.generate().public.text,
            },
        }
        document["assets"]["scans"]["owner"] = "puppet"
        document["hosts"] = {"trainer": {"profile": "simulated"}}
        document["jobs"].pop("serve")
        document["jobs"]["train"]["operator"] = "startup"
        document["jobs"]["train"]["outputs"]["model"].pop("use")
        document["jobs"]["train"]["outputs"]["model"].pop("release", None)
        return document

    def propose(self, agreement: Agreement) -> Agreement:
        party, key = self.road.party["startup"], self.road.keys["startup"]
        envelope = agreement_envelope(agreement)
        envelope = envelope.with_signature(key.public, key.sign(envelope.signing_bytes()))
        party.call("POST", "/v1/agreements", AgreementView, ProposeAgreement(agreement=envelope))
        return agreement

    def in_force(self, name: str) -> Agreement:
        return self.approved(agreement_from_json(self.document(name)))

    def approved(self, agreement: Agreement) -> Agreement:
        self.propose(agreement)
        path = f"/v1/agreements/{quote(agreement.digest)}/approvals"
        for of, key in (("puppet", self.key), ("startup", self.road.keys["startup"])):
            message = ApproveAgreement(approval=signed("Approval", approval(agreement, of, agreement.ends), key))
            view = self.road.party["startup"].call("POST", path, AgreementView, message)
        assert view.state == "in_force"
        return agreement

    def told(self, agreement: Agreement, job: str = "train") -> list[dict[str, Any]]:
        """What a release under an agreement of the thief's own is refused with, the asset's digest left out."""
        parameters = {"epochs": 2} if job == "train" else {}
        run = self.road.submit(job, agreement=agreement.digest, parameters=parameters).run
        session = self.road.session(run, self.host)
        with pytest.raises(PerunError) as caught:
            session.release(self.host.link, agreement=agreement.digest)
        reasons = [reason.as_json() for reason in caught.value.reasons]
        assert reasons == self.road.run(run).reasons
        digests = (agreement.digest, agreement.assets["scans"].digest)
        return [{k: v if v not in digests else "it" for k, v in reason.items() if k != "command"} for reason in reasons]

    def change(self, action: str) -> SuspensionView:
        digest, party = self.road.scans.digest, self.party
        state = party.call("GET", f"/v1/suspensions?subject={digest}", SuspensionView)
        body = {
            "manager": self.road.world.pin.identity,
            "subject": digest,
            "party": "puppet",
            "action": action,
            "previous": state.digest,
        }
        message = SuspendAsset(change=signed("Suspension", body, self.key))
        return party.call("POST", "/v1/suspensions", SuspensionView, message)


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    return Road(world, tmp_path_factory.mktemp("road"))


@pytest.fixture(scope="module")
def thief(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Thief:
    return Thief(road, tmp_path_factory.mktemp("thief"))


def test_data_whose_owner_is_a_name_in_the_thief_s_own_agreement(road: Road, thief: Thief) -> None:
    """Naming the sealing key in a party does not make the party the owner: that key has to have agreed."""
    agreement = thief.in_force("heist")
    run = road.submit(agreement=agreement.digest).run
    session = road.session(run, thief.host)
    assert code_of(lambda: session.release(thief.host.link, agreement=agreement.digest)) == "owner_not_agreed"


def test_suspensions_by_boards_that_the_owner_never_agreed_to(road: Road, thief: Thief) -> None:
    """P1, P2: neither a proposed agreement nor one in force without the owner's word stops or frees its asset."""
    thief.propose(agreement_from_json(thief.document("only-proposed")))
    assert code_of(lambda: thief.change("suspend")) == "not_entitled"
    thief.in_force("in-force")
    assert code_of(lambda: thief.change("suspend")) == "not_entitled"
    road.suspend("scans", "hospital")
    try:
        assert code_of(lambda: thief.change("lift")) == "not_entitled"
        assert code_of(road.submit) == "asset_suspended"
    finally:
        road.suspend("scans", "hospital", lift=True)


def test_hosts_of_an_operator_who_never_agreed(road: Road, thief: Thief) -> None:
    """P15: an agreement that names another's enrolling key is no work for that operator's hosts."""
    document = thief.document("borrowed-host")
    del document["assets"]["scans"], document["parties"]["puppet"]["keys"]["owner"]
    document["jobs"]["train"]["inputs"] = {}
    document["parties"]["puppet"]["keys"]["operator"] = road.keys["cloud"].public.text
    document["jobs"]["train"]["operator"] = "puppet"
    agreement = thief.approved(agreement_from_json(document))
    run = road.submit(agreement=agreement.digest).run
    assert run not in [item.run for item in road.server.link.work().items]
    session = road.session(run, road.server)
    assert code_of(lambda: session.release(road.server.link, agreement=agreement.digest)) == "not_entitled"


def condition(road: Road, form: dict[str, Any] | None) -> None:
    """The hospital puts a condition on its scans, or with None drops it."""
    party, subject = road.party["hospital"], road.scans.digest
    head = party.call("GET", f"/v1/conditions?subject={subject}", ConditionList).head
    body = condition_change(road.agreement, "scans", "drop" if form is None else "add", "stop", form, head)
    message = ChangeCondition(change=signed("Condition", body, road.keys["hospital"]))
    party.call("POST", "/v1/conditions", ConditionList, message)


@pytest.mark.parametrize(("listed", "code"), [(True, "owner_not_agreed"), (False, "asset_incomplete")])
@pytest.mark.parametrize("job", ["train", "again"])
def test_p1_who_only_names_an_asset_learns_nothing_of_it(
    road: Road, thief: Thief, listed: bool, code: str, job: str
) -> None:
    """P1: with a host of its own under an agreement of its own, the thief gets one and the same answer whether the scans that it names
    are there, stopped, under a condition, or no asset at all; neither their owner's key nor a condition's digest is in it."""
    document = thief.document(f"probe-{listed}-{job}".lower())
    if not listed:
        del document["parties"]["puppet"]["keys"]["owner"]
    train = document["jobs"]["train"]
    document["jobs"]["again"] = {**train, "inputs": {"train.outputs.model": "/in/model"}, "parameters": {}}
    document["jobs"]["again"]["outputs"] = {"model": {**train["outputs"]["model"]}}
    train["outputs"]["model"]["use"] = ["again"]
    agreement = thief.approved(agreement_from_json(document))
    plain = thief.told(agreement, job)
    assert plain[0]["code"] == code
    assert road.keys["hospital"].public.text not in str(plain)
    road.suspend("scans", "hospital")
    try:
        assert thief.told(agreement, job) == plain
    finally:
        road.suspend("scans", "hospital", lift=True)
    condition(road, {"until": "2020-01-01T00:00:00Z"})
    try:
        assert thief.told(agreement, job) == plain
    finally:
        condition(road, None)
    if job == "train":
        document["metadata"] = {"name": f"nothing-{listed}".lower()}
        document["assets"]["scans"]["digest"] = "sha256:" + os.urandom(32).hex()
        assert thief.told(thief.approved(agreement_from_json(document))) == plain


def test_p1_an_asset_written_into_the_next_version_tells_nothing_at_a_release(road: Road, thief: Thief) -> None:
    """P1: a job of what the first version made from the thief's own data is refused alike, whether the scans that the second version
    puts in their place are stopped or not."""
    own = seal(thief.road.folder / "own", thief.key, "own", "dataset", {"a.csv": b"1"})
    assert push(thief.party, own).complete
    document = thief.document("swap")
    document["parties"]["puppet"]["keys"] = {"thief": thief.key.public.text}
    train = document["jobs"]["train"]
    document["jobs"]["again"] = {**train, "inputs": {"train.outputs.model": "/in/model"}, "parameters": {}}
    document["jobs"]["again"]["outputs"] = {"model": {**train["outputs"]["model"]}}
    train["outputs"]["model"]["use"] = ["again"]
    document["assets"]["scans"]["digest"] = own.digest
    first = thief.approved(agreement_from_json(document))
    run = road.submit(agreement=first.digest).run
    session = road.session(run, thief.host)
    sealed = road.output(session, session.release(thief.host.link, agreement=first.digest))
    session.finish({"model": sealed.digest})
    document["metadata"] = {"name": "swap", "version": 2, "predecessor": first.digest}
    document["assets"]["scans"]["digest"] = road.scans.digest
    second = thief.approved(agreement_from_json(document))
    plain = thief.told(second, "again")
    assert [reason["code"] for reason in plain] == ["asset_incomplete"]
    road.suspend("scans", "hospital")
    try:
        assert thief.told(second, "again") == plain
    finally:
        road.suspend("scans", "hospital", lift=True)
