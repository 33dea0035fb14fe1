"""Tensors as the Open Inference Protocol names them, in the bytes of its binary extension: little-endian, row by row.

No NumPy and no PyTorch here: what a client sent is checked by arithmetic before an engine sees it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perunml.serving.codes import INFERENCE_FAILED, INPUTS_REFUSED
from perunml.wire.errors import refuse

WIDTH = {
    "BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2, "UINT32": 4, "INT32": 4, "FP32": 4,
    "UINT64": 8, "INT64": 8, "FP64": 8,
}  # fmt: skip
"""Bytes of an element (Open Inference Protocol, "Tensor Data Types"); BYTES, whose elements have lengths, is not taken."""
CODES = {
    "BOOL": "?", "UINT8": "B", "INT8": "b", "UINT16": "H", "INT16": "h", "FP16": "e", "UINT32": "I", "INT32": "i", "FP32": "f",
    "UINT64": "Q", "INT64": "q", "FP64": "d",
}  # fmt: skip
"""What `struct` calls them; BF16 has no numbers of Python's, so it comes in binary only."""
MAX_ELEMENTS = 16 * 2**20
MAX_RANK = 8
MAX_TENSORS = 64
MAX_NAME = 256


@dataclass(frozen=True, slots=True)
class Tensor:
    """`data` has `WIDTH[datatype]` bytes for each element of `shape`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class TensorForm:
    """A tensor as a model wants or gives it; -1 for what may vary."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def checked(name: Any, datatype: Any, shape: Any) -> int:
    """The bytes that such a tensor has. Raises `UsageError` (inputs_refused): no name, no known type, no sane shape."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise refuse(INPUTS_REFUSED, "a tensor has no name, or an odd one", expected=f"up to {MAX_NAME} characters")
    if not isinstance(datatype, str) or datatype not in WIDTH:
        raise refuse(INPUTS_REFUSED, f"{name}: not a known datatype", expected=", ".join(WIDTH))
    if not isinstance(shape, (list, tuple)) or len(shape) > MAX_RANK or any(type(n) is not int or n < 0 for n in shape):
        raise refuse(INPUTS_REFUSED, f"{name}: the shape is no list of up to {MAX_RANK} sizes")
    if (elements := math.prod(shape)) > MAX_ELEMENTS:
        raise refuse(INPUTS_REFUSED, f"{name}: too many elements", expected=f"at most {MAX_ELEMENTS}")
    return elements * WIDTH[datatype]


def from_numbers(name: str, datatype: str, shape: Sequence[int], values: Any) -> Tensor:
    """A tensor of numbers in nested lists, or in one flat list. Raises `UsageError` (inputs_refused)."""
    size = checked(name, datatype, shape)
    code = CODES.get(datatype)
    flat = _flat(values, size // WIDTH[datatype])
    if code is None or flat is None or len(flat) * WIDTH[datatype] != size:
        raise refuse(
            INPUTS_REFUSED, f"{name}: the data is not of its shape", expected=f"{datatype} of shape {list(shape)}"
        )
    if datatype == "BOOL":
        good = all(type(value) is bool for value in flat)
    elif code in "efd":
        good = all(type(value) in (int, float) for value in flat)
    else:
        good = all(type(value) is int for value in flat)
    try:
        if not good:
            raise ValueError
        data = struct.pack(f"<{len(flat)}{code}", *flat)
    except (struct.error, ValueError, OverflowError):
        raise refuse(INPUTS_REFUSED, f"{name}: a value is not of its type", expected=datatype) from None
    return Tensor(name, datatype, tuple(shape), data)


def to_numbers(tensor: Tensor) -> list[Any]:
    """The elements in one flat list. Raises `UsageError` (inputs_refused) for BF16, `JobFailed` (inference_failed) for what JSON has no numbers for."""
    code = CODES.get(tensor.datatype)
    if code is None:
        raise refuse(INPUTS_REFUSED, f"{tensor.name}: BF16 comes in binary only", expected="binary_data")
    numbers = list(struct.unpack(f"<{len(tensor.data) // WIDTH[tensor.datatype]}{code}", tensor.data))
    if code in "efd" and not all(map(math.isfinite, numbers)):
        raise refuse(INFERENCE_FAILED, f"{tensor.name}: a number that is not finite")
    return numbers


def from_nested(name: str, datatype: str, values: Any) -> Tensor:
    """A tensor out of nested lists of equal lengths, or of one number. Raises `UsageError` (inputs_refused)."""
    shape: list[int] = []
    level = values
    while isinstance(level, list) and len(shape) <= MAX_RANK:
        shape.append(len(level))
        level = level[0] if level else None
    return from_numbers(name, datatype, shape, values if shape else [values])


def to_nested(tensor: Tensor) -> Any:
    """Nested lists of its shape, or one number. Raises as `to_numbers`."""
    level: list[Any] = to_numbers(tensor)
    for size in reversed(tensor.shape[1:]):
        level = [level[at : at + size] for at in range(0, len(level), size)] if size else []
    return level if tensor.shape else level[0]


def _flat(values: Any, most: int) -> list[Any] | None:
    """All numbers in order; None when there are more than `most`, or lists too deep."""
    level = values if isinstance(values, list) else None
    for _ in range(MAX_RANK):
        if level is None or len(level) > most:
            return None
        if not level or not isinstance(level[0], list):
            return None if any(isinstance(item, list) for item in level) else level
        if not all(isinstance(item, list) and len(item) == len(level[0]) for item in level):
            return None
        level = [inner for item in level for inner in item]
    return None
