"""Shares of outputs' keys: what was trained outlives its manager, by enough of its owners and by nobody else."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from manager.audits import audited_by_all
from manager.road import Road, push, seal
from manager.test_audit import Altered, exported
from manager.test_backup import back
from manager.test_witnesses import Watched, impatient
from manager.world import World, cached_keys, code_of
from perunml.agreements.document import agreement_from_json
from perunml.agreements.recovery import KIND, OutputShares, given, given_info, open_shares
from perunml.api.recovery import ClaimOutput, GiveShare, KeptShares, RecoveryView
from perunml.client import outputs, recovery, signing
from perunml.client.audit_verify import verify_export
from perunml.client.home import Home
from perunml.client.identity import Identity
from perunml.ledger.receipts import open_receipt, sign_receipt
from perunml.manager.adopt import adopt
from perunml.manager.backup import backup
from perunml.wire.dsse import signed
from perunml.wire.errors import PerunError
from perunml.wire.hpke import HpkePrivateKey, HpkePublicKey
from perunml.wire.identity import SigningKey

__all__ = ["impatient"]

HOLDERS = ("clinic", "hospital", "startup")


@dataclass
class Shared(Road):
    """Three owners, any two of whom give an output's key again. `lost` is the road of a manager that is gone."""

    lost: Shared | None = None
    least: int | None = 2

    def document(self) -> dict[str, Any]:
        if not hasattr(self, "atlas"):
            self._bring()
        made = super().document()
        made["assets"]["atlas"] = {"kind": "dataset", "owner": "clinic", "digest": self.atlas.digest}
        made["jobs"]["train"]["inputs"]["atlas"] = "/in/atlas"
        made["recovery"] = {}
        if self.least is not None:
            made["recovery"]["at_least"] = self.least
        if self.lost is not None:
            made["recovery"]["managers"] = [self.lost.world.pin.identity]
        if not made["recovery"]:
            del made["recovery"]
        return made

    def _bring(self) -> None:
        """The third owner's asset; at another manager all owners' own, from before."""
        if self.lost is None:
            self.atlas = seal(self.folder / "atlas", self.keys["clinic"], "atlas", "dataset", {"a.csv": b"3,4\n"})
        else:
            for name in HOLDERS:
                self.keys[name], self.receiving[name] = self.lost.keys[name], self.lost.receiving[name]
                self.party[name] = self.world.party(self.keys[name])
            self.scans, self.unet, self.atlas = self.lost.scans, self.lost.unet, self.lost.atlas
            push(self.party["hospital"], self.scans)
            push(self.party["startup"], self.unet)
        push(self.party["clinic"], self.atlas)

    def home(self, name: str) -> Home:
        made = Home((self.lost or self).folder / "homes" / name)
        made.create()
        return made

    def identity(self, name: str) -> Identity:
        return Identity(name, self.keys[name], self.receiving[name])

    def keep(self, name: str) -> list[recovery.KeptShare]:
        return recovery.keep(self.party[name], self.home(name), self.identity(name))

    def give(self, name: str) -> RecoveryView:
        (view,) = recovery.give(self.party[name], self.home(name), self.identity(name), self.agreement.digest)
        return view

    def kept(self, name: str) -> KeptShares:
        manager = (self.lost or self).world.pin.identity
        found = [KeptShares.decode(path.read_bytes()) for path in self.home(name).recovery.glob("*.json")]
        (kept,) = [kept for kept in found if kept.shares.unverified(KIND)["manager"] == manager]
        return kept

    def shares(self, name: str) -> OutputShares:
        return open_shares(self.kept(name).shares, [(self.lost or self).world.pin.identity])

    def claim(self, name: str, kept: KeptShares | None = None) -> RecoveryView:
        message = ClaimOutput(agreement=self.agreement.digest, kept=kept or self.kept(name))
        return self.party[name].call("POST", "/v1/recovery/outputs", RecoveryView, message)

    def hand(self, name: str, share: bytes, by: str = "", shares: OutputShares | None = None) -> RecoveryView:
        """Any bytes, as the share of a party, signed by another's key if told."""
        shares = shares or self.shares(name)
        sealed = HpkePublicKey(self.world.pin.intake).seal(share, given_info(self.agreement, name, shares))
        body = given(self.agreement, name, shares, sealed)
        message = GiveShare(share=signed("OutputShare", body, self.keys[by or name]))
        return self.party[by or name].call("POST", "/v1/recovery/shares", RecoveryView, message)

    def view(self, by: str = "clinic") -> RecoveryView:
        (found,) = recovery.listed(self.party[by], self.agreement.digest)
        return found


