"""What a version may do without asking, measured by what the decision then does.

`agreements.diff` says who must approve a version; `decide`, `decide_output` and `check_client` say what happens under it. Whoever was
not asked finds nothing released of what is theirs that was not released before, and nothing withheld that only they could withhold.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from agreements.sample import key
from perunml.agreements import flows
from perunml.agreements.diff import Effect, diff
from perunml.agreements.needed import Need, needed
from perunml.agreements.schema import Agreement
from perunml.release.clients import check_client
from perunml.release.types import Release
from perunml.wire.errors import PerunError
from release.lattice import AXES, ORIGIN, Point, Wish, pulls, version, wishes

WISHES, PULLS = tuple(wishes()), tuple(pulls())
PAIRS = 100
"""Pairs of random points; each is asked a few hundred questions under both versions."""


def _neighbours() -> Iterator[tuple[Point, Point]]:
    """Every two values of each place, all other places as they are."""
    for axis, values in enumerate(AXES.values()):
        for one, other in itertools.permutations(range(len(values)), 2):
            yield _set(ORIGIN, axis, one), _set(ORIGIN, axis, other)


def _set(point: Point, axis: int, value: int) -> Point:
    return (*point[:axis], value, *point[axis + 1 :])


def _random(count: int, changes: int) -> Iterator[tuple[Point, Point]]:
    draw = random.Random(20271123)
    sizes = [len(values) for values in AXES.values()]
    for _ in range(count):
        before = tuple(draw.randrange(size) for size in sizes)
        after = before
        for axis in draw.sample(range(len(sizes)), draw.randint(1, changes)):
            after = _set(after, axis, draw.randrange(sizes[axis]))
        yield before, after


NEIGHBOURS = tuple(_neighbours())
FAR = tuple(_random(PAIRS, 4))


def _versions(before: Point, after: Point) -> tuple[Agreement, Agreement, Need]:
    old = version(before)
    new = version(after, old.digest)
    return old, new, needed(new, old)


def _no_more(new: Release, old: Release | None) -> bool:
    """Whether all that `new` hands out, `old` does: the same inputs, to a host that need not ask more seldom, for outputs that
    reach nobody else."""
    if old is None:
        return False
    known = {grant.name: grant for grant in old.outputs}
    outputs = all(
        (was := known.get(grant.name)) is not None
        and (was.format, was.fields, set(was.to)) == (grant.format, grant.fields, set(grant.to))
        and grant.max_size <= was.max_size
        and set(grant.approvers) >= set(was.approvers)
        for grant in new.outputs
    )
    same = [(r.inputs, _exactly(r), r.machine, r.simulated) for r in (new, old)]
    return (
        outputs
        and same[0] == same[1]
        and new.lease_seconds <= old.lease_seconds
        and new.wall_seconds <= old.wall_seconds
    )


def _exactly(release: Release) -> list[tuple[str, str]]:
    """Parameters as a job sees them: true is not 1."""
    return sorted((name, repr(value)) for name, value in release.parameters.items())


def _asked(need: Need, could: frozenset[str]) -> bool:
    """Whether nobody of all could have been passed over: one of these parties has to approve, whoever else does."""
    return bool(set(need.every) & could) or any(parties <= could for parties in need.one_of)


def _as_old(wish: Wish, release: Release) -> Wish:
    """The same run with the fixed parameters written out: leaving them out is not another run."""
    return replace(wish, parameters=dict(release.parameters))


@pytest.mark.parametrize("pairs", [NEIGHBOURS, FAR], ids=["one change", "several changes"])
def test_nothing_more_is_released_than_before_unless_every_owner_was_asked(
    pairs: tuple[tuple[Point, Point], ...],
) -> None:
    """THE promise of narrowing: who was not asked has nothing of its own handed out that was not handed out before."""
    more = 0
    for before, after in pairs:
        old, new, need = _versions(before, after)
        for wish in WISHES:
            release = wish.under(new)
            if release is None or _no_more(release, _as_old(wish, release).under(old)):
                continue
            more += 1
            assert flows.owners(new, wish.job) <= set(need.every), (
                wish,
                [change.sentence for change in diff(old, new)],
            )
    assert more > 100


@pytest.mark.parametrize("pairs", [NEIGHBOURS, FAR], ids=["one change", "several changes"])
def test_no_output_leaves_that_did_not_before_unless_every_owner_was_asked(
    pairs: tuple[tuple[Point, Point], ...],
) -> None:
    """To another recipient, with fewer approvals, for longer: whose assets are in it were asked, even where the job that was altered is
    another."""
    more = 0
    for before, after in pairs:
        old, new, need = _versions(before, after)
        for pull in PULLS:
            if pull.under(new) is None or pull.under(old) is not None:
                continue
            more += 1
            assert flows.owners(new, f"{pull.job}.outputs.{pull.output}") <= set(need.every), (
                pull,
                [change.sentence for change in diff(old, new)],
            )
    assert more > 20


@pytest.mark.parametrize("pairs", [NEIGHBOURS, FAR], ids=["one change", "several changes"])
def test_nothing_is_taken_away_by_somebody_who_could_not_have_stopped_it(
    pairs: tuple[tuple[Point, Point], ...],
) -> None:
    """A run by its owners or its operator; an output by its owners or with its recipient's consent; never by a bystander."""
    less = 0
    for before, after in pairs:
        old, new, need = _versions(before, after)
        for wish in WISHES:
            if wish.under(old) is None or wish.under(new) is not None:
                continue
            less += 1
            could = flows.owners(old, wish.job) | {old.jobs[wish.job].operator}
            assert _asked(need, could), (wish, [change.sentence for change in diff(old, new)])
        for pull in PULLS:
            if pull.under(old) is None or pull.under(new) is not None:
                continue
            less += 1
            could = flows.owners(old, f"{pull.job}.outputs.{pull.output}")
            assert pull.recipient in need.every or _asked(need, could), (
                pull,
                [change.sentence for change in diff(old, new)],
            )
    assert less > 100


