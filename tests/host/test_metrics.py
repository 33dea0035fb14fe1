"""Metrics leave as finite, rounded numbers of declared fields, or not at all."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.host.metrics import DIGITS, MAX_VALUES, clean_metrics
from perunml.wire.errors import JobFailed

FIELDS = ["epoch", "loss"]
SIZE = 64 * 1024


def test_rows_and_columns_mean_the_same() -> None:
    """One object of lists, or a list with an object per epoch."""
    columns = clean_metrics(b'{"epoch": [1, 2], "loss": [0.5, 0.25]}', FIELDS, SIZE)
    rows = clean_metrics(b'[{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]', FIELDS, SIZE)
    assert rows == columns == b'{"epoch":[1,2],"loss":[0.5,0.25]}'


@pytest.mark.parametrize(
    "text",
    [
        '{"patient": 17}',
        '{"loss": "0.5"}',
        '{"loss": true}',
        '{"loss": null}',
        '{"loss": 1e999}',
        '{"loss": 1e16}',
        '{"loss": 9007199254740993}',
        '{"loss": {"deep": 1}}',
        '{"loss": [[1]]}',
        '{"loss": 1, "loss": 2}',
        '"text"',
        "[1, 2]",
        "",
        "{",
        json.dumps({"loss": [1] * (MAX_VALUES + 1)}),
        json.dumps([{"loss": 1}] * (MAX_VALUES + 1)),
        json.dumps({"loss": [1.0] * 20_000}),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """Undeclared fields, text, non-finite numbers, nesting, duplicates and too many values: metrics_refused."""
    with pytest.raises(JobFailed) as caught:
        clean_metrics(text.encode(), FIELDS, SIZE)
    assert caught.value.code == "metrics_refused"
    assert "patient" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ['{"loss": NaN}', '{"loss": [1, -Infinity]}', '[{"loss": 1}, {"loss":NaN}]'],
)
def test_numbers_that_are_none_have_a_class_of_their_own(text: str) -> None:
    """NaN and infinities, as json.dump writes them: the first thing that a party wants to hear of a training."""
    with pytest.raises(JobFailed) as caught:
        clean_metrics(text.encode(), FIELDS, SIZE)
    assert caught.value.code == "not_finite"
    with pytest.raises(JobFailed) as caught:
        clean_metrics(b'{"loss": "a text: NaN, Infinity"}', FIELDS, SIZE)
    assert caught.value.code == "metrics_refused"


@pytest.mark.parametrize(
    "text", [b'"' + b'\\"' * 400_000, b"[" * 800_000, b"NaN" * 300_000, b'"' * 800_000, b"\xff", b"9" * 800_000]
)
def test_a_job_cannot_make_its_runner_search_for_long(text: bytes) -> None:
    """Whatever it writes is read once: while a runner searches, nobody looks after its lease. (By a pattern the first of these took an hour.)"""
    with pytest.raises(JobFailed) as caught:
        clean_metrics(text, FIELDS, 1 << 20)
    assert caught.value.code in ("metrics_refused", "not_finite")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(min_value=-1e15, max_value=1e15), max_size=20))
def test_numbers_keep_their_leading_digits_only(numbers: list[float]) -> None:
    """Rounded once, rounding again changes nothing; what leaves is close to what was measured."""
    cleaned = clean_metrics(json.dumps({"loss": numbers}).encode(), FIELDS, SIZE)
    assert clean_metrics(cleaned, FIELDS, SIZE) == cleaned
    for number, kept in zip(numbers, json.loads(cleaned).get("loss", []), strict=True):
        assert math.isclose(number, kept, rel_tol=10.0 ** (1 - DIGITS))
