"""Requests computed together: everybody gets his own rows, hears of his own faults, and waits no longer than agreed."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.serving.batching import Batching
from perunml.serving.codes import INFERENCE_FAILED, INPUTS_REFUSED
from perunml.serving.forms import ModelForm
from perunml.serving.handlers import as_agreed
from perunml.serving.tensors import Tensor, TensorForm, from_numbers, to_numbers
from perunml.wire.errors import PerunError, refuse

FOREVER = 60.0
"""Seconds that no test waits: a batch that is full goes at once."""


class Sums:
    """A model of rows of numbers: each row's sum, and the row doubled. It fails at a row of 13s, and keeps what it was asked."""

    def __init__(self, rows: int = -1, answers: int | None = None) -> None:
        self.asked: list[int] = []
        self._answers = answers
        self._form = ModelForm(
            "sums",
            (TensorForm("x", "FP64", (rows, -1)),),
            (TensorForm("sum", "FP64", (rows,)), TensorForm("twice", "FP64", (rows, -1))),
        )

    def forms(self) -> ModelForm:
        return self._form

    def infer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        (x,) = inputs
        if x.datatype != "FP64" or len(x.shape) != 2:
            raise refuse(INPUTS_REFUSED, "not rows of numbers")
        rows, width = x.shape
        self.asked.append(rows)
        numbers = to_numbers(x)
        each = [numbers[at * width : (at + 1) * width] for at in range(rows)]
        if any(row == [13.0] * width for row in each):
            raise refuse(INFERENCE_FAILED, "a row of bad luck")
        count = rows if self._answers is None else self._answers
        return [
            from_numbers("sum", "FP64", (count,), [sum(row) for row in each][:count] or [0.0] * count),
            from_numbers("twice", "FP64", (rows, width), [2 * number for number in numbers]),
        ]


def rows(*values: list[float]) -> list[Tensor]:
    return [
        from_numbers("x", "FP64", (len(values), len(values[0]) if values else 0), [n for row in values for n in row])
    ]


def numbers(found: Sequence[Tensor]) -> dict[str, tuple[tuple[int, ...], list[float]]]:
    return {tensor.name: (tensor.shape, to_numbers(tensor)) for tensor in found}


def at_once(batching: Batching, requests: Sequence[list[Tensor]]) -> list[Any]:
    """The answers, or refusals, of requests that come together."""
    begin = threading.Barrier(len(requests))

    def ask(inputs: list[Tensor]) -> Any:
        begin.wait()
        try:
            return numbers(batching.infer(inputs))
        except PerunError as exc:
            return exc.code

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(ask, requests))


def test_requests_that_come_together_are_computed_together() -> None:
    """Four of one row each, once; and each gets its own, in whatever order they came."""
    engine = Sums()
    found = at_once(Batching(engine, 4, FOREVER), [rows([float(n), 1.0]) for n in range(4)])
    assert engine.asked == [4]
    assert found == [{"sum": ((1,), [n + 1.0]), "twice": ((1, 2), [2.0 * n, 2.0])} for n in range(4)]


def test_a_request_alone_waits_no_longer_than_agreed() -> None:
    """And is computed alone."""
    engine = Sums()
    began = time.monotonic()
    assert numbers(Batching(engine, 4, 0.01).infer(rows([1.0]))) == {"sum": ((1,), [1.0]), "twice": ((1, 1), [2.0])}
    assert engine.asked == [1]
    assert time.monotonic() - began < FOREVER / 2


def test_one_s_failure_is_nobody_else_s() -> None:
    """Among four, one at which the model fails: three are answered, and one hears why."""
    engine = Sums()
    found = at_once(Batching(engine, 4, FOREVER), [rows([n]) for n in (1.0, 13.0, 3.0, 4.0)])
    assert [each if isinstance(each, str) else each["sum"][1] for each in found] == [
        [1.0],
        "inference_failed",
        [3.0],
        [4.0],
    ]
    assert engine.asked == [4, 1, 1, 1, 1]


