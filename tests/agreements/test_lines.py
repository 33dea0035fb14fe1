"""A line of versions: linear, and never longer in force than everybody's word for it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from agreements.sample import document, edit, key
from perunml.agreements.approvals import Version, approval, check_successor, standing, standing_of_line
from perunml.agreements.document import agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import PerunError
from perunml.wire.timestamps import format_time

NOW = 1_800_000_000
SOON = NOW + 100
FIRST = agreement_from_json(document())
ENOUGH = ("st-vitus/dpo", "st-vitus/dr-b", "acme/ml", "gpu-cloud/ops", "clinic/desk")


def after(before: Agreement, **limits: Any) -> Agreement:
    made = document()
    made["metadata"] = {**made["metadata"], "version": before.metadata.version + 1, "predecessor": before.digest}
    made["jobs"]["train"]["limits"].update(limits)
    return agreement_from_json(made)


def approve(agreement: Agreement, *who: str, expires: int | None = None) -> list[Envelope]:
    end = agreement.ends if expires is None else expires
    return [signed("Approval", approval(agreement, name.split("/")[0], end), key(name)) for name in who]


SECOND = after(FIRST, runs=2)
THIRD = after(SECOND, runs=1)


def test_one_party_narrows_alone() -> None:
    """Of the version before everybody approved; of one that only narrows, one who may."""
    versions = [Version(FIRST, approve(FIRST, *ENOUGH)), Version(SECOND, approve(SECOND, "acme/ml"))]
    found = standing_of_line(versions, NOW)
    assert (found.in_force, found.approved, found.missing) == (True, {"acme"}, {})
    bystander = standing_of_line([versions[0], Version(SECOND, approve(SECOND, "clinic/desk"))], NOW)
    assert set(bystander.missing) == {"st-vitus", "acme", "gpu-cloud"}
    half = standing_of_line([versions[0], Version(SECOND, approve(SECOND, "st-vitus/dpo"))], NOW)
    assert not half.in_force


def test_a_narrowing_does_not_outlive_the_word_of_who_was_not_asked() -> None:
    """P12: the clinic agreed until then and no longer; a version by others does not draw that out, nor does the next."""
    until = approve(FIRST, *ENOUGH[:-1]) + approve(FIRST, ENOUGH[-1], expires=SOON)
    versions = [
        Version(FIRST, until),
        Version(SECOND, approve(SECOND, "acme/ml")),
        Version(THIRD, approve(THIRD, "gpu-cloud/ops")),
    ]
    for count in (1, 2, 3):
        assert standing_of_line(versions[:count], SOON - 1).in_force
        ended = standing_of_line(versions[:count], SOON)
        assert (ended.in_force, set(ended.missing)) == (False, {"clinic"})
    again = [*versions[:2], Version(THIRD, [*versions[2].approvals, *approve(THIRD, "clinic/desk")])]
    assert standing_of_line(again, SOON).in_force


def test_a_narrowing_ends_with_the_word_of_who_narrowed() -> None:
    """The next one does not stand on a version that counts no more, unless who may narrow says so again."""
    narrowed = approve(SECOND, "acme/ml", expires=SOON)
    start = [Version(FIRST, approve(FIRST, *ENOUGH)), Version(SECOND, narrowed)]
    assert set(standing_of_line(start, SOON).missing) == {"acme", "st-vitus", "gpu-cloud"}
    assert standing_of_line([*start, Version(THIRD, approve(THIRD, "gpu-cloud/ops"))], SOON).in_force
    clinic = [*start, Version(THIRD, approve(THIRD, "clinic/desk"))]
    assert not standing_of_line(clinic, NOW).in_force


def test_nobodys_word_is_taken_for_given() -> None:
    """Missing is not empty: without knowing how the version before stands, everybody is asked."""
    found = standing(SECOND, approve(SECOND, "acme/ml"), NOW, predecessor=FIRST)
    assert set(found.missing) == {"st-vitus", "gpu-cloud", "clinic"}
    assert standing(SECOND, approve(SECOND, *ENOUGH), NOW, predecessor=FIRST).in_force
    with pytest.raises(ValueError, match="first version"):
        standing_of_line([], NOW)
    with pytest.raises(PerunError, match="version_rollback"):
        standing_of_line([Version(SECOND, [])], NOW)


def test_a_pending_version_before_is_no_ground() -> None:
    """Votes that the version before lacks, the next one lacks."""
    found = standing_of_line(
        [Version(FIRST, approve(FIRST, *ENOUGH[1:])), Version(SECOND, approve(SECOND, "acme/ml"))], NOW
    )
    assert set(found.missing) == {"st-vitus"}


def test_p8_votes_belong_to_the_document_that_was_voted_on() -> None:
    """P8: a proposal that changes while votes are collected starts without any."""
    votes = approve(SECOND, "acme/ml")
    changed = after(FIRST, runs=2, wall="7h")
    found = standing_of_line([Version(FIRST, approve(FIRST, *ENOUGH)), Version(changed, votes)], NOW)
    assert not found.in_force
    assert [reason.code for reason in found.ignored] == ["approval_mismatch"]


def test_p6_p11_of_all_versions_exactly_the_next_follows() -> None:
    """P6, P11: a tree of every version and rival up to the third: each follows its own predecessor, and nothing else; so two that
    follow the same one exclude each other."""
    tree = [FIRST]
    for before in (FIRST, after(FIRST, runs=2), after(FIRST, runs=1)):
        tree += [found for runs in (1, 2) if (found := after(before, runs=runs)) not in tree]
    assert len(tree) == 7
    for fresh, newest in itertools.product(tree, repeat=2):
        follows = fresh.metadata.predecessor == newest.digest
        if follows:
            check_successor(fresh, newest)
            continue
        with pytest.raises(PerunError, match="version_rollback"):
            check_successor(fresh, newest)
    skipping = edit(document(), "metadata", {"name": FIRST.name, "version": 3, "predecessor": FIRST.digest})
    with pytest.raises(PerunError, match="version_rollback"):
        check_successor(agreement_from_json(skipping), FIRST)
    assert format_time(SOON) < format_time(FIRST.ends)
