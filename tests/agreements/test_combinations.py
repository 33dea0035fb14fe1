"""Combinations of parameters: what may stand together, what that narrows, and what can never be met."""

from __future__ import annotations

from typing import Any

import pytest

from agreements.sample import document, edit
from perunml.agreements.diff import Effect, diff
from perunml.agreements.document import agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.release.decide import decide_submission
from perunml.release.types import Run, State, Usage
from perunml.wire.errors import PerunError

PARAMETERS = {"epochs": {"max": 50}, "size": {"in": [16, 32]}, "fast": {"value": True}}


def agreement(combinations: Any = None) -> Agreement:
    made = edit(document(), "jobs/train/parameters", PARAMETERS)
    if combinations is not None:
        made["jobs"]["train"]["combinations"] = combinations
    return agreement_from_json(made)


def codes(combinations: Any, **parameters: Any) -> set[str]:
    made = agreement(combinations)
    run = Run(made.digest, "train", "0" * 32, parameters, {})
    state = State(True, {}, frozenset(), True)
    return {reason.code for reason in decide_submission(made, state=state, run=run, usage=Usage.none(made), now=0)}


TWO = [{"epochs": 10, "size": 32}, {"epochs": 50, "size": 16}]


def test_values_stand_together_or_not_at_all() -> None:
    """Each is agreed by itself; fixed values count; what a combination does not name is free."""
    assert codes(None, epochs=10, size=16) == set()
    assert codes(TWO, epochs=10, size=32) == set()
    assert codes(TWO, epochs=50, size=16) == set()
    assert codes(TWO, epochs=10, size=16) == {"combination_not_agreed"}
    assert codes([{"size": 16}], epochs=7, size=16) == set()
    assert codes([{"fast": True, "epochs": 7}], epochs=7, size=16) == set()
    assert codes(TWO, size=16) == {"parameter_out_of_range", "combination_not_agreed"}
    assert codes([{"epochs": 1}], epochs=True, size=16) == {"parameter_out_of_range", "combination_not_agreed"}


@pytest.mark.parametrize(
    "wrong",
    [[], [{}], [{"epochs": 51}], [{"other": 1}], [{"fast": 1}], [{"size": "16"}], {"epochs": 1}, [{"epochs": [1]}]],
)
def test_what_can_never_be_met_is_a_mistake(wrong: Any) -> None:
    """Undeclared, out of range, of another type, empty."""
    with pytest.raises(PerunError) as caught:
        agreement(wrong)
    assert caught.value.code in ("agreement_inconsistent", "malformed")


@pytest.mark.parametrize(
    ("before", "after", "narrows"),
    [
        (None, TWO, True),
        (TWO, None, False),
        (TWO, TWO[:1], True),
        (TWO[:1], TWO, False),
        ([{"size": 16}], [{"size": 16, "epochs": 3}], True),
        ([{"size": 16, "epochs": 3}], [{"size": 16}], False),
        ([{"size": 16}], [{"size": 32}], False),
        ([{"size": 16}], [{"size": 16}, {"size": 16, "epochs": 3}], False),  # the same in other words
    ],
)
def test_fewer_and_fuller_ones_narrow(before: Any, after: Any, narrows: bool) -> None:
    """Nothing is allowed after that was not before; all else widens."""
    (change,) = diff(agreement(before), agreement(after))
    assert change.path == "jobs.train.combinations"
    assert (change.effect is Effect.NARROWS) == narrows
