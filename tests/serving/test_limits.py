"""Quota and replay memory, each alone: what is granted, what is remembered, for how long."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.api.runs import QuotaAnswer
from perunml.serving.quota import MAX_BATCH, QUIET, Quota
from perunml.serving.replay import SKEW, WINDOW, Replays
from perunml.wire.errors import AgreementRefusal, LimitReached


class Manager:
    """Grants `left` requests in all, and keeps what was wanted."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.wanted: list[int] = []
        self.now = 0.0

    def draw(self, wanted: int) -> QuotaAnswer:
        self.wanted.append(wanted)
        granted = min(wanted, self.left)
        self.left -= granted
        return QuotaAnswer(granted=granted, retry_seconds=30)

    def quota(self) -> Quota:
        return Quota(self.draw, clock=lambda: self.now)


@given(st.integers(0, 300), st.integers(0, 400))
@settings(max_examples=50, deadline=None)
def test_never_more_than_was_granted(limit: int, tries: int) -> None:
    """Of any number of tries, exactly as many pass as the manager granted, each batch at most the bound."""
    manager = Manager(limit)
    quota = manager.quota()
    passed = 0
    for _ in range(tries):
        try:
            quota.take()
        except LimitReached:
            continue
        passed += 1
    assert passed == min(limit, tries)
    assert all(1 <= wanted <= MAX_BATCH for wanted in manager.wanted)


def test_a_quiet_service_draws_one_at_a_time() -> None:
    """Batches grow while a service is busy, and begin small again after a pause: replicas leave something for each other."""
    manager = Manager(10**6)
    quota = manager.quota()
    manager.now = 1000.0
    for _ in range(7):
        quota.take()
    assert manager.wanted == [1, 2, 4]
    manager.now += QUIET + 1
    quota.take()
    assert manager.wanted == [1, 2, 4, 1]


def test_the_manager_is_not_asked_before_its_time() -> None:
    """After a refusal nobody is asked until `retry_seconds` are over; then again."""
    manager = Manager(0)
    quota = manager.quota()
    for _ in range(5):
        with pytest.raises(LimitReached) as refused:
            quota.take()
        assert refused.value.code == "quota_exhausted"
    assert manager.wanted == [1]
    manager.left, manager.now = 1, 31.0
    quota.take()


@pytest.mark.parametrize("granted", [-1, 0, 2, 10**9])
def test_a_grant_that_was_not_asked_for_is_none(granted: int) -> None:
    """A manager's answer of more than was wanted, or less than nothing, lets nobody through."""
    quota = Quota(lambda wanted: QuotaAnswer(granted=granted, retry_seconds=-5), clock=lambda: 0.0)
    with pytest.raises(LimitReached):
        quota.take()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400), st.integers(-200, 100)), max_size=40))
@settings(max_examples=100, deadline=None)
def test_no_request_passes_twice(events: list[tuple[int, int, int]]) -> None:
    """Four requests (each with its own fixed time) sent again and again while the clock goes on: each passes at most once."""
    replays = Replays()
    times: dict[int, int] = {}
    passed: list[int] = []
    now = 1_000_000
    for which, pause, offset in events:
        now += pause
        time = times.setdefault(which, now + offset)
        with contextlib.suppress(AgreementRefusal):
            replays.admit("clinic", f"{which:032x}", time=time, certificate_end=now + 30, now=now)
            passed.append(which)
    assert len(passed) == len(set(passed))


def test_the_same_id_of_two_parties_is_two_requests() -> None:
    """One party cannot use up another's ids."""
    replays = Replays()
    replays.admit("a", "0" * 32, time=100, certificate_end=130, now=100)
    replays.admit("b", "0" * 32, time=100, certificate_end=130, now=100)


def test_memory_is_bounded_and_frees_itself() -> None:
    """At its capacity the service refuses; later, when what it remembers is stale anyway, it goes on."""
    replays = Replays(capacity=2)
    for number in range(2):
        replays.admit("a", f"{number:032x}", time=0, certificate_end=30, now=0)
    with pytest.raises(LimitReached) as refused:
        replays.admit("a", "f" * 32, time=0, certificate_end=30, now=0)
    assert refused.value.code == "service_busy"
    later = 30 + WINDOW + SKEW + 1
    replays.admit("a", "f" * 32, time=later, certificate_end=later, now=later)
