"""What a newer version means for what was made under an older one: outputs leave as the version in force says, and an owner's
word in any of its agreements stops its asset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manager.road import Road
from manager.world import World, code_of
from perunml.agreements.document import agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.api.agreements import SuspendAsset, SuspensionView
from perunml.api.assets import AssetView
from perunml.wire.dsse import signed
from perunml.wire.identity import SigningKey


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    return Road(world, tmp_path_factory.mktemp("road"))


def line(road: Road, name: str) -> Road:
    """The same world under an agreement line of its own, whose first version is in force."""
    own = Road.__new__(Road)
    own.__dict__.update(road.__dict__)
    document = road.document()
    document["metadata"] = {"name": name}
    own.agreement = agreement_from_json(document)
    own.in_force(own.agreement)
    road.tpm.reboot()  # one agreement per boot
    return own


def follow(own: Road, number: int = 2, **output: Any) -> Agreement:
    """The next version, in which the model's output says something else; in force."""
    document = own.document()
    before = own.agreement.metadata
    document["metadata"] = {"name": before.name, "version": number, "predecessor": own.agreement.digest}
    document["jobs"]["train"]["outputs"]["model"].update(output)
    made = agreement_from_json(document)
    own.in_force(made)
    own.agreement = made
    return made


def test_an_output_goes_to_whom_the_newest_version_names(road: Road) -> None:
    """Made when the startup was to get it; now the hospital is, and the startup no longer."""
    own = line(road, "recipients")
    run, sealed, _ = own.trained()
    assert own.run(run).outputs[0].released_to == ["startup"]
    follow(own, to="hospital")
    view = own.run(run).outputs[0]
    assert (view.to, view.released_to, view.agreement) == (["hospital"], ["hospital"], own.agreement.digest)
    assert code_of(lambda: own.delivery(sealed.digest)) == "recipient_not_agreed"
    first = sealed.manifest.all_blobs[0]
    path = f"/v1/assets/{sealed.digest}/blobs/{first.id}?offset=0&length=16"
    assert code_of(lambda: own.party["startup"].raw("GET", path)) == "not_entitled"
    assert own.delivery(sealed.digest, "hospital").party == "hospital"


def test_an_output_that_the_newest_version_still_sends_leaves(road: Road) -> None:
    """A version that changes nothing about it holds nothing up."""
    own = line(road, "same-recipient")
    _, sealed, _ = own.trained()
    follow(own, max_size="2MiB")
    assert own.delivery(sealed.digest).party == "startup"


def test_an_output_waits_for_the_approvals_of_the_newest_version(road: Road) -> None:
    """An approval names the version that it was given under: a newer one wants its own."""
    own = line(road, "approvers")
    run, sealed, _ = own.trained()
    follow(own, release={"approve": ["hospital"]})
    assert code_of(lambda: own.delivery(sealed.digest)) == "output_held"
    own.approve_output(run, sealed.digest, "hospital")
    assert own.delivery(sealed.digest).party == "startup"
    follow(own, 3, release={"approve": ["hospital"]}, max_size="2MiB")
    assert code_of(lambda: own.delivery(sealed.digest)) == "output_held"
    own.approve_output(run, sealed.digest, "hospital")
    assert own.delivery(sealed.digest).party == "startup"


def test_an_output_that_the_newest_version_does_not_know_stays(road: Road) -> None:
    """The job is there no more: nobody gets what it made."""
    own = line(road, "renamed")
    run, sealed, _ = own.trained()
    document = own.document()
    document["metadata"] = {"name": "renamed", "version": 2, "predecessor": own.agreement.digest}
    document["jobs"]["fit"] = document["jobs"].pop("train")
    document["jobs"]["serve"]["model"] = "fit.outputs.model"
    own.agreement = agreement_from_json(document)
    own.in_force(own.agreement)
    assert code_of(lambda: own.delivery(sealed.digest)) == "output_unknown"
    assert (own.run(run).outputs[0].to, own.run(run).outputs[0].released_to) == ([], [])


def test_an_output_of_a_suspended_asset_stays_under_a_newer_version_too(road: Road) -> None:
    """Suspension reaches all that was derived, whichever version rules it."""
    own = line(road, "suspended")
    _, sealed, _ = own.trained()
    follow(own, max_size="2MiB")
    own.suspend("scans", "hospital")
    try:
        assert code_of(lambda: own.delivery(sealed.digest)) == "asset_suspended"
    finally:
        own.suspend("scans", "hospital", lift=True)
    assert own.delivery(sealed.digest).party == "startup"


