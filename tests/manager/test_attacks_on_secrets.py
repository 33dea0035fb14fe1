"""Attacks on what owners keep to themselves: their conditions and suspensions, read through agreements of one's own or an old key."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from manager.road import Road
from manager.test_conditions import put
from manager.world import World
from perunml.agreements.approvals import approval
from perunml.agreements.document import agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.api.agreements import AgreementView, ApproveAgreement
from perunml.api.why import Why
from perunml.client.rotation import rotated
from perunml.wire.dsse import signed
from perunml.wire.identity import SigningKey

SECRET = "the-secret-study"


@pytest.fixture
def road(own_world: World, tmp_path: Path) -> Road:
    return Road(own_world, tmp_path / "road")


def why(road: Road, by: str, digest: str) -> Why:
    return road.party[by].call("GET", f"/v1/agreements/{quote(digest)}/why?job=train", Why)


def view(road: Road, by: str, digest: str) -> AgreementView:
    return road.party[by].call("GET", f"/v1/agreements/{quote(digest)}", AgreementView)


def claimed(road: Road) -> Agreement:
    """An agreement of the clinic's alone, in which it calls itself the owner of what others sealed."""
    document: dict[str, Any] = road.document()
    document["metadata"] = {"name": "mine"}
    document["parties"] = {"clinic": document["parties"]["clinic"]}
    for asset in document["assets"].values():
        asset["owner"] = "clinic"
    train = document["jobs"]["train"]
    train["operator"] = "clinic"
    train["outputs"]["model"].update(to="clinic")
    del train["outputs"]["model"]["use"]
    document["jobs"] = {"train": train}
    made = agreement_from_json(document)
    road.propose(made, "clinic")
    return made


@pytest.mark.parametrize("in_force", [False, True])
def test_c16_reading_anothers_conditions_through_an_agreement_of_ones_own(road: Road, in_force: bool) -> None:
    """C16: who names another's asset in an agreement of his own learns neither its conditions nor that there are any."""
    made = claimed(road)
    if in_force:
        assert road.approve(made, "clinic").state == "in_force"
    before = why(road, "clinic", made.digest)
    put(road, "scans", "hospital", "no", {"jobs": [SECRET]})
    road.suspend("unet", "startup")
    after = why(road, "clinic", made.digest)
    assert after.conditions == []
    assert after == before
    assert view(road, "clinic", made.digest).suspended == []


def test_a_replaced_key_reads_conditions_through_the_old_version(road: Road) -> None:
    """A key that was replaced reads nothing that its party forbids since, through the version that still lists it."""
    fresh = SigningKey.generate()
    second = rotated(road.agreement, "hospital", "main", fresh.public.text)
    road.propose(second)
    old, old_key = road.agreement, road.keys["hospital"]
    body = approval(second, "hospital", second.ends)
    made = signed("Approval", body, old_key)
    made = made.with_signature(fresh.public, fresh.sign(made.signing_bytes()))
    path = f"/v1/agreements/{quote(second.digest)}/approvals"
    assert road.party["hospital"].call("POST", path, AgreementView, ApproveAgreement(approval=made)).state == "in_force"
    thief = road.party["hospital"]
    road.agreement, road.keys["hospital"], road.party["hospital"] = second, fresh, road.world.party(fresh)
    put(road, "scans", "hospital", "no", {"jobs": [SECRET]})
    assert why(road, "hospital", second.digest).conditions[0].expected == SECRET
    road.party["thief"] = thief
    assert why(road, "thief", old.digest).conditions == []
