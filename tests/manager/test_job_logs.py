"""A failed run's log at the manager: registered where the agreement says `level: full`, and nothing else with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manager.road import Road
from manager.world import World
from perunml.agreements.document import agreement_from_json
from perunml.wire.errors import IntegrityError, PerunError, UsageError


class Logged(Road):
    def document(self) -> dict[str, Any]:
        made = super().document()
        made["jobs"]["train"]["outputs"] |= {
            "log": {"to": "startup", "level": "full", "max_size": "1KiB"},
            "class": {"to": "hospital", "level": "error-class"},
        }
        return made


@pytest.fixture
def road(own_world: World, tmp_path: Path) -> Road:
    return Logged(own_world, tmp_path / "road")


def test_a_failed_run_leaves_its_log_and_no_other_output(road: Road) -> None:
    """The model that it had sealed is no output; the log is its recipient's alone. Audits follow (own_world's end)."""
    run, session, delivery = road.started()
    assert {name: key.format for name, key in delivery.outputs.items()} == {"model": "pt2", "log": "log"}
    model, log = road.output(session, delivery), road.output(session, delivery, b"Traceback", "log")
    session.finish({"log": log.digest}, error="code_failed")
    view = road.run(run)
    assert (view.state, [output.name for output in view.outputs]) == ("failed", ["log"])
    assert road.delivery(log.digest).output == "log"
    for asset, by in ((log.digest, "hospital"), (model.digest, "startup")):
        with pytest.raises(PerunError):
            road.delivery(asset, by)


def test_a_failed_run_cannot_leave_a_model(road: Road) -> None:
    """Named in its end or not."""
    _, session, delivery = road.started()
    model = road.output(session, delivery)
    with pytest.raises(UsageError) as caught:
        session.finish({"model": model.digest}, error="code_failed")
    assert caught.value.code == "malformed"


def test_a_log_that_is_not_whole_is_not_registered(road: Road) -> None:
    """As for any output."""
    _, session, _ = road.started()
    with pytest.raises(IntegrityError) as caught:
        session.finish({"log": "sha256:" + "0" * 64}, error="code_failed")
    assert caught.value.code == "output_incomplete"


def test_the_class_of_an_error_is_no_file(road: Road) -> None:
    """Nothing can be registered under its name."""
    _, session, delivery = road.started()
    key = delivery.outputs["log"]
    delivery.outputs["class"] = key.model_copy(
        update={"asset_id": road.world.server.services.keys.output_id(session.run, "class")}
    )  # type: ignore[union-attr]  # it runs
    with pytest.raises(IntegrityError) as caught:
        road.output(session, delivery, b"x", "class")
    assert caught.value.code == "output_not_agreed"


def test_a_log_stays_when_an_owner_narrows_it_away(road: Road) -> None:
    """Alone and at once: `error-class` where it was `full`; what was registered under the version before leaves no more, and no run's end brings another."""
    _, session, delivery = road.started()
    log = road.output(session, delivery, b"patient-17", "log")
    session.finish({"log": log.digest}, error="code_failed")
    _, later, keys = road.started()
    late = road.output(later, keys, b"patient-18", "log")
    assert road.delivery(log.digest).output == "log"
    document = road.document()
    document["metadata"] |= {"version": 2, "predecessor": road.agreement.digest}
    document["jobs"]["train"]["outputs"]["log"]["level"] = "error-class"
    narrower = agreement_from_json(document)
    road.propose(narrower, by="hospital")
    assert road.approve(narrower, "hospital").state == "in_force"
    later.finish({"log": late.digest}, error="code_failed")
    for asset in (log.digest, late.digest):
        with pytest.raises(PerunError, match="output_unknown"):
            road.delivery(asset)


def test_where_no_log_was_agreed_a_failed_run_leaves_nothing(own_world: World, tmp_path: Path) -> None:
    """The rule of before."""
    road = Road(own_world, tmp_path / "road")
    _, session, delivery = road.started()
    log = road.output(session, delivery)
    assert "log" not in delivery.outputs
    with pytest.raises(UsageError) as caught:
        session.finish({"log": log.digest}, error="code_failed")
    assert caught.value.code == "malformed"
