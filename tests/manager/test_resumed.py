"""A run that goes on at another session: what the first one left counts for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manager.road import Road
from manager.world import World, code_of


class _TwoOutputs(Road):
    def document(self) -> dict[str, Any]:
        document = super().document()
        document["jobs"]["train"]["outputs"]["notes"] = {"to": "startup", "format": "json", "max_size": "1MiB"}
        return document


def test_outputs_of_a_lost_session_do_not_come_in_with_the_next_one_s(own_world: World, tmp_path: Path) -> None:
    """A session that lost its lease has registered an output; the next session finishes without it: it stays out."""
    road = _TwoOutputs(own_world, tmp_path / "road", limits={"resumes": 2}, lease="1s")
    run, first, delivery = road.started()
    planted = road.output(first, delivery, b"planted")
    while road.run(run).state != "queued":
        pass
    second, delivery = road.release(run)
    notes = road.output(second, delivery, b"{}", name="notes")
    second.finish({"notes": notes.digest})
    assert [output.name for output in road.run(run).outputs] == ["notes"]
    assert code_of(lambda: road.delivery(planted.digest)) == "not_entitled"
