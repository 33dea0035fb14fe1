"""Metrics: what may leave of a job's numbers, written anew by us so that nothing else leaves with them.

A job writes JSON: an object of fields, each a number or a list of numbers, or a list of such objects (one per epoch). Only
declared fields, only finite numbers, a bounded count, each rounded to a few digits: less room for whoever would
hide data in the last digits. What leaves is canonical JSON of {field: [numbers]}.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from typing import Any

from perunml.host.codes import METRICS_REFUSED, NOT_FINITE
from perunml.wire.canonical import canonical, load_json
from perunml.wire.errors import PerunError, refuse

MAX_VALUES = 1000
"""Most numbers of one field: one per epoch, or a thousand steps."""
DIGITS = 6
"""Significant decimal digits kept: about 20 bits a number, single precision's own."""
MAX_MAGNITUDE = 1e15
"""Greater numbers are no metrics, and from 2^53 on JSON does not carry them well (RFC 8785 section 3.2.2.3)."""


def clean_metrics(data: bytes, fields: Sequence[str], max_size: int) -> bytes:
    """The metrics that may leave. Raises `JobFailed` (metrics_refused), whose text names declared fields at most: what
    else the job wrote could carry data."""
    try:
        value = load_json(data, limit=max_size)
    except PerunError:
        if len(data) <= max_size and _names_no_number(data):
            raise refuse(NOT_FINITE, "the metrics hold NaN or an infinity") from None
        raise refuse(METRICS_REFUSED, "the metrics are not JSON, or too large") from None
    columns: dict[str, list[float]] = {}
    for row in value if isinstance(value, list) else [value]:
        if not isinstance(row, dict):
            raise refuse(METRICS_REFUSED, "the metrics are no object of fields and no list of such objects")
        for name, numbers in row.items():
            if name not in fields:
                raise refuse(METRICS_REFUSED, "the metrics hold an undeclared field", expected=", ".join(fields))
            column = columns.setdefault(name, [])
            column.extend(_number(each, name) for each in (numbers if isinstance(numbers, list) else [numbers]))
            if len(column) > MAX_VALUES:
                raise refuse(METRICS_REFUSED, f"{name} has too many values", expected=f"at most {MAX_VALUES}")
    return canonical(columns)


def _names_no_number(data: bytes) -> bool:
    """Whether NaN or an infinity stands where a number may: as Python's json.dump writes them, which is not JSON. In one pass by a real reader: a job must not be able to make its runner search for long."""
    found: list[str] = []
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(data.decode(), parse_constant=found.append)
    return bool(found)


def _number(value: Any, name: str) -> float:
    if isinstance(value, float) and not math.isfinite(value):  # 1e999
        raise refuse(NOT_FINITE, f"{name} holds a number that is not finite")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise refuse(METRICS_REFUSED, f"{name} holds something that is not a number")
    if abs(value) > MAX_MAGNITUDE:
        raise refuse(METRICS_REFUSED, f"{name} holds a number out of range", expected=f"at most {MAX_MAGNITUDE:g}")
    rounded = float(f"{value:.{DIGITS - 1}e}")
    return int(rounded) if rounded.is_integer() else rounded
