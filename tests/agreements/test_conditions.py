"""Owners' conditions: who may add, who may drop, in which order; and that they only ever forbid."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agreements.sample import MACHINE, document, key, sha
from perunml.agreements.conditions import (
    MAX_CONDITIONS,
    NO_CONDITIONS,
    Condition,
    condition_change,
    fold_conditions,
    form_from_json,
    open_condition,
    read_change,
)
from perunml.agreements.document import agreement_from_json
from perunml.release.types import Refusal, Release, State
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import PerunError
from release.world import NOW, PARAMETERS, World, on

AGREEMENT = agreement_from_json(document())
FORM = {"until": "2027-01-01T00:00:00Z"}


def code_of(call: Any) -> str:
    with pytest.raises(PerunError) as caught:
        call()
    return caught.value.code


def change(action: str = "add", name: str = "june", previous: str = "", **options: Any) -> dict[str, Any]:
    condition = options.get("condition", FORM) if action == "add" else None
    return condition_change(AGREEMENT, options.get("asset", "scans"), action, name, condition, previous)


def by(body: dict[str, Any], *keys: str) -> Envelope:
    envelope = signed("Condition", body, key(keys[0]))
    for name in keys[1:]:
        envelope = envelope.with_signature(key(name).public, key(name).sign(envelope.signing_bytes()))
    return envelope


def test_any_one_key_of_the_owners_board_adds() -> None:
    """Each key of the board alone; the form is read."""
    for name in ("dr-a", "dr-b", "dpo"):
        made = open_condition(AGREEMENT, by(change(), f"st-vitus/{name}"))
        assert (made.action, made.name, made.party) == ("add", "june", "st-vitus")
        assert made.form is not None


def test_p1_nobody_else_adds_or_drops() -> None:
    """P1: another party's key, the operator's, the manager's; an asset of somebody else's."""
    for name in ("acme/ml", "gpu-cloud/ops", "clinic/desk", "manager"):
        assert code_of(lambda name=name: open_condition(AGREEMENT, by(change(), name))) == "bad_signature"
    stolen = {**change(), "party": "acme"}
    assert code_of(lambda: open_condition(AGREEMENT, by(stolen, "acme/ml"))) == "not_on_board"
    stolen = {**change(asset="unet"), "subject": sha("a")}
    assert code_of(lambda: open_condition(AGREEMENT, by(stolen, "acme/ml"))) == "not_on_board"


def test_p2_dropping_needs_the_whole_board() -> None:
    """P2: one key of the owner's board cannot loosen, nor another owner's whole board."""
    head = by(change(), "st-vitus/dpo").digest
    drop = change("drop", previous=head)
    for keys in (("st-vitus/dpo",), ("st-vitus/dr-a", "st-vitus/dr-b")):
        assert code_of(lambda keys=keys: open_condition(AGREEMENT, by(drop, *keys))) == "not_on_board"
    assert open_condition(AGREEMENT, by(drop, "st-vitus/dpo", "st-vitus/dr-b")).action == "drop"
    assert code_of(lambda: open_condition(AGREEMENT, by(drop, "acme/ml"))) == "bad_signature"


def test_changes_follow_each_other() -> None:
    """An old one, one made for another time, a name twice, a drop of nothing: out of order."""
    first = by(change(), "st-vitus/dpo")
    second = by(change(name="more", previous=first.digest), "st-vitus/dpo")
    now = fold_conditions(map(read_change, (first, second)))
    assert list(now.now) == ["june", "more"]
    assert now.head == second.digest
    for envelope in (first, second, by(change(previous=second.digest), "st-vitus/dpo")):
        assert code_of(lambda e=envelope: fold_conditions([read_change(e)], now)) == "change_out_of_order"
    drop = by(change("drop", "other", second.digest), "st-vitus/dpo", "st-vitus/dr-a")
    assert code_of(lambda: fold_conditions([read_change(drop)], now)) == "change_out_of_order"
    drop = by(change("drop", "june", second.digest), "st-vitus/dpo", "st-vitus/dr-a")
    assert list(fold_conditions([read_change(drop)], now).now) == ["more"]


def test_there_are_only_so_many() -> None:
    """An asset under more conditions than are looked at."""
    now, head = NO_CONDITIONS, ""
    for number in range(MAX_CONDITIONS):
        envelope = by(change(name=f"c{number}", previous=head), "st-vitus/dpo")
        now, head = fold_conditions([read_change(envelope)], now), envelope.digest
    last = by(change(name="last", previous=head), "st-vitus/dpo")
    assert code_of(lambda: fold_conditions([read_change(last)], now)) == "too_many_conditions"


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"unti": "2027-01-01T00:00:00Z"},
        {"until": "tomorrow"},
        {"runs": -1},
        {"jobs": []},
        {"jobs": ["train", "train"]},
        {"parameters": {"epochs": {"regex": ".*"}}},
        {"machines": ["any"]},
        {"profiles": ["all"]},
        {"allow": ["everything"]},
    ],
)
def test_p9_p19_p20_what_is_no_condition(bad: dict[str, Any]) -> None:
    """P9, P19, P20: an unknown member, no member, an expression, a wildcard, something that allows."""
    assert code_of(lambda: form_from_json(bad)) == "malformed"


@pytest.mark.parametrize("member", ["manager", "subject", "party", "name", "previous", "condition", "action"])
def test_a_change_is_whole(member: str) -> None:
    """A member missing, of another type, or one more."""
    body = change()
    for spoiled in ({k: v for k, v in body.items() if k != member}, {**body, member: 1}, {**body, "more": ""}):
        assert code_of(lambda s=spoiled: open_condition(AGREEMENT, by(s, "st-vitus/dpo"))) == "malformed"


MET: dict[str, dict[str, Any]] = {
    "until": {"until": "2027-06-01T00:00:00Z"},
    "runs": {"runs": 1},
    "jobs": {"jobs": ["train"]},
    "machines": {"machines": [MACHINE]},
    "profiles": {"profiles": ["measured"]},
    "operators": {"operators": ["gpu-cloud"]},
    "parameters": {"parameters": {"epochs": {"max": 5}, "seed": {"value": 7}}},
    "recipients": {"recipients": ["clinic"]},
    "clients": {"clients": ["nobody"]},
}
UNMET: dict[str, dict[str, Any]] = {
    "until": {"until": "2027-01-15T08:00:00Z"},
    "runs": {"runs": 0},
    "jobs": {"jobs": ["serve"]},
    "machines": {"machines": ["ek:" + sha("1")]},
    "profiles": {"profiles": ["tee", "gpu-cc"]},
    "operators": {"operators": ["acme"]},
    "parameters": {"parameters": {"epochs": {"max": 4}}},
}


@pytest.mark.parametrize("asset", ["scans", "unet"])
@pytest.mark.parametrize("member", sorted(MET))
def test_a_condition_that_is_met_forbids_nothing(member: str, asset: str) -> None:
    """Each member, on each asset that flows in."""
    state = {"conditions": on(asset, **MET[member])}
    usage = {"conditions": {sha("7"): 0}}
    assert isinstance(World().broken(state=state, usage=usage).decide(), Release)


@pytest.mark.parametrize("asset", ["scans", "unet"])
@pytest.mark.parametrize("member", sorted(UNMET))
def test_p12_a_condition_that_is_not_met_refuses_and_says_no_more(member: str, asset: str) -> None:
    """P12, and each other member: `owner_condition` with the condition's digest; its values are not in the reason."""
    state = {"conditions": on(asset, **UNMET[member])}
    found = World().broken(state=state, usage={"conditions": {sha("7"): 0}}).decide()
    assert isinstance(found, Refusal)
    assert [reason.code for reason in found.reasons] == ["owner_condition"]
    said = str(found.reasons[0].as_json())
    assert sha("7") in said
    assert asset in said
    for secret in ("2027-01-15", "sha256:" + "1" * 64, "gpu-cc", "at most 4"):
        assert secret not in said


