"""The decision: one honest world, and each rule broken once."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agreements.sample import DROP, MACHINE, SIMULATED, document, edit, key, sha, simulated
from perunml.agreements.document import agreement_from_json
from perunml.agreements.profiles import alternatives
from perunml.evidence.codes import NOT_IN_POLICY
from perunml.release import codes as rules
from perunml.release.decide import decide_submission
from perunml.release.types import InputGrant, OutputGrant, Refusal, Release, Usage, mint_release
from perunml.wire.errors import AgreementRefusal, ApprovalPending
from perunml.wire.rules import Reason, Rule
from release.world import AGREEMENT, BINDING, IN_FORCE, NOW, OPERATOR, PARAMETERS, World, on

HONEST = World()
TRAIN_UNTIL = AGREEMENT.jobs["train"].limits.until
WALL = 8 * 3600
RENEW: dict[str, Any] = {"run": {"purpose": "renew"}, "usage": {"started": NOW, "runs": {"train": 3}}}

BROKEN: list[tuple[str, str, dict[str, Any]]] = [
    ("not in force", "agreement_not_in_force", {"state": {"in_force": False, "missing": {"acme": "ml"}}}),
    ("superseded", "agreement_not_in_force", {"state": {"in_force": False}}),
    ("no witnesses", "witness_quorum_missing", {"state": {"cosigned": False}}),
    ("an owner's condition", "owner_condition", {"state": {"conditions": on("scans", jobs=["serve"])}}),
    ("another agreement's run", "agreement_mismatch", {"run": {"agreement_digest": sha("0")}}),
    ("the last second is over", "agreement_expired", {"now": TRAIN_UNTIL}),
    ("a fourth run of three", "runs_exhausted", {"usage": {"runs": {"train": 3}}}),
    ("unknown count", "usage_unknown", {"usage": {"runs": {}}}),
    ("negative count", "usage_unknown", {"usage": {"runs": {"train": -1}}}),
    ("a second resume of one", "resumes_exhausted", {"usage": {"resumes": 2}}),
    ("a parameter above", "parameter_out_of_range", {"run": {"parameters": PARAMETERS | {"epochs": 51}}}),
    ("a parameter between", "parameter_out_of_range", {"run": {"parameters": PARAMETERS | {"epochs": 2.5}}}),
    ("a parameter below", "parameter_out_of_range", {"run": {"parameters": PARAMETERS | {"rate": 0.0001}}}),
    ("a parameter not finite", "parameter_out_of_range", {"run": {"parameters": PARAMETERS | {"rate": float("nan")}}}),
    ("a parameter of another type", "parameter_out_of_range", {"run": {"parameters": PARAMETERS | {"epochs": True}}}),
    ("a parameter as text", "parameter_out_of_range", {"run": {"parameters": PARAMETERS | {"epochs": "5"}}}),
    ("a parameter not listed", "parameter_out_of_range", {"run": {"parameters": PARAMETERS | {"batch_size": 17}}}),
    ("a fixed parameter changed", "parameter_out_of_range", {"run": {"parameters": PARAMETERS | {"seed": 8}}}),
    ("a parameter too many", "parameter_out_of_range", {"run": {"parameters": PARAMETERS | {"debug": True}}}),  # P20
    ("a parameter missing", "parameter_out_of_range", {"run": {"parameters": {"epochs": 5, "rate": 0.01}}}),
    ("changed training code", "digest_not_agreed", {"run": {"assets": {"unet": sha("0")}}}),
    ("an asset from elsewhere", "digest_not_agreed", {"run": {"assets": {"other": sha("a")}}}),
    ("suspended data", "asset_suspended", {"state": {"suspended": frozenset({"scans"})}}),
    ("suspended code", "asset_suspended", {"state": {"suspended": frozenset({"unet"})}}),
    ("evidence for another exchange", "binding_mismatch", {"appraisal": {"binding": bytes(48)}}),
    ("evidence for half of it", "binding_mismatch", {"appraisal": {"binding": BINDING[:32]}}),
    ("no binding on either side", "binding_mismatch", {"run": {"binding": b""}, "appraisal": {"binding": b""}}),
    ("simulated for measured", "profile_not_met", {"appraisal": {"profile": "simulated", "imitates": "measured"}}),
    ("measured that imitates", "profile_not_met", {"appraisal": {"imitates": "measured"}}),
    ("another profile", "profile_not_met", {"appraisal": {"profile": "tee"}}),
    ("no profile", "profile_not_met", {"appraisal": {"profile": ""}}),
    ("another baseline", "profile_not_met", {"appraisal": {"baseline": sha("d")}}),
    ("no baseline", "profile_not_met", {"appraisal": {"baseline": ""}}),
    ("the operator's own other machine", "machine_not_agreed", {"appraisal": {"machine": "ek:" + sha("0")}}),  # P15
    ("no machine", "machine_not_agreed", {"appraisal": {"machine": ""}}),
    ("a host that failed", "not_in_policy", {"appraisal": {"reasons": (Reason(NOT_IN_POLICY, "evil"),)}}),
    ("another operator", "wrong_operator", {"run": {"operator": key("acme/ml").public.text}}),
    ("no operator", "wrong_operator", {"run": {"operator": ""}}),
    ("a used boot", "boot_used_by_other_agreement", {"usage": {"other_agreement_this_boot": sha("0")}}),
    (
        "a used boot that the other would share",
        "boot_used_by_other_agreement",
        {"usage": {"other_agreement_this_boot": sha("0"), "other_agreement_shares": True}},
    ),
]


def test_the_honest_run_is_released() -> None:
    """With every rule kept, the release names what it grants and for how long."""
    found = HONEST.release()
    assert found.inputs == (
        InputGrant("code", "unet", sha("b"), "/code"),
        InputGrant("scans", "scans", sha("a"), "/in/scans"),
    )
    assert set(found.outputs) == {
        OutputGrant("model", "pt2", 500 * 2**20, (), ("acme",), ("st-vitus",)),
        OutputGrant("metrics", "json", 64 * 1024, ("epoch", "loss", "dice"), ("acme", "st-vitus"), ()),
    }
    assert found.parameters == PARAMETERS | {"seed": 7}
    assert (found.lease_seconds, found.wall_seconds, found.simulated) == (30, WALL, False)
    assert found.machine == MACHINE
    assert not any("simulated" in sentence for sentence in found.sentences)


@pytest.mark.parametrize(("_", "code", "parts"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_each_rule_broken_once_refuses(_: str, code: str, parts: dict[str, Any]) -> None:
    """P15, P20 and the rest: that rule's code and no other."""
    assert HONEST.broken(**parts).codes() == [code]


