"""Attacks on the recovery of outputs' keys: to have it without the quorum, to keep the quorum from it, to stop the manager."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from manager.audits import audited_by_all
from manager.test_recovery import HOLDERS, Shared, after, lost, other
from manager.world import World, cached_keys, code_of
from perunml.agreements.approvals import approval
from perunml.agreements.document import agreement_from_json
from perunml.agreements.recovery import (
    KIND,
    Holder,
    OutputShares,
    given,
    given_info,
    held_info,
    key_check,
    share_digest,
)
from perunml.api.agreements import AgreementView, ApproveAgreement
from perunml.api.recovery import ClaimOutput, GiveShare, KeptShares, RecoveryView
from perunml.api.runs import OutputDelivery
from perunml.client import outputs, recovery
from perunml.client.why import why
from perunml.ledger.receipts import open_receipt, sign_receipt
from perunml.manager.adopt import adopt
from perunml.manager.backup import backup
from perunml.wire.dsse import signed
from perunml.wire.hpke import HpkePrivateKey, HpkePublicKey
from perunml.wire.identity import PublicKey, SigningKey

__all__ = ["lost", "other"]

JUNK = bytes(range(32))


@dataclass
class Squatter:
    """One party, which agrees with itself that a key of its own was a lost manager's."""

    road: Shared
    by: str
    genuine: KeptShares

    def __post_init__(self) -> None:
        self.manager = SigningKey.generate()
        key, receive = self.road.keys[self.by], self.road.receiving[self.by]
        made = self.road.document()
        made["metadata"] = {"name": "mine-alone"}
        made["parties"] = {"solo": {"keys": {"main": key.public.text}, "receive": receive.public.text}}
        for asset in made["assets"].values():
            asset["owner"] = "solo"
        for job in made["jobs"].values():
            job["operator"] = "solo"
        made["jobs"]["train"]["outputs"]["model"]["to"] = "solo"
        made["jobs"]["serve"]["clients"] = ["solo"]
        made["recovery"] = {"managers": [self.manager.public.text]}
        self.agreement = agreement_from_json(made)
        self.road.propose(self.agreement, self.by)
        self.party = self.road.party[self.by]
        digest = self.agreement.digest
        body = approval(self.agreement, "solo", self.agreement.ends)
        message = ApproveAgreement(approval=signed("Approval", body, key))
        view = self.party.call("POST", f"/v1/agreements/{digest}/approvals", AgreementView, message)
        assert view.state == "in_force"

    def take(self, run: str = "", secret: bytes = JUNK, entry: int = 1, **changes: Any) -> RecoveryView:
        """Claim the asset with a document of its own making, and give the only share."""
        true = self.genuine.shares.unverified(KIND)
        asset, order = self.genuine.manifest.digest, (1, entry)
        run = run or str(true["run"])
        holder = Holder(1, share_digest(secret, asset, "solo", order), b"")
        shares = OutputShares(
            self.manager.public.text, self.agreement.digest, run, "train", "model", asset, str(true["signer"]), *order, 1,
            key_check(secret, asset), {"solo": holder},
        )  # fmt: skip
        shares = replace(shares, **changes)
        envelope = signed(KIND, shares.body(), self.manager)
        shares = replace(shares, digest=envelope.digest)
        lost_manager = str(true["manager"])
        receipt = open_receipt(self.genuine.receipt, PublicKey(lost_manager))
        forged = sign_receipt(replace(receipt, manager=self.manager.public.text, run=run), self.manager)
        kept = KeptShares(shares=envelope, receipt=forged, manifest=self.genuine.manifest)
        self.party.call(
            "POST", "/v1/recovery/outputs", RecoveryView, ClaimOutput(agreement=self.agreement.digest, kept=kept)
        )
        sealed = HpkePublicKey(self.party.pin.intake).seal(secret, given_info(self.agreement, "solo", shares))
        body = given(self.agreement, "solo", shares, sealed)
        message = GiveShare(share=signed("OutputShare", body, self.road.keys[self.by]))
        return self.party.call("POST", "/v1/recovery/shares", RecoveryView, message)

    def pull(self) -> bytes:
        """What the manager seals to the squatter as the output's key."""
        asset = self.genuine.manifest.digest
        made = self.party.call("GET", f"/v1/outputs/{asset}/delivery", OutputDelivery)
        info = outputs._info(self.party, made, asset)
        return self.road.receiving[self.by].open(made.sealed_key, info)