def test_a_count_that_is_not_known_is_refused() -> None:
    """Missing is not zero."""
    state = {"conditions": on("scans", runs=5)}
    assert isinstance(World().broken(state=state).decide(), Refusal)
    assert isinstance(World().broken(state=state, usage={"conditions": {sha("7"): 5}}).decide(), Refusal)
    assert isinstance(World().broken(state=state, usage={"conditions": {sha("7"): 4}}).decide(), Release)


def test_lease_and_wall_are_the_shortest_of_all() -> None:
    """An owner's shorter lease or wall holds, a longer one changes nothing."""
    world = World()
    plain = world.release()
    short = world.broken(state={"conditions": on("scans", lease="7s", wall="1h")}).release()
    assert (short.lease_seconds, short.wall_seconds) == (7, 3600)
    long = world.broken(state={"conditions": on("scans", lease="1h", wall="9h")}).release()
    assert (long.lease_seconds, long.wall_seconds) == (plain.lease_seconds, plain.wall_seconds)
    renewed = world.broken(
        state={"conditions": on("scans", wall="1h")}, run={"purpose": "renew"}, usage={"started": NOW - 3600}
    ).decide()
    assert isinstance(renewed, Refusal)
    assert [reason.code for reason in renewed.reasons] == ["wall_exceeded"]
    assert world.broken(state={"conditions": on("scans", until="2027-01-15T08:00:09Z")}).release().lease_seconds == 9


