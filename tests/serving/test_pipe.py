"""What an engine's process may say of tensors: it runs somebody's model, and its service believes no size and no name."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.serving.pipe import listed, unlisted
from perunml.serving.tensors import MAX_TENSORS, Tensor, to_numbers
from perunml.wire.errors import JobFailed

DATA = memoryview(bytes(range(16)))
ROW = {"name": "a", "datatype": "FP32", "shape": [2, 2], "size": 16}


def test_tensors_come_back_as_they_went() -> None:
    """Several, of several types, empty ones among them; no byte is copied."""
    tensors = [
        Tensor("a", "FP32", (2, 1), DATA[:8]),
        Tensor("b", "INT8", (0,), DATA[:0]),
        Tensor("c", "BF16", (4,), DATA[8:]),
    ]
    said, parts = listed(tensors)
    assert unlisted(said, memoryview(b"".join(parts))) == tensors
    assert unlisted([ROW], DATA)[0].data.obj is DATA.obj  # type: ignore[union-attr]  # a view


@pytest.mark.parametrize(
    "said",
    [
        None, {}, "x", [None], [[]], [{}], [[ROW]], [], [{**ROW, "more": 1}], [{**ROW, "size": 15}], [{**ROW, "size": -16}],
        [{**ROW, "shape": [4, 4], "size": 64}], [{**ROW, "shape": [2]}], [{**ROW, "shape": [-2, -2]}], [{**ROW, "shape": "22"}],
        [{**ROW, "shape": [2, [2]]}], [{**ROW, "shape": [2, 2.0]}], [{**ROW, "name": ["a"]}], [{**ROW, "name": ""}],
        [{**ROW, "name": "\x1b[2J"}], [{**ROW, "datatype": "FP31"}], [{**ROW, "datatype": ["FP32"]}], [{**ROW, "datatype": None}],
        [ROW, {**ROW, "size": -16}, ROW], [ROW, ROW], [{**ROW, "shape": [2**50, 2**50]}],
    ],
)  # fmt: skip
def test_tensors_that_are_none_are_refused(said: Any) -> None:
    """Steps back, which show the same bytes many times; sizes that are no shape's; names that nobody can be told."""
    with pytest.raises(ValueError):
        unlisted(said, DATA)


def test_no_more_tensors_than_an_answer_may_have() -> None:
    """Empty ones cost nobody a byte."""
    empty = {"name": "a", "datatype": "FP32", "shape": [0], "size": 0}
    assert len(unlisted([empty] * MAX_TENSORS, DATA[:0])) == MAX_TENSORS
    with pytest.raises(ValueError):
        unlisted([empty] * (MAX_TENSORS + 1), DATA[:0])


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just(ROW),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(ROW)), inner, max_size=4),
        max_leaves=12,
    )
)
def test_whatever_it_says_is_a_list_of_tensors_or_none(said: Any) -> None:
    """`ValueError`, and nothing else."""
    try:
        found = unlisted(said, DATA)
    except ValueError:
        return
    assert sum(len(tensor.data) for tensor in found) == len(DATA)


@pytest.mark.parametrize(("datatype", "code"), [("FP16", "e"), ("FP32", "f"), ("FP64", "d")])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_has_not_are_refused(datatype: str, code: str, number: float) -> None:
    """A confined engine refuses its own; what took its place may not."""
    with pytest.raises(JobFailed, match="inference_failed"):
        to_numbers(Tensor("a", datatype, (2,), struct.pack(f"<2{code}", 1.0, number)))
