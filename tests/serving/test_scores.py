"""Limits of the agreement on what a request asks and an answer tells: rows, the greatest scores, digits."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.serving.batching import Batching
from perunml.serving.forms import ModelForm
from perunml.serving.handlers import as_agreed
from perunml.serving.limits import Limited
from perunml.serving.tensors import Tensor, TensorForm, from_numbers, to_numbers
from perunml.wire.errors import PerunError


class Gives:
    """A model that gives what it was made with, and takes rows of anything."""

    def __init__(self, *outputs: Tensor, forms: Sequence[TensorForm] | None = None, rows: int = -1) -> None:
        self.outputs, self.rows = list(outputs), rows
        given = [TensorForm(each.name, each.datatype, (-1, *each.shape[1:])) for each in outputs]
        self._forms = tuple(given if forms is None else forms)

    def forms(self) -> ModelForm:
        return ModelForm("gives", (TensorForm("x", "FP32", (self.rows, 1)),), self._forms)

    def infer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return self.outputs


def asked(engine: Any, rows: int = 2) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in engine.infer([from_numbers("x", "FP32", (rows, 1), [1.0] * rows)])}


def scores(datatype: str = "FP64") -> Tensor:
    return from_numbers("p", datatype, (2, 4), [0.125, 0.5, 0.25, 0.125, 0.1875, 0.0625, 0.25, 0.5])


def test_only_the_greatest_are_left_and_where_they_stood() -> None:
    """Of each row, the greatest first; the first of equal ones."""
    found = asked(Limited(Gives(scores()), top_k=3))
    assert (found["p"].shape, to_numbers(found["p"])) == ((2, 3), [0.5, 0.25, 0.125, 0.5, 0.25, 0.1875])
    assert (found["p_indices"].datatype, to_numbers(found["p_indices"])) == ("INT64", [1, 2, 0, 3, 2, 0])


def test_more_than_there_are_is_all_of_them_in_order() -> None:
    """As many as there are."""
    assert to_numbers(asked(Limited(Gives(scores()), top_k=9))["p"]) == [
        0.5,
        0.25,
        0.125,
        0.125,
        0.5,
        0.25,
        0.1875,
        0.0625,
    ]


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_scores_are_rounded(datatype: str) -> None:
    """To decimal digits, in the type that they had."""
    found = asked(Limited(Gives(scores(datatype)), digits=1))["p"]
    assert found.datatype == datatype
    assert to_numbers(found) == [pytest.approx(n, abs=1e-3) for n in (0.1, 0.5, 0.2, 0.1, 0.2, 0.1, 0.2, 0.5)]
    assert to_numbers(asked(Limited(Gives(scores(datatype)), digits=0))["p"]) == [0, 0, 0, 0, 0, 0, 0, 0]
    both = asked(Limited(Gives(scores(datatype)), digits=1, top_k=1))
    assert to_numbers(both["p"]) == [0.5, 0.5]


def test_brain_floats_leave_as_floats_that_hold_them() -> None:
    """BF16 has no decimal digits to round to."""
    packed = b"".join(struct.pack("<f", value)[2:] for value in (0.5, 2.25, -1.0, 0.0))
    engine = Limited(Gives(Tensor("p", "BF16", (1, 4), packed)), top_k=2, digits=1)
    found = asked(engine, 1)
    assert (found["p"].datatype, to_numbers(found["p"])) == ("FP32", pytest.approx([2.2, 0.5]))
    assert [(form.name, form.datatype, form.shape) for form in engine.forms().outputs] == [
        ("p", "FP32", (-1, 2)),
        ("p_indices", "INT64", (-1, 2)),
    ]


def test_labels_and_single_numbers_are_left_alone() -> None:
    """Whole numbers as they are; of one number a row nothing is greatest, but it is rounded."""
    labels, single = from_numbers("label", "INT64", (2,), [7, 9]), from_numbers("y", "FP64", (2,), [0.26, 0.74])
    found = asked(Limited(Gives(labels, single), top_k=1, digits=1))
    assert (to_numbers(found["label"]), to_numbers(found["y"])) == ([7, 9], [0.3, 0.7])
    assert set(found) == {"label", "y"}
    fixed = from_numbers("p", "FP64", (3,), [0.2, 0.5, 0.3])
    one = asked(Limited(Gives(fixed, forms=[TensorForm("p", "FP64", (3,))]), top_k=1))
    assert (to_numbers(one["p"]), to_numbers(one["p_indices"])) == ([0.5], [1])


def test_the_metadata_says_what_is_left() -> None:
    """So that a client knows before it asks."""
    assert [(form.name, form.shape) for form in Limited(Gives(scores()), top_k=3).forms().outputs] == [
        ("p", (-1, 3)),
        ("p_indices", (-1, 3)),
    ]
    assert Limited(Gives(scores()), digits=3).forms() == Gives(scores()).forms()
    open_ended = Gives(scores(), forms=[TensorForm("p", "FP64", (-1, -1))])
    assert Limited(open_ended, top_k=3).forms().outputs[0].shape == (-1, -1)


def test_too_many_rows_are_refused_before_the_model() -> None:
    """With what is allowed; and a model of a fixed size has one row."""
    engine = Gives(scores())
    assert asked(Limited(engine, batch=2))
    with pytest.raises(PerunError) as refused:
        asked(Limited(engine, batch=1))
    assert (refused.value.code, refused.value.reasons[0].expected) == ("batch_too_large", "at most 1")
    assert asked(Limited(Gives(scores(), rows=2), batch=1))


def test_a_model_cannot_hide_scores_under_another_name() -> None:
    """Two outputs of one name, or a number whose place nobody can tell: a failure of the model."""
    for outputs in (
        (scores(), from_numbers("p_indices", "INT64", (2,), [1, 2])),
        (Tensor("p", "FP32", (1, 2), struct.pack("<2f", float("nan"), 1)),),
    ):
        with pytest.raises(PerunError) as refused:
            asked(Limited(Gives(*outputs), top_k=1))
        assert refused.value.code == "inference_failed"


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=5), max_size=4),
    st.integers(1, 7),
    st.none() | st.integers(0, 4),
)
@settings(max_examples=100, deadline=None)
def test_what_is_left_is_the_head_of_each_row_in_order(
    table: list[list[float]], top_k: int, digits: int | None
) -> None:
    """For any scores: the greatest, in order, each where its index says, rounded and nothing more."""
    engine = Gives(from_numbers("p", "FP64", (len(table), 5), [n for row in table for n in row]))
    found = asked(Limited(engine, top_k=top_k, digits=digits), len(table))
    kept = min(top_k, 5)
    left, places = to_numbers(found["p"]), to_numbers(found["p_indices"])
    for number, row in enumerate(table):
        mine = slice(number * kept, (number + 1) * kept)
        assert left[mine] == [n if digits is None else round(n, digits) for n in sorted(row, reverse=True)[:kept]]
        assert [row[place] for place in places[mine]] == sorted(row, reverse=True)[:kept]


def test_the_agreement_s_limits_stand_around_the_engine() -> None:
    """Outermost, so that a batch of several clients' rows is bounded for each of them alone."""
    job = {
        "limits": {"requests": "5/day", "until": "…", "batch": 4, "top_k": 2},
        "batching": {"rows": 8, "delay_ms": 1},
    }
    made = as_agreed(Gives(scores()), job)
    assert isinstance(made, Limited)
    assert (made.batch, made.top_k, made.digits) == (4, 2, None)
    assert isinstance(made.engine, Batching)
