"""The order of a windowed shuffle: each record once over all ranks and workers, the same again from any position."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.sealing.views.windows import Plan

PLANS = st.builds(
    Plan,
    count=st.integers(0, 400),
    block=st.integers(1, 23),
    window=st.integers(1, 6),
    batch=st.integers(1, 40),
    seed=st.integers(0, 5),
    shuffle=st.booleans(),
)


def read(plan: Plan, epoch: int, windows: range) -> list[int]:
    """The records of these windows, in order."""
    found: list[int] = []
    order = plan.order(epoch)
    for window in windows:
        held = [record for first, count in plan.runs(order, window) for record in range(first, first + count)]
        found += [held[place] for place in plan.mix(epoch, window, len(held))]
    return found


@given(PLANS, st.integers(1, 3), st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_each_record_comes_once(plan: Plan, ranks: int, workers: int, epoch: int) -> None:
    """However many share the work; and as many as are counted."""
    shares = [plan.share(rank, ranks, worker, workers) for rank in range(ranks) for worker in range(workers)]
    parts = [read(plan, epoch, share) for share in shares]
    assert sorted(itertools.chain(*parts)) == list(range(plan.count))
    assert [plan.records(epoch, share) for share in shares] == [len(part) for part in parts]


@given(PLANS, st.integers(1, 3), st.integers(1, 4), st.integers(0, 30))
@settings(max_examples=150, deadline=None)
def test_how_far_each_worker_was(plan: Plan, ranks: int, workers: int, delivered: int) -> None:
    """A loader asks its workers in turn, and one at its end no more: done one by one, it is the same."""
    whole = plan.batches(1, 0, ranks, workers)
    given_, left = [0] * workers, delivered
    while left and any(done < all_ for done, all_ in zip(given_, whole, strict=True)):
        for worker in range(workers):
            if left and given_[worker] < whole[worker]:
                given_[worker], left = given_[worker] + 1, left - 1
    assert plan.done(1, 0, ranks, workers, delivered) == given_


def test_epochs_and_seeds_differ_and_nothing_else_does() -> None:
    """The order is of seed and epoch alone; unshuffled it is the file's."""
    plan = Plan(1000, 10, 4, 16, seed=3)
    everything = range(plan.windows)
    assert read(plan, 0, everything) == read(Plan(1000, 10, 4, 32, seed=3), 0, everything)
    assert read(plan, 0, everything) != read(plan, 1, everything)
    assert read(plan, 0, everything) != read(Plan(1000, 10, 4, 16, seed=4), 0, everything)
    plain = Plan(1000, 10, 4, 16, shuffle=False)
    assert read(plain, 5, everything) == list(range(1000))


def test_plans_that_make_no_sense_are_refused() -> None:
    """No blocks of nothing, no worker beyond the last."""
    for wrong in ({"block": 0}, {"window": 0}, {"batch": 0}, {"count": -1}):
        with pytest.raises(ValueError, match="at least"):
            Plan(**{"count": 1, "block": 1, "window": 1, "batch": 1, **wrong})
    with pytest.raises(ValueError, match="from 0"):
        Plan(1, 1, 1, 1).share(1, 1, 0, 1)
    with pytest.raises(ValueError, match="from 0"):
        Plan(1, 1, 1, 1).share(0, 1, 2, 2)