def recovered(lost: Shared, other: World, *, before: bool, run: str = "") -> tuple[Shared, Squatter]:
    """Two holders recover; a third one squats before or after."""
    for name in HOLDERS:
        lost.keep(name)
    road = after(lost, other)
    squatter = Squatter(road, "clinic", road.kept("clinic"))
    if before:
        assert squatter.take(run).recovered
    road.give("hospital")
    assert road.give("startup").recovered
    if not before:
        assert squatter.take(run).recovered
    return road, squatter


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("run", ["", "cd" * 16])
def test_s6_who_says_that_he_was_the_lost_manager_has_his_own_bytes_and_no_more(
    lost: Shared, other: World, before: bool, run: str
) -> None:
    """S6: one holder has a manifest, and an agreement with itself. What the quorum recovers is neither his, nor hidden from it by what he brought."""
    road, squatter = recovered(lost, other, before=before, run=run)
    asset, mine = squatter.genuine.manifest.digest, list[bytes]()
    said = code_of(lambda: mine.append(squatter.pull()))
    assert (said, mine) in (("", [JUNK]), ("recipient_not_agreed", []))
    delivery = road.delivery(asset)
    key = road.receiving["startup"].open(delivery.sealed_key, outputs._info(road.party["startup"], delivery, asset))
    manager = cached_keys(lost.world.folder)
    assert key == manager.output_key(road.shares("clinic").run, "model") != JUNK


def test_nobody_overwrites_the_key_of_an_output_that_was_made_here(lost: Shared) -> None:
    """The manager is not lost at all; a party says that it was, and that it was another."""
    lost.keep("clinic")
    squatter = Squatter(lost, "clinic", lost.kept("clinic"))
    assert squatter.take("cd" * 16).recovered
    asset = squatter.genuine.manifest.digest
    delivery = lost.delivery(asset)
    key = lost.receiving["startup"].open(delivery.sealed_key, outputs._info(lost.party["startup"], delivery, asset))
    assert key == cached_keys(lost.world.folder).output_key(lost.shares("clinic").run, "model")


def test_nobody_makes_the_shares_of_others_stale(lost: Shared) -> None:
    """A stranger who was handed a manifest splits his own bytes under its name, again and again."""
    (kept,) = lost.keep("clinic")
    lost.keys["stranger"], lost.receiving["stranger"] = SigningKey.generate(), HpkePrivateKey.generate()
    lost.party["stranger"] = lost.world.party(lost.keys["stranger"])
    squatter = Squatter(lost, "stranger", lost.kept("clinic"))
    assert squatter.take("cd" * 16).recovered
    made = squatter.party.call("GET", f"/v1/outputs/{kept.shares.asset}/shares", KeptShares)
    assert set(made.shares.unverified(KIND)["holders"]) == {"solo"}
    (again,) = lost.keep("clinic")
    assert (again.fresh, again.shares.digest) == (False, kept.shares.digest)


def test_a_run_that_took_the_name_of_a_lost_one_keeps_no_output_from_its_owners(
    lost: Shared, other: World, tmp_path: Path
) -> None:
    """Whoever submits a run chooses its id."""
    for name in HOLDERS:
        lost.keep(name)
    road = after(lost, other)
    run = road.shares("clinic").run
    assert road.submit(id=run).run == run
    road.give("hospital")
    assert road.give("startup").recovered
    assert road.delivery(road.shares("clinic").asset).run != run


def test_shares_given_before_count_no_more_once_the_manager_is_not_named(lost: Shared, other: World) -> None:
    """The parties take the lost manager out of the agreement: its key was stolen, say."""
    for name in HOLDERS:
        lost.keep(name)
    road = after(lost, other)
    assert road.give("hospital").given == ["hospital"]
    share = recovery._share(road.identity("startup"), road.shares("startup"), "startup")
    document = {**road.document(), "recovery": {"at_least": 2}}
    document["metadata"] = {"name": "scans-2027", "version": 2, "predecessor": road.agreement.digest}
    road.agreement = agreement_from_json(document)
    road.in_force(road.agreement)
    assert code_of(lambda: road.hand("startup", share)) == "share_mismatch"


def test_shares_of_no_key_do_not_stop_the_manager(lost: Shared, other: World) -> None:
    """Shares of no bytes, of too few, numbers beyond the field, jobs that nobody agreed on: refused as ever."""
    lost.keep("clinic")
    road = after(lost, other)
    squatter = Squatter(road, "clinic", road.kept("clinic"))
    for entry, secret in enumerate((b"", bytes(31), bytes(33)), 1):
        assert code_of(lambda entry=entry, secret=secret: squatter.take(secret=secret, entry=entry)) == "share_wrong"
    crowd = {f"p{n}": Holder(n, "sha256:" + "0" * 64, b"") for n in range(1, 256)}
    asset = squatter.genuine.manifest.digest
    crowd["solo"] = Holder(256, share_digest(JUNK, asset, "solo", (1, 8)), b"")
    assert code_of(lambda: squatter.take(holders=crowd, entry=8)) == "malformed"
    assert code_of(lambda: squatter.take(run="ef" * 16, job="nothing", entry=9)) == "share_mismatch"