# --- suspension by any of an owner's boards ---------------------------------------------------------------------------


class TwoBoards:
    """The hospital's asset in two agreements: by its own key, and by a board of that key and a deputy's."""

    def __init__(self, road: Road) -> None:
        self.road, self.deputy = road, SigningKey.generate()
        road.world.party(self.deputy)
        document = road.document()
        document["metadata"] = {"name": "two-boards", "version": 1}
        hospital = document["parties"]["hospital"]
        hospital["keys"]["deputy"] = self.deputy.public.text
        hospital["approve"] = {"all": ["main", "deputy"]}
        self.agreement = agreement_from_json(document)

    def change(self, action: str, *keys: SigningKey, by: SigningKey | None = None) -> SuspensionView:
        """Signed by `keys`, sent by the first of them or `by` another."""
        digest, caller = self.road.scans.digest, self.road.world.party(by or keys[0])
        state = self.road.party["hospital"].call("GET", f"/v1/suspensions?subject={digest}", SuspensionView)
        body = {
            "manager": self.road.world.pin.identity,
            "subject": digest,
            "party": "hospital",
            "action": action,
            "previous": state.digest,
        }
        envelope = signed("Suspension", body, keys[0])
        for key in keys[1:]:
            envelope = envelope.with_signature(key.public, key.sign(envelope.signing_bytes()))
        return caller.call("POST", "/v1/suspensions", SuspensionView, SuspendAsset(change=envelope))


def test_p13_any_key_of_any_of_the_owners_boards_suspends_and_all_of_them_lift(road: Road) -> None:
    """A deputy stands on the board of one agreement of two: the deputy stops the asset in both, and alone frees it in none."""
    both = TwoBoards(road)
    own, main = road, road.keys["hospital"]
    own.propose(both.agreement)
    for name in ("startup", "cloud", "clinic", "hospital"):
        own.approve(both.agreement, name)
    deputy_board = Road.__new__(Road)
    deputy_board.__dict__.update(own.__dict__)
    deputy_board.keys = {**own.keys, "hospital": both.deputy}
    deputy_board.party = {**own.party, "hospital": own.world.party(both.deputy)}
    assert deputy_board.approve(both.agreement, "hospital").state == "in_force"
    assert both.change("suspend", both.deputy).suspended
    assert not both.change("lift", main, both.deputy).suspended
    assert both.change("suspend", both.deputy, by=main).suspended
    try:
        assert code_of(own.submit) == "asset_suspended"
        assert code_of(lambda: both.change("lift", both.deputy)) in ("not_on_board", "bad_signature")
        assert code_of(lambda: both.change("lift", main)) == "not_on_board"  # enough for one board, not for the other
    finally:
        assert not both.change("lift", main, both.deputy).suspended


# --- what a digest in an agreement tells ------------------------------------------------------------------------------


def test_c16_an_asset_named_without_its_owners_word_is_told_of_as_one_that_is_not_there(
    road: Road, tmp_path: Path
) -> None:
    """C16: whoever knows a digest writes it into an agreement of its own, and learns nothing by it."""
    thief = SigningKey.generate()
    caller = road.world.party(thief)
    for name, digest in (("known", road.scans.digest), ("made-up", "sha256:" + "5a" * 32)):
        document = road.document()
        document["metadata"] = {"name": name}
        document["parties"]["hospital"]["keys"] = {"main": thief.public.text}
        document["assets"]["scans"]["digest"] = digest
        own = Road.__new__(Road)
        own.__dict__.update(road.__dict__)
        own.keys, own.party = {**road.keys, "hospital": thief}, {**road.party, "hospital": caller}
        own.propose(agreement_from_json(document), "hospital")
        assert code_of(lambda d=digest: caller.call("GET", f"/v1/assets/{d}", AssetView)) == "not_entitled"
        where = f"/v1/suspensions?subject={digest}"
        assert code_of(lambda w=where: caller.call("GET", w, SuspensionView)) == "not_entitled"
    # in the agreement that its owner approved, the others do see it
    assert road.party["startup"].call("GET", f"/v1/assets/{road.scans.digest}", AssetView).name == "scans"
