"""Is a file of its declared format? Outputs leave a machine only as data that runs no code when it is read."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perunml.sealing.codes import FORMAT_REFUSED, OUTPUT_TOO_LARGE
from perunml.wire.canonical import load_json
from perunml.wire.errors import PerunError, refuse

MAX_HEADER = 64 * 2**20
"""Bytes of a safetensors header; the format's own bound is 100 MB."""
MAX_TEXT = 64 * 2**20
MAX_MEMBERS = 100_000
_WIDTH = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


def check_format(path: Path, declared: str, max_size: int) -> None:
    """Raises `LimitReached` (output_too_large), `IntegrityError` (output_format_refused)."""
    size = path.stat().st_size
    if size > max_size:
        raise refuse(OUTPUT_TOO_LARGE, "the output is too large", expected=f"{max_size} bytes", seen=f"{size} bytes")
    checks: dict[str, Callable[[Path, int], None]] = {
        "safetensors": _safetensors,
        "pt2": _pt2,
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
        header = load_json(file.read(head).rstrip(b" "), limit=MAX_HEADER)
    if not isinstance(header, dict):
        raise _wrong("safetensors", "the header is no object")
    spans = sorted(_span(name, value) for name, value in header.items() if name != "__metadata__")
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
        if set(value) != {"dtype", "shape", "data_offsets"} or any(
            type(n) is not int or n < 0 for n in (*shape, begin, stop)
        ):
            raise TypeError
    except (TypeError, KeyError, ValueError):
        raise _wrong("safetensors", f"the entry of tensor {name!r} is not of its form") from None
    if stop - begin != math.prod(shape) * width:
        raise _wrong("safetensors", f"tensor {name!r} has another size than its shape")
    return begin, stop


def _pt2(path: Path, size: int) -> None:
    """A zip as `torch.export.save` writes it: stored members only, and none that is a pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if not members or len(members) > MAX_MEMBERS:
                raise _wrong("pt2", "no members, or too many")
            for member in members:
                _pt2_member(archive, member, size)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError, OSError) as exc:
        raise _wrong("pt2", str(exc)) from None
    if not any(m.filename.rpartition("/")[2] == "archive_format" for m in members):
        raise _wrong("pt2", "not an archive of torch.export")


def _pt2_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> None:
    parts = member.filename.split("/")
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > size or member.flag_bits & 1:
        raise _wrong("pt2", f"member {member.filename!r} is compressed, encrypted or larger than the file")
    if member.filename.startswith("/") or ".." in parts or "\\" in member.filename:
        raise _wrong("pt2", f"member {member.filename!r} could lead astray")
    if parts[-1].endswith((".pkl", ".pickle", ".py", ".so")):
        raise _wrong("pt2", f"member {member.filename!r} would run code")
    with archive.open(member) as file:
        if _is_pickle(file.read(2)):
            raise _wrong("pt2", f"member {member.filename!r} is a pickle")


def _is_pickle(head: bytes) -> bool:
    return len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def _onnx(path: Path, size: int) -> None:
    """A ModelProto: field 1 (ir_version, varint) and field 7 (graph) of protobuf, walked once over the top level."""
    data = memoryview(path.read_bytes())
    seen, at = set(), 0
    while at < len(data):
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
    if at != len(data) or not {1, 7} <= seen or not seen <= set(range(1, 32)):
        raise _wrong("onnx", "not a model")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
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
    load_json(path.read_bytes(), limit=MAX_TEXT)


def _csv(path: Path, size: int) -> None:
    if size > MAX_TEXT:
        raise _wrong("csv", f"longer than {MAX_TEXT} bytes")
    try:
        rows = csv.reader(io.StringIO(path.read_bytes().decode("utf-8")), strict=True)
        widths = {len(row) for row in rows}
    except (UnicodeDecodeError, csv.Error) as exc:
        raise _wrong("csv", str(exc)) from None
    if len(widths) > 1:
        raise _wrong("csv", "rows of different lengths")


def _wrong(declared: str, why: str) -> PerunError:
    return refuse(FORMAT_REFUSED, f"not {declared}: {why}", expected=declared)