def test_an_unknown_job_is_refused() -> None:
    """A name that the agreement does not have gets nothing, and the other reasons are still told."""
    assert HONEST.broken(run={"job": "steal"}).codes() == ["job_unknown"]
    failed = HONEST.broken(
        run={"job": "steal"}, appraisal={"reasons": (Reason(NOT_IN_POLICY, "evil"),), "binding": b""}
    )
    assert failed.codes() == ["job_unknown", "binding_mismatch", "not_in_policy"]


def test_everything_wrong_is_told_at_once() -> None:
    """All of it, so that it is mended in one go."""
    found = HONEST.broken(
        state={"in_force": False, "cosigned": False, "suspended": frozenset({"scans", "unet"})},
        run={"operator": "", "parameters": {}, "assets": {"unet": sha("0")}, "agreement_digest": sha("0")},
        appraisal={"profile": "tee", "machine": "ek:" + sha("0"), "binding": b""},
        usage={"runs": {"train": 9}, "other_agreement_this_boot": sha("1")},
        now=TRAIN_UNTIL,
    )
    assert set(found.codes()) == {
        "agreement_not_in_force",
        "witness_quorum_missing",
        "agreement_mismatch",
        "agreement_expired",
        "runs_exhausted",
        "parameter_out_of_range",
        "digest_not_agreed",
        "asset_suspended",
        "binding_mismatch",
        "profile_not_met",
        "machine_not_agreed",
        "wrong_operator",
        "boot_used_by_other_agreement",
    }


