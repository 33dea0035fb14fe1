"""Is a file of its declared format? Outputs leave a machine only as data that runs no code when it is read."""

from __future__ import annotations

import csv
import math
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_ISREG
from typing import Any, TextIO

from perunml.sealing.codes import FORMAT_REFUSED, OUTPUT_TOO_LARGE
from perunml.sealing.pt2 import check_pt2
from perunml.sealing.pt2_program import MAX_VALUES, values_at_most
from perunml.wire.canonical import load_json
from perunml.wire.errors import PerunError, refuse

MAX_HEADER = 64 * 2**20
"""Bytes of a safetensors header; the format's own bound is 100 MB."""
MAX_TEXT = 64 * 2**20
MAX_DIMENSIONS = 64
"""Of one tensor, as in PyTorch. With no bound, the product of a long shape is a number of a million digits."""
MAX_COLUMNS = 100_000
"""Of one row of CSV: a row is held in memory whole."""
MAX_FIELDS = 10_000
"""Fields at the top of an ONNX model: the graph, and some for opsets, metadata and functions."""
_WIDTH = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


_ONNX_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
"""ModelProto of onnx.proto: ir_version, producer's name and version, domain, model_version, doc_string, graph, opset_import,
metadata_props, training_info, functions, configuration."""


def check_format(path: Path, declared: str, max_size: int) -> None:
    """Raises `LimitReached` (output_too_large), `IntegrityError` (output_format_refused). Formats: safetensors, pt2, onnx,
    json, csv; `max_size` in bytes. The file must not change meanwhile."""
    found = path.lstat()
    if not S_ISREG(found.st_mode):
        raise refuse(FORMAT_REFUSED, "the output is a link or a special file, not a file", expected=declared)
    size = found.st_size
    if size > max_size:
        raise refuse(OUTPUT_TOO_LARGE, "the output is too large", expected=f"{max_size} bytes", seen=f"{size} bytes")
    checks: dict[str, Callable[[Path, int], None]] = {
        "safetensors": _safetensors,
        "pt2": check_pt2,
        "onnx": _onnx,
        "json": _json,
        "csv": _csv,
    }
    if declared not in checks:
        raise refuse(FORMAT_REFUSED, "no output may be of this format", expected=", ".join(checks), seen=declared)
    try:
        checks[declared](path, size)
    except PerunError as exc:
        if exc.code == FORMAT_REFUSED.code:
            raise
        raise refuse(FORMAT_REFUSED, f"not {declared}: {exc.reasons[0].message}") from None


def _safetensors(path: Path, size: int) -> None:
    with path.open("rb") as file:
        head = int.from_bytes(file.read(8), "little")
        if size < 8 or head > min(MAX_HEADER, size - 8):
            raise _wrong("safetensors", "the header is longer than the file")
        text = file.read(head)
        if not text.startswith(b"{"):  # as the format demands; the end may be padded with blanks
            raise _wrong("safetensors", "the header does not begin with a brace")
        _few_values("safetensors", text)
        header = load_json(text.rstrip(b" "), limit=MAX_HEADER)
    if not isinstance(header, dict):
        raise _wrong("safetensors", "the header is no object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _wrong("safetensors", "__metadata__ is not text")
    spans = sorted(_span(name, value) for name, value in header.items())
    end = 0
    for begin, stop in spans:
        if begin != end:
            raise _wrong("safetensors", "tensors overlap or leave a gap")
        end = stop
    if end != size - 8 - head:
        raise _wrong("safetensors", "bytes that no tensor covers")


def _span(name: str, value: Any) -> tuple[int, int]:
    try:
        begin, stop = value["data_offsets"]
        shape, width = value["shape"], _WIDTH[value["dtype"]]
        if (
            set(value) != {"dtype", "shape", "data_offsets"}
            or not isinstance(shape, list)
            or len(shape) > MAX_DIMENSIONS
            or any(type(n) is not int or n < 0 for n in (*shape, begin, stop))
        ):
            raise TypeError
    except (TypeError, KeyError, ValueError):
        raise _wrong("safetensors", f"the entry of tensor {name!r} is not of its form") from None
    if stop - begin != math.prod(shape) * width:
        raise _wrong("safetensors", f"tensor {name!r} has another size than its shape")
    return begin, stop


def _onnx(path: Path, size: int) -> None:
    """A ModelProto: field 1 (ir_version, varint) and field 7 (graph) of protobuf, walked once over the top level."""
    if not size:
        raise _wrong("onnx", "empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
        seen: set[int] = set()
        at = fields = 0
        while at < size:
            tag, at = _varint(data, at)
            field, wire = tag >> 3, tag & 7
            if wire == 0:
                _, at = _varint(data, at)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            elif wire == 2:
                length, at = _varint(data, at)
                at += length
            else:
                raise _wrong("onnx", "not protobuf")
            seen.add(field)
            fields += 1
            if fields > MAX_FIELDS:
                raise _wrong("onnx", f"more than {MAX_FIELDS} fields")
    if at != size or not {1, 7} <= seen or not seen <= _ONNX_FIELDS:
        raise _wrong("onnx", "not a model")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _wrong("onnx", "a number runs over")


def _json(path: Path, size: int) -> None:
    _bounded("json", size)
    data = path.read_bytes()
    _few_values("json", data)
    load_json(data, limit=MAX_TEXT)


def _csv(path: Path, size: int) -> None:
    _bounded("csv", size)
    commas = 0  # since the last row ended: quotes carry a row over many lines

    def lines(file: TextIO) -> Iterator[str]:
        nonlocal commas
        for line in file:
            commas += line.count(",")
            if commas >= MAX_COLUMNS:
                raise _wrong("csv", f"a row of more than {MAX_COLUMNS} columns")
            yield line

    width = None
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for row in csv.reader(lines(file), strict=True):
                if width not in (None, len(row)):
                    raise _wrong("csv", "rows of different lengths")
                width, commas = len(row), 0
    except (UnicodeDecodeError, csv.Error) as exc:
        raise _wrong("csv", str(exc)) from None


def _few_values(declared: str, text: bytes) -> None:
    if not values_at_most(text, MAX_VALUES):
        raise _wrong(declared, f"more than {MAX_VALUES} values")


def _bounded(declared: str, size: int) -> None:
    if size > MAX_TEXT:
        raise _wrong(declared, f"longer than {MAX_TEXT} bytes")


def _wrong(declared: str, why: str) -> PerunError:
    return refuse(FORMAT_REFUSED, f"not {declared}: {why}", expected=declared)