@pytest.fixture
def lost(own_world: World, tmp_path: Path) -> Shared:
    """Trained and backed up, its shares kept; the manager is still there."""
    road = Shared(own_world, tmp_path / "lost", limits={"runs": 5})
    road.trained()
    return road


@pytest.fixture
def other(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "other").mkdir()
    made = World(tmp_path / "other")
    yield made
    try:
        audited_by_all(made)
    finally:
        made.close()


def after(lost: Shared, other: World, **options: Any) -> Shared:
    """The manager is lost; another one, under an agreement that names it."""
    backup(lost.world.folder, lost.folder / "backup")
    lost.world.stop()
    return Shared(other, lost.folder / "after", lost=lost, **options)


def test_two_of_three_owners_bring_a_model_to_another_manager(lost: Shared, other: World, tmp_path: Path) -> None:
    """The whole road: kept, lost, claimed, given, adopted; then it is pulled as ever, serves, and is shared out again. The auditor finds it in order."""
    assert [kept.fresh for name in HOLDERS for kept in lost.keep(name)] == [True] * 3
    assert [kept.fresh for kept in lost.keep("clinic")] == [False]
    assert lost.keep("cloud") == []
    road = after(lost, other)
    run, asset = road.shares("clinic").run, road.shares("clinic").asset
    view = road.give("clinic")
    assert (view.given, view.recovered, view.complete) == (["clinic"], False, False)
    assert code_of(lambda: road.delivery(asset)) == "not_entitled"
    assert road.give("startup").recovered
    found = adopt(other.folder, lost.folder / "backup")
    assert (found.outputs, found.missing) == ((asset,), ())
    assert road.view().complete
    party, home, identity = road.party["startup"], road.home("startup"), road.identity("startup")
    pulled = outputs.pull(party, home, identity, run, "model", tmp_path / "model")
    assert (tmp_path / "model" / "model.pt2").read_bytes() == b"weights"
    assert pulled.receipt.manager == lost.world.pin.identity
    serve = road.submit("serve", by="clinic").run
    _, delivery = road.release(serve, road.server, "https://127.0.0.1:9")
    assert delivery.inputs["model"].asset == asset
    assert [kept.shares.manager for kept in road.keep("hospital")] == [other.pin.identity]


def test_s6_fewer_than_the_quorum_recover_nothing(lost: Shared, other: World) -> None:
    """S6: one of two, however often; the same share again is the same request, another one of the same party is refused."""
    for name in HOLDERS:
        lost.keep(name)
    road = after(lost, other)
    assert road.give("clinic").given == ["clinic"]
    assert code_of(lambda: road.give("clinic")) == "share_given"
    assert not road.view().recovered
    assert code_of(lambda: road.delivery(road.shares("clinic").asset)) == "not_entitled"
    assert code_of(lambda: road.release(road.submit("serve", by="clinic").run, road.server, "https://a:1")) == (
        "model_missing"
    )


def test_s7_a_wrong_share_is_named_and_the_right_one_still_counts(lost: Shared, other: World) -> None:
    """S7: other bytes, another party's share, one under a board that is not the party's."""
    for name in HOLDERS:
        lost.keep(name)
    road = after(lost, other)
    road.claim("clinic")
    with pytest.raises(Exception, match=r"share_wrong.*clinic|clinic.*share_wrong"):
        road.hand("clinic", bytes(32))
    theirs = recovery._share(road.identity("hospital"), road.shares("hospital"), "hospital")
    assert code_of(lambda: road.hand("clinic", theirs)) == "share_wrong"
    mine = recovery._share(road.identity("clinic"), road.shares("clinic"), "clinic")
    assert code_of(lambda: road.hand("clinic", mine, by="hospital")) == "bad_signature"
    assert code_of(lambda: road.hand("cloud", mine, shares=road.shares("clinic"))) == "share_mismatch"
    assert road.view().given == []
    assert road.give("hospital").given == ["hospital"]
    assert road.give("clinic").recovered


def test_s7_a_share_of_an_earlier_split_is_stale(lost: Shared, other: World, tmp_path: Path) -> None:
    """S7: the lost manager had been restored once, in a new epoch it split anew; what was kept before names no key with what was kept after, in
    whatever order they come."""
    for name in ("clinic", "hospital"):
        lost.keep(name)
    backup(lost.world.folder, tmp_path / "copy")
    back(lost, tmp_path / "copy")
    assert [kept.fresh for name in ("hospital", "startup") for kept in lost.keep(name)] == [True, True]
    assert lost.shares("clinic").order < lost.shares("hospital").order
    road = after(lost, other)
    assert road.give("clinic").given == ["clinic"]
    assert road.give("hospital").given == ["hospital"]
    assert code_of(lambda: road.give("clinic")) == "share_stale"
    stale = recovery._share(road.identity("clinic"), road.shares("clinic"), "clinic")
    assert code_of(lambda: road.hand("clinic", stale)) == "share_stale"
    assert road.give("startup").recovered