def test_nobody_asks_a_service_who_did_not_before_unless_every_owner_agreed() -> None:
    """A client more."""

    def may(agreement: Agreement, client: str) -> bool:
        try:
            return bool(check_client(agreement, "serve", key(client).public.text))
        except PerunError:
            return False

    seen = 0
    for before, after in (*NEIGHBOURS, *FAR):
        old, new, need = _versions(before, after)
        for client in ("acme/ml", "clinic/desk", "st-vitus/dpo"):
            if may(new, client) and not may(old, client):
                seen += 1
                assert flows.owners(new, "serve") <= set(need.every)
            if may(old, client) and not may(new, client):
                assert old.party_of(key(client).public.text) in need.every
    assert seen


def _narrower(before: Point, after: Point) -> bool:
    changes = diff(version(before), version(after))
    return bool(changes) and all(change.effect is Effect.NARROWS for change in changes)


def test_narrowing_is_an_order() -> None:
    """Of every two values of every place at most one way narrows, and two steps that narrow are one that does."""
    found = 0
    for axis, values in enumerate(AXES.values()):
        points = [_set(ORIGIN, axis, value) for value in range(len(values))]
        for one, two in itertools.permutations(points, 2):
            assert not (_narrower(one, two) and _narrower(two, one))
            assert diff(version(one), version(two)), "a place that differs and nobody says so"
        for one, two, three in itertools.permutations(points, 3):
            if _narrower(one, two) and _narrower(two, three):
                found += 1
                assert _narrower(one, three)
    assert found


def test_several_changes_narrow_only_where_each_of_them_does() -> None:
    """Widening one place is not paid for by narrowing another."""
    narrow = {pair for pair in NEIGHBOURS if _narrower(*pair)}
    draw = random.Random(7)
    for _ in range(300):
        one, other = draw.sample(NEIGHBOURS, 2)
        if _axis(one) == _axis(other):
            continue
        before = tuple(map(max, one[0], other[0]))
        after = tuple(map(max, one[1], other[1]))
        assert _narrower(before, after) == (one in narrow and other in narrow), (one, other)


def _axis(pair: tuple[Point, Point]) -> int:
    return next(axis for axis, (one, other) in enumerate(zip(*pair, strict=True)) if one != other)