def test_every_rule_of_the_decision_is_broken_somewhere_here() -> None:
    """A new rule without a test fails this one."""
    elsewhere = {"job_unknown", "wall_exceeded", "baseline_missing", "baseline_unsigned", "client_not_in_agreement"}
    elsewhere |= {
        "output_unknown",
        "recipient_not_agreed",
        "output_held",
        "history_inconsistent",
        "custody_weak",
        "combination_not_agreed",
    }
    declared = {rule.code for rule in vars(rules).values() if isinstance(rule, Rule)}
    assert declared - elsewhere <= {code for _, code, _ in BROKEN}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(BROKEN), min_size=1, max_size=4, unique_by=lambda b: b[0]), st.randoms())
def test_any_failing_rule_refuses_in_any_order(chosen: list[tuple[str, str, dict[str, Any]]], shuffle: Any) -> None:
    """Whatever is broken, it is never released; faults that touch different things are all told, however they came."""
    touched: list[str] = []
    kept = []
    for name, code, parts in chosen:
        places = [
            f"{part}.{field}" for part, value in parts.items() for field in (value if isinstance(value, dict) else [""])
        ]
        if not set(places) & set(touched):
            touched += places
            kept.append((name, code, parts))
    assert kept

    def world(order: list[tuple[str, str, dict[str, Any]]]) -> World:
        made = HONEST
        for _, _, parts in order:
            made = made.broken(**parts)
        return made

    told = world(kept).codes()
    shuffled = list(kept)
    shuffle.shuffle(shuffled)
    assert world(shuffled).codes() == told
    # An agreed machine is looked for among the profiles that were met, and a used-up count hides behind a resume.
    hidden = {"machine_not_agreed", "runs_exhausted", "usage_unknown"}
    assert {code for _, code, _ in kept} - hidden <= set(told)


def test_a_resume_is_no_new_run() -> None:
    """A run that lost its lease may start again though all runs are counted, as often as agreed."""
    resumed = HONEST.broken(usage={"resumes": 1, "runs": {"train": 3}, "started": NOW - 100}).release()
    assert resumed.wall_seconds == WALL


def test_a_renewal_is_decided_anew() -> None:
    """A run in progress renews though runs are used up; but nothing else is forgiven."""
    renewing = HONEST.broken(**RENEW)
    assert renewing.release().wall_seconds == WALL
    for name, code, parts in BROKEN:
        if code not in ("runs_exhausted", "resumes_exhausted", "usage_unknown"):
            assert code in renewing.broken(**parts).codes(), name


def test_a_lease_never_outlives_what_was_agreed() -> None:
    """Ten seconds before the end, the lease is ten seconds; likewise before the wall time."""
    assert HONEST.broken(now=TRAIN_UNTIL - 10).release().lease_seconds == 10
    late = HONEST.broken(**RENEW).broken(now=NOW + WALL - 7)
    assert (late.release().lease_seconds, late.release().wall_seconds) == (7, 7)


def test_a_run_that_takes_too_long_is_not_renewed() -> None:
    """At its wall time it renews no more; it may say so for one lease longer, then not even that."""
    renewing, finishing = (HONEST.broken(**RENEW).broken(run={"purpose": p}) for p in ("renew", "finish"))
    assert renewing.broken(now=NOW + WALL - 1).release()
    assert renewing.broken(now=NOW + WALL).codes() == ["wall_exceeded"]
    assert finishing.broken(now=NOW + WALL + 29).release()
    assert finishing.broken(now=NOW + WALL + 30).codes() == ["wall_exceeded"]


def test_a_run_that_never_started_is_not_renewed() -> None:
    """Missing is not now: without a start nothing is known of the wall time."""
    for purpose in ("renew", "finish"):
        assert HONEST.broken(run={"purpose": purpose}).codes() == ["usage_unknown"]