def test_no_outputs_of_a_manager_that_nobody_agreed_on(lost: Shared, other: World) -> None:
    """An agreement that names no lost manager takes nothing; nor does a document that somebody else signed, or that says another thing than the receipt."""
    for name in HOLDERS:
        lost.keep(name)
    road = after(lost, other)
    kept = road.kept("clinic")
    stranger = SigningKey.generate()
    shares = replace(road.shares("clinic"), manager=stranger.public.text)
    forged = KeptShares(shares=signed(KIND, shares.body(), stranger), receipt=kept.receipt, manifest=kept.manifest)
    assert code_of(lambda: road.claim("clinic", forged)) == "share_mismatch"
    lying = signed(KIND, road.shares("clinic").body(), stranger)
    assert code_of(lambda: road.claim("clinic", kept.model_copy(update={"shares": lying}))) == "bad_signature"
    assert code_of(lambda: road.claim("cloud", kept)) == "share_mismatch"
    _, sealed, _ = road.trained(b"another model")
    theirs = recovery_documents(lost, sealed.digest, kept, road)
    for changed in theirs:
        assert code_of(lambda changed=changed: road.claim("clinic", changed)) in ("share_mismatch", "bad_signature")
    plain = agreement_from_json({**road.document(), "metadata": {"name": "plain"}, "recovery": {"at_least": 2}})
    road.in_force(plain)
    message = ClaimOutput(agreement=plain.digest, kept=kept)
    assert (
        code_of(lambda: road.party["clinic"].call("POST", "/v1/recovery/outputs", RecoveryView, message))
        == "share_mismatch"
    )


def recovery_documents(lost: Shared, asset: str, kept: KeptShares, road: Shared) -> list[KeptShares]:
    """Another receipt of the lost manager's, and another manifest than the shares name."""
    manager = cached_keys(lost.world.folder).identity
    receipt = open_receipt(kept.receipt, manager.public)
    other = sign_receipt(replace(receipt, outputs={"model": asset}), manager)
    strange = sign_receipt(replace(receipt, run="ab" * 16), manager)
    manifest = kept.model_copy(update={"manifest": road.scans.envelope})
    return [kept.model_copy(update={"receipt": other}), kept.model_copy(update={"receipt": strange}), manifest]


def test_a_second_agreement_takes_no_output_that_one_has_taken(lost: Shared, other: World) -> None:
    """One run, one line: whose limits and approvals would count else?"""
    for name in HOLDERS:
        lost.keep(name)
    road = after(lost, other)
    road.give("clinic")
    assert road.give("hospital").recovered
    road.agreement = agreement_from_json({**road.document(), "metadata": {"name": "other"}})
    road.in_force(road.agreement)
    assert not road.give("clinic").recovered
    assert code_of(lambda: road.give("hospital")) == "asset_conflict"


def test_a_holder_keeps_no_share_that_is_not_its_own(lost: Shared) -> None:
    """A manager that sends another output's shares, a share that does not fit its digest, or another's."""
    (kept,) = lost.keep("clinic")
    answer, party, home, identity = (
        lost.kept("clinic"),
        lost.party["clinic"],
        lost.home("clinic"),
        lost.identity("clinic"),
    )
    manager = cached_keys(lost.world.folder).identity
    kept.file.unlink()

    def code(changed: OutputShares, asset: str = kept.shares.asset) -> str:
        made = answer.model_copy(update={"shares": signed(KIND, changed.body(), manager)})
        return code_of(lambda: recovery._keep(party, home, identity, made, asset, "clinic"))

    held = dict(kept.shares.holders)
    wrong = {**held, "clinic": replace(held["clinic"], digest="sha256:" + "0" * 64)}
    assert code(replace(kept.shares, holders=wrong)) == "share_damaged"
    assert code(replace(kept.shares, holders={**held, "clinic": replace(held["startup"], number=1)})) == "unseal_failed"
    assert code(kept.shares, "sha256:" + "0" * 64) == "share_damaged"
    assert code(replace(kept.shares, asset="sha256:" + "0" * 64)) == "share_damaged"
    without = {party: replace(held[party], number=n) for n, party in enumerate(("hospital", "startup"), 1)}
    assert code(replace(kept.shares, holders=without)) == "share_damaged"
    assert not kept.file.exists()
    assert code(kept.shares) == ""