NAMES = st.lists(
    st.sampled_from(["train", "serve", "gpu-cloud", "acme", "clinic"]), min_size=1, max_size=3, unique=True
)
FORMS = st.dictionaries(
    st.sampled_from(["until", "runs", "wall", "lease", "jobs", "operators", "recipients", "clients", "profiles"]),
    st.integers(0, 5),
    min_size=1,
).flatmap(
    lambda chosen: st.fixed_dictionaries(
        {
            name: {
                "until": st.sampled_from(["2027-01-15T08:00:00Z", "2027-01-16T00:00:00Z", "2020-01-01T00:00:00Z"]),
                "runs": st.integers(0, 4),
                "wall": st.sampled_from(["1s", "1h", "9h"]),
                "lease": st.sampled_from(["1s", "30s", "1h"]),
                "profiles": st.sampled_from([["measured"], ["tee"], ["measured", "simulated"]]),
            }.get(name, NAMES)
            for name in chosen
        }
    )
)


@settings(max_examples=150, deadline=None)
@given(
    forms=st.lists(FORMS, max_size=4),
    extra=FORMS,
    asset=st.sampled_from(["scans", "unet"]),
    purpose=st.sampled_from(["release", "renew", "finish"]),
    used=st.integers(0, 5),
    epochs=st.integers(1, 60),
    suspended=st.booleans(),
)
def test_adding_a_condition_never_releases_what_was_refused(
    forms: list[Any], extra: Any, asset: str, purpose: str, used: int, epochs: int, suspended: bool
) -> None:
    """One more of any form, anywhere: no refusal becomes a release, no release becomes longer."""
    made = [
        Condition(f"c{i}", "owner", form_from_json(form), f"sha256:{i:064d}") for i, form in enumerate([*forms, extra])
    ]
    usage = {"conditions": {c.digest: used for c in made}, "started": NOW - 60, "runs": {"train": min(used, 3)}}

    def decided(count: int) -> Release | Refusal:
        state = {
            "conditions": {asset: tuple(made[:count])} if count else {},
            "suspended": frozenset({"scans"} if suspended else ()),
        }
        run = {"purpose": purpose, "parameters": {**PARAMETERS, "epochs": epochs}}
        return World().broken(state=state, usage=usage, run=run).decide()

    before, after = decided(len(forms)), decided(len(made))
    if isinstance(before, Refusal):
        assert isinstance(after, Refusal)
        assert {r.code for r in before.reasons} <= {r.code for r in after.reasons}
    if isinstance(before, Release) and isinstance(after, Release):
        assert after.lease_seconds <= before.lease_seconds
        assert after.wall_seconds <= before.wall_seconds


def test_an_asset_without_conditions_is_as_before() -> None:
    """The state's default is none."""
    assert State(True, {}, frozenset()).conditions == {}
    assert copy.copy(NO_CONDITIONS).head == ""