def test_machines_are_shared_only_when_both_say_so() -> None:
    """One agreement per boot, unless both agreements share."""
    shared = HONEST.under(edit(document(), "jobs/train/tenancy", "shared"))
    other = {"other_agreement_this_boot": sha("0")}
    assert shared.broken(usage=other).codes() == ["boot_used_by_other_agreement"]
    assert shared.broken(usage=other | {"other_agreement_shares": True}).release()
    assert HONEST.broken(usage={"other_agreement_this_boot": AGREEMENT.digest}).release()


SERVE: dict[str, Any] = {
    "run": {"job": "serve", "parameters": {}, "assets": {}},
    "appraisal": {"profile": "simulated", "imitates": "tee", "machine": SIMULATED, "baseline": ""},
}


def test_a_service_gets_the_model() -> None:
    """It reads another job's output, has no wall time and no count of runs, and says that it is simulated."""
    found = HONEST.broken(**SERVE).broken(usage={"runs": {}}).release()
    assert found.inputs == (InputGrant("model", "train.outputs.model", "", "/model"),)
    assert (found.outputs, found.wall_seconds, found.simulated) == ((), 0, True)
    assert "simulated: the host proves nothing" in found.sentences
    assert HONEST.broken(**SERVE).broken(run={"purpose": "renew"}).release()


def test_a_service_takes_no_parameters() -> None:
    """What is not declared is refused."""
    assert HONEST.broken(**SERVE).broken(run={"parameters": {"x": 1}}).codes() == ["parameter_out_of_range"]


@pytest.mark.parametrize("asset", ["scans", "unet"])
def test_what_was_made_from_a_suspended_asset_is_not_served(asset: str) -> None:
    """The suspension of the data, or of the code, reaches the service through the model."""
    world = HONEST.broken(**SERVE).broken(state={"suspended": frozenset({asset})})
    assert world.codes() == ["asset_suspended"]


def test_any_of_takes_each_alternative_and_no_other() -> None:
    """The inference role names two TEEs and `simulated`; each under what it writes out."""
    role = AGREEMENT.role("serve")
    for profile in alternatives(role):
        achieved = {"profile": profile.profile, "imitates": profile.imitated, "baseline": profile.judged_by}
        assert HONEST.broken(**SERVE).broken(appraisal=achieved).release().simulated == (profile.profile == "simulated")
    for wrong in (
        {"profile": "tee", "imitates": "", "baseline": ""},
        {"profile": "tee", "imitates": "", "baseline": sha("0")},
        {"profile": "gpu-cc", "imitates": ""},
        {"profile": "measured", "imitates": ""},
        {"imitates": "measured"},
        {"imitates": ""},
    ):
        assert HONEST.broken(**SERVE).broken(appraisal=wrong).codes() == ["profile_not_met"], wrong


SIMULATED_WORLD = HONEST.under(simulated())


def test_simulated_is_met_only_where_it_is_said() -> None:
    """The same software TPM that a `measured` role refuses is released to where the agreement says `simulated`."""
    software = {"profile": "simulated", "imitates": "measured", "machine": SIMULATED}
    found = SIMULATED_WORLD.broken(appraisal=software).broken(state={"cosigned": False}).release()
    assert found.simulated
    assert HONEST.broken(appraisal=software).codes() == ["profile_not_met", "machine_not_agreed"]


def test_a_real_machine_may_stand_where_a_simulated_one_would_do() -> None:
    """An honest host that proves more is not refused, but it must be named and under the agreed baseline."""
    assert not SIMULATED_WORLD.release().simulated
    assert SIMULATED_WORLD.broken(appraisal={"machine": "ek:" + sha("0")}).codes() == ["machine_not_agreed"]
    assert SIMULATED_WORLD.broken(appraisal={"baseline": ""}).codes() == ["profile_not_met"]


def test_a_bare_key_does_not_stand_for_a_software_tpm() -> None:
    """`imitates: measured` wants the checks of measured to have been run."""
    bare = {"profile": "simulated", "imitates": "tee", "machine": SIMULATED, "baseline": ""}
    assert SIMULATED_WORLD.broken(appraisal=bare).codes() == ["profile_not_met"]