def test_a_receipt_of_a_manager_that_the_agreement_does_not_name_is_not_believed(lost: Shared, other: World) -> None:
    """The new manager alone cannot make an older one's receipt count."""
    for name in HOLDERS:
        lost.keep(name)
    road = after(lost, other)
    road.give("clinic")
    road.give("startup")
    delivery = road.delivery(road.shares("clinic").asset)
    assert outputs._manager_of(road.party["startup"], delivery) == lost.world.pin.identity
    plain = agreement_from_json({**road.document(), "metadata": {"name": "plain"}, "recovery": {"at_least": 2}})
    road.in_force(plain)
    moved = delivery.model_copy(update={"agreement": plain.digest})
    assert code_of(lambda: outputs._manager_of(road.party["startup"], moved)) == "output_mismatch"


def test_a_share_is_for_one_agreement_at_one_manager(lost: Shared, other: World) -> None:
    """What was given for one agreement is not taken for another one that names the same lost manager."""
    for name in HOLDERS:
        lost.keep(name)
    road = after(lost, other)
    envelope = recovery.message(
        road.party["clinic"],
        road.home("clinic"),
        road.identity("clinic"),
        road.agreement.digest,
        road.shares("clinic").asset,
    )
    first = road.agreement
    road.agreement = agreement_from_json({**road.document(), "metadata": {"name": "other"}})
    road.in_force(road.agreement)
    road.claim("clinic")
    body = {**envelope.unverified("OutputShare"), "agreement": road.agreement.digest}
    moved = signed(
        "OutputShare", {k: v for k, v in body.items() if k not in ("apiVersion", "kind")}, road.keys["clinic"]
    )
    assert code_of(lambda: signing.send(road.party["clinic"], moved)) == "share_wrong"
    road.agreement = first
    assert signing.send(road.party["hospital"], envelope).given == ["clinic"]  # type: ignore[attr-defined] # a RecoveryView


def test_while_an_owner_suspends_nothing_is_recovered(lost: Shared, other: World) -> None:
    """Nor are shares handed out: whatever is derived from the asset stands still, here and there."""
    lost.keep("hospital")
    lost.suspend("scans", "hospital")
    assert code_of(lambda: lost.keep("clinic")) == "asset_suspended"
    lost.suspend("scans", "hospital", lift=True)
    lost.keep("clinic")
    road = after(lost, other)
    road.give("clinic")
    road.suspend("scans", "hospital")
    assert code_of(lambda: road.give("hospital")) == "asset_suspended"
    road.suspend("scans", "hospital", lift=True)
    assert road.give("hospital").recovered


def test_ciphertext_that_was_altered_in_a_backup_is_not_adopted(lost: Shared, other: World) -> None:
    """The operator brings it, and nobody trusts the operator."""
    for name in HOLDERS:
        lost.keep(name)
    road = after(lost, other)
    assert code_of(lambda: adopt(other.folder, lost.folder / "backup")) == "nothing_to_adopt"
    road.give("clinic")
    data = bytearray((lost.folder / "backup").read_bytes())
    manifest = lost.kept("clinic").manifest.digest.removeprefix("sha256:")
    with tarfile.open(lost.folder / "backup") as archive:
        at = next(found.offset_data for found in archive if f"/{manifest}/" in found.name)
    data[at] ^= 1
    (lost.folder / "bent").write_bytes(data)
    assert code_of(lambda: adopt(other.folder, lost.folder / "bent")) == "backup_damaged"
    (lost.folder / "cut").write_bytes(data[:600])
    assert code_of(lambda: adopt(other.folder, lost.folder / "cut")) == "backup_damaged"
    assert not road.view().complete
    assert adopt(other.folder, lost.folder / "backup").outputs


def test_all_owners_where_the_agreement_does_not_say_how_many(own_world: World, other: World, tmp_path: Path) -> None:
    """The default of DESIGN: all of them."""
    lost = Shared(own_world, tmp_path / "lost", least=None)
    lost.trained()
    for name in HOLDERS:
        assert [kept.shares.at_least for kept in lost.keep(name)] == [3]
    road = after(lost, other, least=None)
    assert not road.give("clinic").recovered
    assert not road.give("hospital").recovered
    assert road.give("startup").recovered