def test_rows_of_other_widths_and_types_are_not_put_together() -> None:
    """What the model would refuse is refused to the one who sent it, and stands in nobody's batch."""
    engine = Sums()
    odd = [from_numbers("x", "FP32", (1, 1), [1.0])]
    found = at_once(
        Batching(engine, 2, FOREVER), [rows([1.0]), rows([2.0]), rows([1.0, 2.0]), rows([3.0, 4.0]), odd, odd]
    )
    assert [each if isinstance(each, str) else each["sum"][1] for each in found] == [
        [1.0],
        [2.0],
        [3.0],
        [7.0],
        "inputs_refused",
        "inputs_refused",
    ]
    assert sorted(engine.asked) == [2, 2]


@pytest.mark.parametrize("count", [0, 4, 5])
def test_a_request_as_large_as_a_batch_goes_by_itself(count: int) -> None:
    """Without a wait; one without rows too."""
    engine = Sums()
    numbers(Batching(engine, 4, FOREVER).infer([from_numbers("x", "FP64", (count, 2), [1.0] * 2 * count)]))
    assert engine.asked == [count]


def test_a_batch_never_has_more_rows_than_agreed() -> None:
    """Three rows and two do not fit into four: the first goes at once, the second waits its time."""
    engine = Sums()
    found = at_once(Batching(engine, 4, 0.05), [rows([1.0], [2.0], [3.0]), rows([4.0], [5.0])])
    assert [each["sum"][1] for each in found] == [[1.0, 2.0, 3.0], [4.0, 5.0]]
    assert sorted(engine.asked) == [2, 3]


def test_a_model_of_a_fixed_size_is_asked_one_by_one() -> None:
    """Its first size does not vary: nothing can be put beside."""
    engine = Sums(rows=1)
    at_once(Batching(engine, 4, FOREVER), [rows([1.0]), rows([2.0])])
    assert engine.asked == [1, 1]


def test_outputs_of_other_rows_are_given_to_nobody() -> None:
    """A model that gives one number for all of its rows: whose it is nobody knows, so each asks alone."""
    engine = Sums(answers=1)
    found = at_once(Batching(engine, 2, FOREVER), [rows([1.0]), rows([2.0])])
    assert [each["sum"][1] for each in found] == [[1.0], [2.0]]
    assert engine.asked == [2, 1, 1]


def test_other_inputs_than_the_model_s_go_to_the_model_alone() -> None:
    """Which refuses them."""
    engine = Sums()
    batching = Batching(engine, 4, FOREVER)
    (x,) = rows([1.0])
    with pytest.raises(ValueError, match="unpack"):
        batching.infer([x, Tensor("y", "FP64", (1,), bytes(8))])


@given(
    st.lists(st.lists(st.lists(st.integers(-9, 13), min_size=2, max_size=2), max_size=5), min_size=1, max_size=8),
    st.integers(2, 6),
)
@settings(max_examples=60, deadline=None)
def test_whatever_comes_together_is_answered_as_if_alone(asked: list[list[list[int]]], most: int) -> None:
    """Any requests, any size of a batch: the same answers, and never more rows at once than agreed, but for those that came so."""
    engine = Sums()
    requests = [
        rows(*[[float(n) for n in row] for row in request]) if request else [from_numbers("x", "FP64", (0, 2), [])]
        for request in asked
    ]
    alone = at_once_one_by_one(requests)
    assert at_once(Batching(engine, most, 0.002), requests) == alone
    assert all(count <= max(most, *map(len, asked)) for count in engine.asked)


def at_once_one_by_one(requests: Sequence[list[Tensor]]) -> list[Any]:
    found: list[Any] = []
    for request in requests:
        try:
            found.append(numbers(Sums().infer(request)))
        except PerunError as exc:
            found.append(exc.code)
    return found


def test_what_the_agreement_says_is_what_the_engine_gets() -> None:
    """With `batching` the engine stands behind it; without, requests stay apart."""
    engine = Sums()
    assert as_agreed(engine, {"engine": "onnx"}) is engine
    assert isinstance(as_agreed(engine, {"batching": {"rows": 8, "delay_ms": 5}}), Batching)
