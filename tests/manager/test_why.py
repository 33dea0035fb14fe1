"""Why a job does not run: every reason at once, in whatever state, and nothing to strangers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from manager.road import Road
from manager.test_conditions import put
from manager.world import World, code_of
from perunml.api.why import Why
from perunml.wire.identity import SigningKey


@pytest.fixture
def road(own_world: World, tmp_path: Path) -> Road:
    return Road(own_world, tmp_path / "road", limits={"runs": 2})


def of_job(road: Road, job: str, by: str = "startup", digest: str = "") -> Why:
    where = f"/v1/agreements/{quote(digest or road.agreement.digest)}/why?job={job}"
    return road.party[by].call("GET", where, Why)


def of_run(road: Road, run: str, by: str = "startup") -> Why:
    return road.party[by].call("GET", f"/v1/runs/{run}/why", Why)


def codes(found: Why) -> list[str]:
    return [str(reason["code"]) for reason in found.reasons]


def test_before_anything_was_asked_for(road: Road) -> None:
    """Clear; then every reason at once: suspended, under a condition of another's, and used up."""
    assert (of_job(road, "train").state, of_job(road, "train").reasons) == ("clear", [])
    road.trained()
    road.trained()
    road.suspend("unet", "startup")
    put(road, "scans", "hospital", "no", {"jobs": ["other"]})
    found = of_job(road, "train")
    assert found.state == "refused"
    assert codes(found) == ["runs_exhausted", "asset_suspended", "owner_condition"]
    assert found.conditions == []
    (own,) = of_job(road, "train", "hospital").conditions
    assert (own.condition, own.member, own.expected, own.seen) == ("no", "jobs", "other", "train")


def test_whose_approval_is_missing(road: Road) -> None:
    """A version that is proposed: pending, and who has still to sign."""
    from perunml.agreements.document import agreement_from_json

    document = road.document()
    document["metadata"] = {"name": "another"}
    made = agreement_from_json(document)
    road.propose(made)
    road.approve(made, "startup")
    found = of_job(road, "train", digest=made.digest)
    assert found.state == "pending"
    assert codes(found) == ["agreement_not_in_force"]
    seen = str(found.reasons[0]["seen"])
    assert "hospital" in seen
    assert "startup" not in seen


def test_a_run_that_waits_and_one_that_was_refused(road: Road) -> None:
    """No host yet; then what its host was refused for; a run under way has nothing to say."""
    waiting = road.submit().run
    assert codes(of_run(road, waiting)) == ["no_host_yet"]
    run, session, _ = road.started()
    assert (of_run(road, run).state, of_run(road, run).reasons) == ("running", [])
    put(road, "scans", "hospital", "no", {"jobs": ["other"]})
    assert code_of(session.renew) == "owner_condition"
    found = of_run(road, run)
    assert found.state == "lost"
    assert codes(found) == ["owner_condition"]
    assert of_run(road, run, "hospital").conditions[0].condition == "no"
    assert codes(of_run(road, waiting)) == ["owner_condition"]


def test_c16_nobody_else_learns_anything(road: Road) -> None:
    """C16: a party of no such agreement hears the same of what exists and what does not."""
    run = road.submit().run
    stranger = road.world.party(SigningKey.generate())
    answers = {
        code_of(lambda path=path: stranger.raw("GET", path))
        for path in (
            f"/v1/runs/{run}/why",
            f"/v1/runs/{'0' * 32}/why",
            f"/v1/agreements/{quote(road.agreement.digest)}/why?job=train",
            f"/v1/agreements/{quote('sha256:' + '0' * 64)}/why?job=train",
        )
    }
    assert answers == {"not_entitled"}
    unknown: Any = code_of(lambda: of_job(road, "nothing"))
    assert unknown == "job_unknown"
