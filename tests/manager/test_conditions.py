"""Owners' conditions at a real manager: at once, for all that is derived, counted, secret, and over restarts and versions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manager.road import Road
from manager.world import World, code_of
from perunml.agreements.conditions import condition_change
from perunml.agreements.document import agreement_from_json
from perunml.api.conditions import ChangeCondition, ConditionList
from perunml.api.ledger import EntryList
from perunml.wire.dsse import signed
from perunml.wire.timestamps import format_time


@pytest.fixture
def road(own_world: World, tmp_path: Path) -> Iterator[Road]:
    return Road(own_world, tmp_path / "road")


def conditions(road: Road, asset: str, by: str) -> ConditionList:
    subject = road.agreement.assets[asset].digest
    return road.party[by].call("GET", f"/v1/conditions?subject={subject}", ConditionList)


def put(
    road: Road, asset: str, by: str, name: str, form: Any, *, signer: str = "", previous: str | None = None
) -> ConditionList:
    """Add (or with None drop) a condition; `signer` signs instead of the one who sends."""
    head = conditions(road, asset, by).head if previous is None else previous
    body = condition_change(road.agreement, asset, "drop" if form is None else "add", name, form, head)
    message = ChangeCondition(change=signed("Condition", body, road.keys[signer or by]))
    return road.party[by].call("POST", "/v1/conditions", ConditionList, message)


def test_a_condition_holds_at_once_and_for_what_was_derived(road: Road) -> None:
    """A run that goes on is refused its renewal, an output its delivery, a new run its submission; dropping it gives them back."""
    _, sealed, _ = road.trained()
    assert road.delivery(sealed.digest).output == "model"
    run, session, _ = road.started()
    put(road, "scans", "hospital", "stop", {"until": format_time(int(time.time()) - 1)})
    assert code_of(session.renew) == "owner_condition"
    assert code_of(lambda: road.delivery(sealed.digest)) == "owner_condition"
    assert code_of(road.submit) == "owner_condition"
    assert code_of(lambda: road.submit("serve", "clinic")) == "owner_condition"
    assert road.run(run).state == "lost"
    put(road, "scans", "hospital", "stop", None)
    road.started()
    assert road.delivery(sealed.digest).output == "model"


def test_recipients_and_machines(road: Road) -> None:
    """An output goes to no recipient that its inputs' owner excludes; a host that is not named gets no keys."""
    _, sealed, _ = road.trained()
    put(road, "scans", "hospital", "whom", {"recipients": ["clinic"]})
    assert code_of(lambda: road.delivery(sealed.digest)) == "owner_condition"
    put(road, "scans", "hospital", "whom", None)
    put(road, "unet", "startup", "where", {"machines": ["ek:sha256:" + "0" * 64]})
    run = road.submit().run
    assert code_of(lambda: road.release(run)) == "owner_condition"
    put(road, "unet", "startup", "where", None)
    put(road, "unet", "startup", "where", {"machines": [road.trainer.machine]})
    road.started()


def test_runs_are_counted_from_then_on_over_restarts_and_versions(road: Road) -> None:
    """Two more, whatever happens to the manager, the agreement or the host's enrolment in between."""
    road.trained()
    put(road, "scans", "hospital", "two", {"runs": 2})
    road.trained()
    road.world.restart()
    assert [item.runs for item in conditions(road, "scans", "hospital").conditions] == [1]
    second = road.document()
    second["metadata"] = {**second["metadata"], "version": 2, "predecessor": road.agreement.digest}
    second["jobs"]["train"]["limits"]["runs"] = 2000
    road.agreement = agreement_from_json(second)
    road.in_force(road.agreement)
    road.trainer = road.world.enrol(road.keys["cloud"], "trainer", road.tpm)
    road.trained()
    assert code_of(road.submit) == "owner_condition"
    assert [item.runs for item in conditions(road, "scans", "hospital").conditions] == [2]


def test_nobody_but_the_owner_sees_what_it_says(road: Road) -> None:
    """Another party's list, refusals, runs and ledger tell that there is a condition of the hospital's, and no value of it; a
    stranger learns nothing; the owner sees all of it."""
    put(
        road,
        "scans",
        "hospital",
        "secret-name",
        {"until": "2031-02-03T04:05:06Z", "parameters": {"epochs": {"max": 1}}},
    )
    for name in ("startup", "cloud", "clinic"):
        assert code_of(lambda name=name: conditions(road, "scans", name)) == "not_entitled"
    assert code_of(road.submit) == "owner_condition"
    shown = road.party["startup"].raw("GET", f"/v1/ledger/entries?agreement={road.agreement.digest}").decode()
    entries = (
        road.party["startup"].call("GET", f"/v1/ledger/entries?agreement={road.agreement.digest}", EntryList).entries
    )
    assert [item.entry["body"]["action"] for item in entries if item.entry["type"] == "condition"] == ["add"]
    for secret in ("2031-02-03", "secret-name", '"max":1'):
        assert secret not in shown
    (seen,) = conditions(road, "scans", "hospital").conditions
    assert seen.name == "secret-name"
    assert seen.condition["until"] == "2031-02-03T04:05:06Z"


def test_p1_p2_others_neither_add_nor_drop(road: Road) -> None:
    """P1, P2: with the owner's connection or their own, their signature is none; an old change again is out of order."""
    assert code_of(lambda: put(road, "scans", "hospital", "x", {"runs": 0}, signer="startup")) == "bad_signature"
    assert code_of(lambda: put(road, "scans", "startup", "x", {"runs": 0}, previous="")) == "not_entitled"
    added = put(road, "scans", "hospital", "x", {"runs": 9})
    assert code_of(lambda: put(road, "scans", "hospital", "x", None, signer="cloud")) == "bad_signature"
    assert code_of(lambda: put(road, "scans", "hospital", "y", {"runs": 9}, previous="")) == "change_out_of_order"
    assert put(road, "scans", "hospital", "x", None).head != added.head


def test_an_agreement_of_a_thiefs_own_adds_nothing(road: Road) -> None:
    """Who writes the victim's digest and key into an agreement with a board of his own puts no condition on it."""
    thief = road.document()
    thief["metadata"] = {"name": "thief"}
    thief["parties"]["hospital"]["keys"]["more"] = road.keys["clinic"].public.text
    thief["parties"]["hospital"]["approve"] = "more"
    del thief["parties"]["clinic"]
    thief["jobs"]["serve"]["clients"] = ["startup"]
    made = agreement_from_json(thief)
    road.propose(made)
    body = condition_change(made, "scans", "add", "x", {"runs": 0}, "")
    message = ChangeCondition(change=signed("Condition", body, road.keys["clinic"]))
    code = code_of(lambda: road.party["clinic"].call("POST", "/v1/conditions", ConditionList, message))
    assert code in ("not_entitled", "bad_signature")
