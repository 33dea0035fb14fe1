"""Is a `.pt2` archive safe to load?

PyTorch's reader of exported programs trusts its input: weights and constants may be pickles, sample inputs fall back to
pickle, native libraries may lie in it, shape expressions are evaluated as Python, and operators are looked up by dotted
name. A model comes out of somebody else's code, so everything that the reader would act on is held against a list here
first, and what is not on the list is refused. Standard library only: this runs before torch is given a byte.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from perunml.sealing.pt2_program import ProgramRefused, check_program, parse
from perunml.sealing.zips import TAIL, directory_fault
from perunml.serving.codes import MODEL_REFUSED
from perunml.wire.errors import PerunError, refuse

MAX_ARCHIVE = 8 * 2**30
"""Bytes; larger models want an engine that does not hold them in one piece."""
MAX_MEMBERS = 100_000
MAX_PROGRAM = 64 * 2**20
"""Bytes of models/model.json: 10,000 operators have about 20 MB."""
MAX_SAMPLE = 64 * 2**20

_MEMBERS = re.compile(
    r"data/weights/weight_\d{1,6}|data/weights/model_weights_config\.json|data/constants/tensor_\d{1,6}|"
    r"data/constants/model_constants_config\.json|models/model\.json|data/sample_inputs/model\.pt|archive_format|"
    r"archive_version|byteorder|\.data/version|\.data/serialization_id",
    re.ASCII,
)
_NEEDED = frozenset(
    {
        "models/model.json",
        "data/weights/model_weights_config.json",
        "data/constants/model_constants_config.json",
        "data/sample_inputs/model.pt",
        "archive_version",
    }
)


def check_pt2(data: bytes) -> None:
    """Raises `IntegrityError` (model_refused), naming what is wrong, unless `data` is an archive of `torch.export.save`
    with plain tensors, ATen operators and nothing else."""
    members = _members(data)
    for which, prefix in (("weights", "weight_"), ("constants", "tensor_")):
        folder = f"data/{which}"
        _check_payload(_object(members[f"{folder}/model_{which}_config.json"]), members, folder, prefix)
    _program(members["models/model.json"])
    _check_sample(members["data/sample_inputs/model.pt"])


def _members(data: bytes) -> dict[str, bytes]:
    if len(data) > MAX_ARCHIVE:
        raise _no(f"the archive has {len(data)} bytes")
    found: dict[str, bytes] = {}
    prefixes = set()
    for info, content in _stored(data):
        prefix, _, name = info.filename.partition("/")
        prefixes.add(prefix)
        if not _MEMBERS.fullmatch(name) or name in found:
            raise _no("a member that does not belong there", seen=info.filename[:80])
        if name.endswith(".json") and info.file_size > MAX_PROGRAM:
            raise _no(f"{name} has {info.file_size} bytes")
        found[name] = content
    if len(prefixes) != 1 or not found.keys() >= _NEEDED:
        raise _no("members are missing", expected=", ".join(sorted(_NEEDED)))
    if found["archive_version"] != b"0":
        raise _no("an archive version that is not known", seen=repr(found["archive_version"][:10]))
    return found


def _stored(data: bytes) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
    """The members of a zip archive without compression: nothing in it can be larger than the archive."""
    if fault := directory_fault(data[-TAIL:], len(data)):
        raise _no(fault)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if not 1 <= len(infos) <= MAX_MEMBERS:
                raise _no(f"{len(infos)} members")
            for info in infos:
                if (
                    info.compress_type != zipfile.ZIP_STORED
                    or info.flag_bits & 1
                    or info.file_size != info.compress_size
                ):
                    raise _no("a compressed or encrypted member", seen=info.filename[:80])
                if info.extra and len(data) < 2**32:  # sizes told a second time, which readers read differently
                    raise _no("a member with extra fields in the directory", seen=info.filename[:80])
                yield info, archive.read(info)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError, OverflowError) as exc:
        raise _no(f"not a zip archive: {exc}") from None


def _check_payload(config: dict[str, Any], members: dict[str, bytes], folder: str, prefix: str) -> None:
    entries = config.get("config")
    if set(config) != {"config"} or not isinstance(entries, dict):
        raise _no(f"{folder}: not a list of tensors")
    for name, entry in entries.items():
        path = entry.get("path_name") if isinstance(entry, dict) else None
        if not isinstance(path, str) or not path.startswith(prefix) or f"{folder}/{path}" not in members:
            raise _no(f"{folder}: {name[:80]!r} is not a tensor of the archive")
        if entry.get("use_pickle") is not False or not isinstance(entry.get("tensor_meta"), dict):
            raise _no(f"{folder}: {name[:80]!r} is pickled")


def _check_sample(data: bytes) -> None:
    """The example inputs: read by PyTorch's own restricted unpickler, which must be able to (see `engines`); here only
    that they are small and stored."""
    if len(data) > MAX_SAMPLE:
        raise _no(f"example inputs of {len(data)} bytes")
    for _ in _stored(data):
        pass


def _program(data: bytes) -> None:
    try:
        check_program(parse(data, dict))
    except ProgramRefused as exc:
        raise _no(exc.what, expected=exc.expected, seen=exc.seen) from None


def _object(data: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = parse(data, dict)
    except ProgramRefused as exc:
        raise _no(exc.what) from None
    return found


def _no(what: str, *, expected: str = "", seen: str = "") -> PerunError:
    return refuse(MODEL_REFUSED, f"the model is not loaded: {what}", expected=expected, seen=seen)