def test_an_owner_without_a_receiving_key_and_nobody_holds_shares(own_world: World, tmp_path: Path) -> None:
    """An agreement of before, whose owners could not be given any."""
    road = Shared(own_world, tmp_path / "lost", least=None)
    document = {**road.document(), "metadata": {"name": "bare"}}
    document["parties"]["hospital"].pop("receive")
    road.agreement = agreement_from_json(document)
    road.in_force(road.agreement)
    _, sealed, _ = road.trained()
    assert code_of(lambda: road.party["clinic"].raw("GET", f"/v1/outputs/{sealed.digest}/shares")) == "no_shares"
    assert road.keep("clinic") == []


def test_another_receiving_key_is_given_another_share(lost: Shared) -> None:
    """A holder's lost key opens no share of the newest split."""
    lost.keep("clinic")
    before = lost.shares("clinic").order
    lost.receiving["clinic"] = HpkePrivateKey.generate()
    shutil.rmtree(lost.home("clinic").folder)
    document = {
        **lost.document(),
        "metadata": {"name": "scans-2027", "version": 2, "predecessor": lost.agreement.digest},
    }
    lost.agreement = agreement_from_json(document)
    lost.in_force(lost.agreement)
    lost.keep("clinic")
    assert lost.shares("clinic").order > before


class WatchedShares(Shared, Watched):
    """With witnesses."""


def test_shares_leave_under_a_cosigned_ledger_only(own_world: World, tmp_path: Path, impatient: None) -> None:
    """A manager of whose ledger the witnesses know nothing hands out none."""
    road = WatchedShares(own_world, tmp_path / "road")
    with road.witnessing("watcher", "hospital"):
        road.trained()
    assert code_of(lambda: road.keep("clinic")) == "witnesses_unreachable"
    with road.witnessing("watcher", "hospital"):
        assert len(road.keep("clinic")) == 1


def test_a_lying_manager_is_found_when_its_shares_are_joined(lost: Shared, other: World) -> None:
    """Every share fits its digest, and together they give another key."""
    for name in HOLDERS:
        lost.keep(name)
    road = after(lost, other)
    manager = cached_keys(lost.world.folder).identity
    shares = replace(road.shares("clinic"), check="sha256:" + "0" * 64)
    bent = signed(KIND, shares.body(), manager)
    for name in HOLDERS:
        path = road.home(name).shares_path(shares.asset, shares.manager)
        path.write_bytes(road.kept(name).model_copy(update={"shares": bent}).encode())
    road.give("clinic")
    assert code_of(lambda: road.give("hospital")) == "share_wrong"
    assert road.view().given == ["clinic"]


def test_who_holds_nothing_is_told_nothing(lost: Shared) -> None:
    """The operator of the hosts brought no asset, a stranger is in no agreement."""
    asset = lost.keep("clinic")[0].shares.asset
    assert code_of(lambda: lost.party["cloud"].raw("GET", f"/v1/outputs/{asset}/shares")) == "not_entitled"
    stranger = lost.world.party(SigningKey.generate())
    assert code_of(lambda: stranger.raw("GET", f"/v1/outputs/{asset}/shares")) == "not_entitled"
    assert code_of(lambda: stranger.raw("GET", f"/v1/recovery?agreement={lost.agreement.digest}")) == "not_entitled"


def test_s6_an_auditor_finds_a_manager_that_recovered_without_the_quorum(
    lost: Shared, other: World, tmp_path: Path
) -> None:
    """S6: one share too few, one party's share counted twice, an output of a run that nobody recovered: the first entry that does not follow is named."""
    for name in HOLDERS:
        lost.keep(name)
    road = after(lost, other)
    road.give("clinic")
    road.give("hospital")
    key = cached_keys(other.folder).identity
    file = exported(road, "clinic", tmp_path)

    def audited(change: Callable[[Altered], None]) -> str:
        made = Altered.of(file, key)
        change(made)
        with pytest.raises(PerunError) as caught:
            verify_export(made.write(tmp_path / "altered.zip"), key.public)
        assert caught.value.code == "history_inconsistent"
        return caught.value.reasons[0].message

    def drop(made: Altered) -> None:
        """A refusal in its place, so that the tree has as many leaves."""
        made.first("share")["entry"].update(type="refusal", body={})

    def twice(made: Altered) -> None:
        first, second = [item["entry"] for item in made.entries if item["entry"]["type"] == "share"]
        second["body"] = first["body"]

    def renamed(made: Altered) -> None:
        made.first("recovered")["entry"]["body"]["output"] = "other"

    assert verify_export(Altered.of(file, key).write(tmp_path / "same.zip"), key.public).counts["outputs"] == 1
    assert "too few had given their shares" in audited(drop)
    assert "counted twice" in audited(twice)
    assert "the shares are of another output" in audited(renamed)
