"""Is a `.pt2` archive safe to load?

PyTorch's reader of exported programs trusts its input: weights and constants may be pickles, sample inputs fall back to
pickle, native libraries may lie in it, shape expressions are evaluated as Python, and operators are looked up by dotted
name. A model comes out of somebody else's code, so everything that the reader would act on is held against a list here
first, and what is not on the list is refused. Standard library only: this runs before torch is given a byte.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from perunml.sealing.zips import TAIL, directory_fault
from perunml.serving.codes import MODEL_REFUSED
from perunml.wire.errors import PerunError, refuse

MAX_ARCHIVE = 8 * 2**30
"""Bytes; larger models want an engine that does not hold them in one piece."""
MAX_MEMBERS = 100_000
MAX_PROGRAM = 64 * 2**20
"""Bytes of models/model.json: 10,000 operators have about 20 MB."""
MAX_SAMPLE = 64 * 2**20
MAX_TEXT = 4096

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
_OPERATOR = re.compile(r"torch\.ops\.aten\.[a-z0-9_]{1,64}\.[A-Za-z0-9_]{1,64}", re.ASCII)
_SCALAR = re.compile(r"_operator\.(getitem|add|sub|mul|floordiv|mod|neg|lt|le|gt|ge|eq|ne|and_|or_)", re.ASCII)
_DENIED = re.compile(r"torch\.ops\.aten\.(from_file|.*_file|_?save|_?load)\b")
_EXPRESSION = re.compile(
    r"\s*(?:([A-Za-z][A-Za-z0-9]*)|'[a-z]{1,2}[0-9]{1,12}'|[0-9]{1,19}|\*\*|//|[()+\-*/,=<>])", re.ASCII
)
_NAMES = re.compile(
    r"[su]\d{1,12}|Symbol|Integer|Rational|Add|Mul|Pow|Mod|PythonMod|Min|Max|FloorDiv|CleanDiv|CeilDiv|Eq|Ne|Lt|Le|Gt|Ge|"
    r"positive|nonnegative|integer|True|False",
    re.ASCII,
)
_NAME = re.compile(r"[A-Za-z0-9_.]{0,512}", re.ASCII)
"""Every text of the program without a check of its own: PyTorch writes Python source with the names of inputs, nodes and
arguments in it and runs it, so no text may hold more than a name does."""
_OUTPUT_NAME = re.compile(r"[A-Za-z0-9_. -]{0,512}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\x85\u2028\u2029]")
_CHECKED = frozenset({"expr_str", "in_spec", "out_spec"})
_SPECS = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})
_FORBIDDEN_ARGUMENTS = frozenset({"as_custom_obj", "as_operator", "as_graph", "as_opaque_obj"})


def check_pt2(data: bytes) -> None:
    """Raises `IntegrityError` (model_refused), naming what is wrong, unless `data` is an archive of `torch.export.save`
    with plain tensors, ATen operators and nothing else."""
    members = _members(data)
    for which, prefix in (("weights", "weight_"), ("constants", "tensor_")):
        folder = f"data/{which}"
        _check_payload(_object(members[f"{folder}/model_{which}_config.json"]), members, folder, prefix)
    _check_program(_object(members["models/model.json"]))
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


def _check_program(program: dict[str, Any]) -> None:
    nodes = 0
    for key, value, parent in _walk(program):
        _check_names(key, value)
        if key == "target" and isinstance(value, str) and "inputs" in parent:
            nodes += 1
            if _DENIED.match(value) or not (_OPERATOR.fullmatch(value) or _SCALAR.fullmatch(value)):
                raise _no("an operator that is not served", expected="torch.ops.aten.*", seen=value[:80])
        elif key == "expr_str":
            _check_expression(value)
        elif key in ("in_spec", "out_spec") and value is not None:
            _check_tree(value, _NAME if key == "in_spec" else _OUTPUT_NAME)
        elif key in _FORBIDDEN_ARGUMENTS and value is not None:
            raise _no(f"an argument of kind {key}")
        elif key in ("custom_obj_values", "treespec_namedtuple_fields") and value:
            raise _no(f"the program has {key}")
        elif isinstance(value, str) and key == "as_string" and not re.fullmatch(r"[a-z_]{1,32}", value):
            raise _no("an operator's text argument is not one word")
    if not nodes:
        raise _no("the program has no operator")


def _check_names(key: str, value: Any) -> None:
    texts = [key, *(item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str))]
    if key in _CHECKED:
        return
    if key == "torch_version" and isinstance(value, str):
        texts[1] = value.replace("+", ".")
    for text in texts:
        if not _NAME.fullmatch(text):
            raise _no("a name that is not one", expected="letters, digits, _ and .", seen=text[:80])


def _is_metadata(key: str, value: Any, parent: dict[str, Any]) -> bool:
    """Of a node: where it came from, in free text. It becomes comments at most, so a line of it must stay one."""
    if key != "metadata" or not isinstance(parent.get("target"), str) or "inputs" not in parent:
        return False
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _no("a node's metadata are not text")
    if any(_CONTROL.search(text) for text in (*value, *value.values())):
        raise _no("a node's metadata have control characters")
    return True


def _walk(program: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    stack: list[Any] = [program]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            for key, value in item.items():
                if not _is_metadata(key, value, item):
                    yield key, value, item
                    stack.append(value)
        elif isinstance(item, list):
            if any(isinstance(inner, list) and any(isinstance(each, str) for each in inner) for inner in item):
                raise _no("texts in lists within lists")
            stack.extend(item)


def _check_expression(text: Any) -> None:
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise _no("a shape expression is not short text")
    at = 0
    while at < len(text.rstrip()):
        token = _EXPRESSION.match(text, at)
        if not token or (token[1] and not _NAMES.fullmatch(token[1])) or token[0].endswith("**"):
            raise _no("a shape expression that is not arithmetic", seen=text[:80])
        at = token.end()


def _check_tree(text: Any, name: re.Pattern[str]) -> None:
    spec = _parse(text.encode() if isinstance(text, str) else b"", list)
    if len(spec) != 2 or spec[0] != 1:
        raise _no("inputs or outputs are of an unknown form")
    for key, value, _ in _walk({"spec": spec[1]}):
        if key == "type" and value not in _SPECS:
            raise _no(
                "inputs or outputs are other than tuples, lists and dictionaries of tensors", seen=str(value)[:80]
            )
        if key == "context" and value is not None:
            names = _parse(value.encode(), object) if isinstance(value, str) else value
            for each in names or [] if isinstance(names, list | None) else [names]:
                if not isinstance(each, str) or not name.fullmatch(each):
                    raise _no("an input or output with a name that is not one", seen=str(each)[:80])


def _check_sample(data: bytes) -> None:
    """The example inputs: read by PyTorch's own restricted unpickler, which must be able to (see `engines`); here only
    that they are small and stored."""
    if len(data) > MAX_SAMPLE:
        raise _no(f"example inputs of {len(data)} bytes")
    for _ in _stored(data):
        pass


def _object(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = _parse(data, dict)
    return found


def _parse(data: bytes, kind: type) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) != len(items):
            raise _no("a key stands twice in one object")
        return made

    try:
        # Not wire's loader: PyTorch writes 2**63 - 1 for "to the end" of a slice.
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs)
    except PerunError:
        raise
    except (ValueError, RecursionError):
        raise _no("a part that is not JSON") from None
    if not isinstance(value, kind):
        raise _no("a part that is not of its form")
    return value


def _no(what: str, *, expected: str = "", seen: str = "") -> PerunError:
    return refuse(MODEL_REFUSED, f"the model is not loaded: {what}", expected=expected, seen=seen)