def test_another_manager_takes_no_kept_share_away(lost: Shared, other: World) -> None:
    """A pinned manager that says of the same asset that it split the key later."""
    (kept,) = lost.keep("clinic")
    stranger = SigningKey.generate()
    before = kept.file.read_bytes()
    true = lost.kept("clinic")
    holder = Holder(1, share_digest(JUNK, kept.shares.asset, "clinic", (9, 9)), b"")
    info = held_info(stranger.public.text, kept.shares.asset, "clinic", (9, 9))
    holder = replace(holder, sealed=lost.receiving["clinic"].public.seal(JUNK, info))
    lying = replace(kept.shares, manager=stranger.public.text, epoch=9, entry=9, at_least=1, holders={"clinic": holder})
    sent = true.model_copy(update={"shares": signed(KIND, lying.body(), stranger)})

    class Elsewhere:
        """A connection to the other manager."""

        pin = SimpleNamespace(identity=stranger.public.text)

    made = recovery._keep(
        Elsewhere(),
        lost.home("clinic"),
        lost.identity("clinic"),
        sent,
        kept.shares.asset,
        "clinic",  # type: ignore[arg-type] # its pin alone is read
    )
    assert made.fresh
    assert made.file != kept.file
    assert kept.file.read_bytes() == before


def test_a_second_manager_that_is_lost_hands_on_what_it_had_taken_over(
    lost: Shared, other: World, tmp_path: Path
) -> None:
    """By its own shares, under the receipt of the first one: an agreement names them both, and not the second one alone."""
    for name in HOLDERS:
        lost.keep(name)
    road = after(lost, other)
    key = cached_keys(lost.world.folder).output_key(road.shares("clinic").run, "model")
    road.give("hospital")
    assert road.give("startup").recovered
    for name in HOLDERS:
        assert [kept.fresh for kept in road.keep(name)] == [True]
        assert len(list(road.home(name).recovery.glob("*.json"))) == 2
    adopt(other.folder, lost.folder / "backup")
    backup(other.folder, tmp_path / "backup")
    other.stop()
    (tmp_path / "third").mkdir()
    third = World(tmp_path / "third")
    try:
        last = Third(third, tmp_path / "last", lost=lost, second=other.pin.identity)
        for name in ("hospital", "clinic"):
            (view,) = recovery.give(last.party[name], last.home(name), last.identity(name), last.agreement.digest)
        assert view.recovered
        assert adopt(third.folder, tmp_path / "backup").outputs
        pulled = outputs.pull(
            last.party["startup"], last.home("startup"), last.identity("startup"), view.run, "model", tmp_path / "model"
        )
        assert (tmp_path / "model" / "model.pt2").read_bytes() == b"weights"
        assert pulled.receipt.manager == lost.world.pin.identity
        delivery = last.delivery(pulled.asset)
        info = outputs._info(last.party["startup"], delivery, pulled.asset)
        assert last.receiving["startup"].open(delivery.sealed_key, info) == key
        alone = agreement_from_json(
            {**last.document(), "metadata": {"name": "alone"}, "recovery": {"managers": [other.pin.identity]}}
        )
        last.in_force(alone)
        kept = [KeptShares.decode(path.read_bytes()) for path in last.home("clinic").recovery.glob("*.json")]
        (second,) = [it for it in kept if it.shares.unverified(KIND)["manager"] == other.pin.identity]
        last.agreement = alone
        assert code_of(lambda: last.claim("clinic", second)) == "share_mismatch"
        audited_by_all(third)
    finally:
        third.close()


@dataclass
class Third(Shared):
    """At a third manager, which takes over from both."""

    second: str = ""

    def document(self) -> dict[str, Any]:
        made = super().document()
        made["recovery"]["managers"].append(self.second)
        return made


class TwoOutputs(Shared):
    """A training that puts out two things."""

    def document(self) -> dict[str, Any]:
        made = super().document()
        made["jobs"]["train"]["outputs"]["spare"] = {"to": "startup", "format": "pt2", "max_size": "1MiB"}
        return made


@pytest.mark.parametrize("squatted", [False, True])
def test_all_outputs_of_one_run_are_recovered(own_world: World, other: World, tmp_path: Path, squatted: bool) -> None:
    """Not the first one alone; and together, where another run took their run's name."""
    lost = TwoOutputs(own_world, tmp_path / "lost")
    run, session, delivery = lost.started()
    made = {name: lost.output(session, delivery, name.encode(), name).digest for name in ("model", "spare")}
    session.finish(made)
    for name in HOLDERS:
        assert len(lost.keep(name)) == 2
    backup(own_world.folder, tmp_path / "backup")
    own_world.stop()
    road = TwoOutputs(other, tmp_path / "after", lost=lost)
    if squatted:
        assert road.submit(id=run).run == run
    for name in ("clinic", "hospital"):
        views = recovery.give(road.party[name], road.home(name), road.identity(name), road.agreement.digest)
    assert [view.recovered for view in views] == [True, True]
    (here,) = {view.run for view in views}
    assert (here != run) == squatted
    assert why(road.party["startup"], here).run == here
    adopt(other.folder, tmp_path / "backup")
    for name in made:
        party, home, identity = road.party["startup"], road.home("startup"), road.identity("startup")
        outputs.pull(party, home, identity, here, name, tmp_path / name)
        assert (tmp_path / name / "model.pt2").read_bytes() == name.encode()
