"""Limits are the manager's to count: over restarts, hosts enrolled anew, new versions, and whoever asks at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from manager.road import Road
from manager.world import Threads, World, code_of
from perunml.agreements.document import agreement_from_json
from perunml.api.runs import QuotaRequest
from perunml.host.session import Session
from perunml.manager.clock import Clock, monotonic
from perunml.wire.errors import PerunError

DAY = 86400


@pytest.fixture
def road(own_world: World, tmp_path: Path) -> Road:
    return Road(own_world, tmp_path / "road", limits={"runs": 3, "resumes": 1})


def version(road: Road, change: Any) -> None:
    """The next version, approved by everybody."""
    document = road.document()
    before = road.agreement.metadata
    document["metadata"] = {**document["metadata"], "version": before.version + 1, "predecessor": road.agreement.digest}
    change(document)
    road.agreement = agreement_from_json(document)
    road.in_force(road.agreement)


def enrolled_again(road: Road) -> None:
    road.trainer = road.world.enrol(road.keys["cloud"], "trainer", road.tpm)


def test_runs_outlive_restarts_enrolments_and_versions(road: Road) -> None:
    """Three are three, whatever happens in between; a version that allows a fourth allows one more, not four."""
    road.trained()
    road.world.restart()
    enrolled_again(road)
    road.trained()
    version(road, lambda document: document["jobs"]["train"]["limits"].update(wall="2h"))
    road.trained()
    assert code_of(road.submit) == "runs_exhausted"
    version(road, lambda document: document["jobs"]["train"]["limits"].update(runs=4))
    road.trained()
    assert code_of(road.submit) == "runs_exhausted"
    road.world.restart()
    assert code_of(road.submit) == "runs_exhausted"


def test_of_many_at_the_last_run_one_gets_it(road: Road) -> None:
    """Submitted while there was room, released at once: the transaction counts."""
    road.trained()
    road.trained()
    runs = [road.submit().run for _ in range(4)]

    def release(run: str) -> str:
        try:
            road.release(run)
        except PerunError as exc:
            return exc.code
        return "released"

    results = Threads().run([lambda run=run: release(run) for run in runs])
    assert sorted(set(results)) in (["released", "runs_exhausted"], ["nonce_mismatch", "released", "runs_exhausted"])
    assert results.count("released") == 1


def serving(road: Road) -> tuple[str, Session]:
    run = road.submit("serve", "clinic").run
    session, _ = road.release(run, road.server, "https://service.example")
    return run, session


def drawn(session: Session, run: str, wanted: int = 100) -> int:
    return session.link.quota(run, QuotaRequest(wanted=wanted)).granted


def test_requests_outlive_restarts_replicas_and_versions(road: Road) -> None:
    """Ten a day are ten a day: of a replica that came later, after a restart, under a version that says something else."""
    road.trained()
    run, session = serving(road)
    assert drawn(session, run, 4) == 4
    road.world.restart()
    assert drawn(session, run, 2) == 2
    again, replica = serving(road)
    assert drawn(replica, again, 3) == 3
    version(road, lambda document: document["jobs"]["train"]["limits"].update(wall="2h"))
    last, third = serving(road)
    assert drawn(third, last) == 1
    assert [drawn(one, name) for one, name in ((session, run), (replica, again), (third, last))] == [0, 0, 0]
    # What narrows counts what was drawn before: of nine, ten are gone.
    version(road, lambda document: document["jobs"]["serve"]["limits"].update(requests="9/day"))
    narrow, fourth = serving(road)
    assert drawn(fourth, narrow) == 0


@pytest.mark.parametrize("years", [-10, 10])
def test_s10_a_clock_that_jumps_resets_no_limit(own_world: World, tmp_path: Path, years: int) -> None:
    """S10: ten years back or on, between two requests: refused, counted on where it was when it comes back; nothing is released past
    an end."""
    shift = [0.0]
    own_world.stop()
    own_world.clock = Clock(lambda: time.time() + shift[0], monotonic)
    own_world.start()
    road = Road(own_world, tmp_path / "road", limits={"runs": 2})
    road.trained()
    run, session = serving(road)
    assert drawn(session, run, 9) == 9
    shift[0] = years * 365.25 * DAY
    for do in (road.submit, lambda: drawn(session, run, 1), session.renew):
        assert code_of(do) in ("clock_jumped", "request_stale", "request_unsigned", "unreachable")
    shift[0] = 0.0
    assert drawn(session, run, 9) == 1
    road.trained()
    assert code_of(road.submit) == "runs_exhausted"


def test_s10_a_clock_that_wavers_gives_no_window_twice(own_world: World, tmp_path: Path) -> None:
    """S10: a second back and on again, too little for a jump: what a window allowed is not given once more."""
    road = Road(own_world, tmp_path / "road")
    version(road, lambda document: document["jobs"]["serve"]["limits"].update(requests="2/second"))
    road.trained()
    run, session = serving(road)
    base, shift = int(time.time()) + 2, [0]
    own_world.stop()
    own_world.clock = Clock(lambda: base + shift[0], monotonic)
    own_world.start()
    granted = []
    for shift[0] in (1, 2, 1, 2, 1):
        granted.append(drawn(session, run))
    assert granted == [2, 2, 0, 0, 0]
    shift[0] = 3
    assert drawn(session, run) == 2
