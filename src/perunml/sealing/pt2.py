"""A model as `torch.export.save` writes it (archive version 0), without the parts that run code when they are read.

The archive is a zip of stored members under one folder. Weights and constants are raw tensors, named in a JSON file that can
also declare one to be a pickle: refused. The example inputs are a file of `torch.save`, which is a pickle by nature: its
operations are walked without being run, and may name nothing but the functions that make a tensor. The program itself is
held against `pt2_program`'s lists: a recipient would load it on a machine of its own. An output is so checked before it is
sealed, and a model before an engine is given a byte of it.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO, Any

from perunml.sealing.codes import FORMAT_REFUSED
from perunml.sealing.pt2_program import ProgramRefused, check_program, parse
from perunml.sealing.zips import TAIL, directory_fault
from perunml.wire.errors import refuse

MAX_MEMBERS = 100_000
MAX_TEXT = 64 * 2**20
"""Bytes of one JSON member: 10,000 operators have about 20 MB."""
MAX_EXAMPLE = 64 * 2**20
MAX_PICKLE = 2**20
"""Bytes of the example inputs' structure; their numbers lie beside it."""
_LOCAL_HEADER = 30
"""Bytes of a zip member's local header before its name (APPNOTE 4.3.7)."""
_MEMBER = re.compile(
    r"data/weights/weight_\d{1,6}|data/constants/tensor_\d{1,6}|data/(weights/model_weights|constants/model_constants)"
    r"_config\.json|models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|"
    r"\.data/version|\.data/serialization_id",
    re.ASCII,
)
_EXAMPLE_MEMBER = re.compile(
    r"data\.pkl|\.format_version|\.storage_alignment|byteorder|version|data/\d{1,6}|\.data/serialization_id", re.ASCII
)
_NEEDED = {
    "models/model.json",
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
    "data/sample_inputs/model.pt",
    "archive_version",
}
_OPERATIONS = {
    "PROTO", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET",
    "LONG_BINGET", "BINPERSID", "GLOBAL", "REDUCE",
}  # fmt: skip
_GLOBAL = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch (Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|"
    r"Bool|ComplexFloat|ComplexDouble)Storage",
    re.ASCII,
)


def check_pt2(path: Path, size: int) -> None:
    """Raises `IntegrityError` (output_format_refused) unless the `size` bytes at `path` are such an archive."""
    with path.open("rb") as file:
        try:
            inspect_pt2(file, size)
        except ProgramRefused as exc:
            raise refuse(FORMAT_REFUSED, f"not pt2: {exc}", expected="pt2") from None


def inspect_pt2(file: IO[bytes], size: int) -> None:
    """Raises `ProgramRefused`, naming what is wrong, unless the `size` bytes of `file` are an archive of
    `torch.export.save` with plain tensors, ATen operators and nothing else."""
    try:
        _inspect(file, size)
    except ProgramRefused:
        raise
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, OverflowError, OSError) as exc:
        raise _wrong(f"not a zip archive that can be read: {exc}") from None


def _inspect(file: IO[bytes], size: int) -> None:
    with _archive(file, size) as archive:
        members = _members(archive, size, _MEMBER)
        if not members.keys() >= _NEEDED:
            raise _wrong("members are missing", expected=", ".join(sorted(_NEEDED)))
        if archive.read(members["archive_version"]) != b"0":
            raise _wrong("an archive version that is not known", expected="0")
        for name, member in members.items():
            if name.endswith(".json"):
                value = _json(archive, member)
                if name.endswith("_config.json"):
                    _check_config(name, value, members)
                else:
                    check_program(value)
        example = members["data/sample_inputs/model.pt"]
        if example.file_size > MAX_EXAMPLE:
            raise _wrong(f"example inputs of {example.file_size} bytes")
        _check_example(archive.read(example))


def _archive(file: IO[bytes], size: int) -> zipfile.ZipFile:
    """The zip with one directory, right before the file's end: readers that look for it differently find the same."""
    file.seek(max(0, size - TAIL))
    if fault := directory_fault(file.read(TAIL), size):
        raise _wrong(fault)
    return zipfile.ZipFile(file)


def _members(archive: zipfile.ZipFile, size: int, form: re.Pattern[str]) -> dict[str, zipfile.ZipInfo]:
    """Members by name without the common folder: stored as they are, one after the other, none over another."""
    infos = archive.infolist()
    if not 1 <= len(infos) <= MAX_MEMBERS:
        raise _wrong(f"{len(infos)} members")
    found: dict[str, zipfile.ZipInfo] = {}
    folders = set()
    free = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        folder, _, name = info.filename.partition("/")
        folders.add(folder)
        if not form.fullmatch(name) or name in found or "\\" in folder or folder in (".", ".."):
            raise _wrong("a member that does not belong there, or twice", seen=info.filename[:80])
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
            raise _wrong(f"member {name!r} is compressed or encrypted")
        if info.extra and size < 2**32:  # sizes and places told a second time, in a way that readers read differently
            raise _wrong(f"member {name!r} has extra fields in the directory")
        if info.header_offset < free:
            raise _wrong(f"member {name!r} lies over another")
        free = info.header_offset + _LOCAL_HEADER + len(info.filename.encode()) + info.file_size
        found[name] = info
    if len(folders) != 1 or free > size or min(info.header_offset for info in infos) != 0:
        raise _wrong("members outside the one folder, or bytes before the first or beyond the end")
    return found


def _json(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> dict[str, Any]:
    if member.file_size > MAX_TEXT:
        raise _wrong(f"{member.filename!r} has {member.file_size} bytes")
    # Not wire's loader: PyTorch writes 2**63 - 1 for "to the end" of a slice.
    found: dict[str, Any] = parse(archive.read(member), dict)
    return found


def _check_config(name: str, value: dict[str, Any], members: dict[str, zipfile.ZipInfo]) -> None:
    entries = value.get("config")
    if set(value) != {"config"} or not isinstance(entries, dict):
        raise _wrong(f"{name} is no list of tensors")
    folder = name.rpartition("/")[0]
    prefix = "weight_" if folder == "data/weights" else "tensor_"
    for entry in entries.values():
        if (
            not isinstance(entry, dict)
            or entry.get("use_pickle") is not False
            or not isinstance(entry.get("tensor_meta"), dict)
        ):
            raise _wrong(f"{name} names a tensor that is pickled")
        path = str(entry.get("path_name"))
        if not path.startswith(prefix) or f"{folder}/{path}" not in members:
            raise _wrong(f"{name} names a tensor that is not there")


def _check_example(data: bytes) -> None:
    with _archive(io.BytesIO(data), len(data)) as archive:
        members = _members(archive, len(data), _EXAMPLE_MEMBER)
        if "data.pkl" not in members or members["data.pkl"].file_size > MAX_PICKLE:
            raise _wrong("the example inputs have no structure, or one that is too large")
        text = archive.read(members["data.pkl"])
    end = -1
    for operation, argument, place in pickletools.genops(text):
        if operation.name not in _OPERATIONS:
            raise _wrong(f"the example inputs' pickle does {operation.name}")
        if operation.name == "GLOBAL" and not _GLOBAL.fullmatch(str(argument)):
            raise _wrong(f"the example inputs' pickle names {str(argument)[:80]!r}")
        end = (place or 0) + 1
    if end != len(text):
        raise _wrong("bytes after the example inputs' structure")


def _wrong(what: str, *, expected: str = "", seen: str = "") -> ProgramRefused:
    return ProgramRefused(what, expected=expected, seen=seen)