def test_a_simulated_role_without_machines_takes_any() -> None:
    """Only `simulated` and TEEs may leave machines out; a nameless one is still refused."""
    made = edit(simulated(), "hosts/trainer/machines", DROP)
    world = HONEST.under(made).broken(appraisal={"machine": SIMULATED})
    assert world.release()
    assert world.broken(appraisal={"machine": ""}).codes() == ["machine_not_agreed"]


def test_a_machine_is_named_by_the_profile_that_it_meets() -> None:
    """Of two alternatives with machines of their own, each admits its own machines, and neither the other's."""
    measured = document()["hosts"]["trainer"]
    more = {**measured, "machines": ["ek:" + sha("f")]}
    tee = {"profile": "tee", "tdx": {"mrtd": "0"}, "machines": ["ek:" + sha("9")]}
    world = HONEST.under(edit(document(), "hosts/trainer", {"any_of": [measured, more, tee]}))
    assert world.release()
    assert world.broken(appraisal={"machine": "ek:" + sha("f")}).release()
    assert world.broken(appraisal={"machine": "ek:" + sha("9")}).codes() == ["machine_not_agreed"]
    # not met at all: the machine is a second fault only when no alternative names it
    unmet = world.broken(appraisal={"baseline": sha("0")})
    assert unmet.codes() == ["profile_not_met"]
    assert unmet.broken(appraisal={"machine": "ek:" + sha("0")}).codes() == ["profile_not_met", "machine_not_agreed"]


def test_a_submission_is_told_what_is_known_before_a_host_is_there() -> None:
    """All that does not depend on a host, and nothing that does."""

    def told(world: World) -> set[str]:
        found = decide_submission(world.agreement, state=world.state, run=world.run, usage=world.usage, now=world.now)
        return {reason.code for reason in found}

    host = {
        "binding_mismatch",
        "profile_not_met",
        "machine_not_agreed",
        "wrong_operator",
        "boot_used_by_other_agreement",
        "not_in_policy",
        "witness_quorum_missing",
    }
    bare = HONEST.broken(run={"binding": b"", "operator": ""})
    assert told(bare) == set()
    for name, code, parts in BROKEN:
        assert told(bare.broken(**parts)) == {code} - host, name
    assert told(bare.broken(run={"job": "steal"})) == {"job_unknown"}


def test_reasons_say_what_was_expected_and_seen() -> None:
    """A person can mend it from the reason alone."""
    for name, _, parts in BROKEN:
        found = HONEST.broken(**parts).decide()
        assert isinstance(found, Refusal)
        for reason in found.reasons:
            if reason.rule is not NOT_IN_POLICY:
                assert reason.message, name
                assert reason.rule.mend, name
                assert reason.expected, name
                assert reason.seen, name


def test_a_refusal_raises_by_its_first_reason() -> None:
    """Its exit code is the first reason's."""
    pending = HONEST.broken(state={"in_force": False}).decide()
    assert isinstance(pending, Refusal)
    assert isinstance(pending.error(), ApprovalPending)
    wrong = HONEST.broken(run={"operator": ""}).decide()
    assert isinstance(wrong, Refusal)
    assert isinstance(wrong.error(), AgreementRefusal)
    with pytest.raises(ValueError, match="reason"):
        Refusal(())


def test_only_the_decision_makes_a_release() -> None:
    """Neither the constructor nor a copy makes one, and in the whole product only `decide` uses the mint."""
    found = HONEST.release()
    values = {name: getattr(found, name) for name in Release.__slots__}
    with pytest.raises(TypeError):
        Release(**values, token=object())
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(found, lease_seconds=10**6)
    assert mint_release(**values) == found
    package = Path(rules.__file__).parents[1]
    users = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"mint_(output_)?release|release\.types import .*_TOKEN", path.read_text())
    }
    assert users == {"release/types.py", "release/decide.py", "release/outputs.py"}


def test_usage_starts_at_nothing_used() -> None:
    """Zeros for every training job, and none for services, which are not counted by runs."""
    assert Usage.none(AGREEMENT) == Usage({"train": 0})
    assert IN_FORCE.cosigned
    assert agreement_from_json(document()).parties["gpu-cloud"].keys["ops"] == OPERATOR
