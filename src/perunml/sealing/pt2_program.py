"""Is the program of a `.pt2` archive safe to load?

PyTorch's reader of exported programs trusts its input: it writes Python source with the program's names in it and runs it,
evaluates shape expressions as Python, and looks operators up by dotted name. A program comes out of somebody else's code, so
everything that the reader would act on is held against a list here first, and what is not on the list is refused: before it
is sealed as an output, and before an engine loads it. Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

MAX_TEXT = 4096
"""Bytes of one shape expression."""
MAX_VALUES = 2**22
"""Of one JSON text: a value takes some 64 bytes of memory, and an empty list three bytes of text. 10,000 operators have about
1,000,000."""
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


class ProgramRefused(ValueError):
    """What the program has that it must not have; `expected` and `seen` as in a refusal."""

    def __init__(self, what: str, *, expected: str = "", seen: str = "") -> None:
        super().__init__(f"{what}: {seen!r}" if seen else what)
        self.what, self.expected, self.seen = what, expected, seen


def check_program(program: dict[str, Any]) -> None:
    """Raises `ProgramRefused`, naming what is wrong, unless the program is ATen operators over plain tensors and nothing
    else. `program` is what `parse` made of ``models/model.json``."""
    nodes = 0
    for key, value, parent in _walk(program):
        _check_names(key, value)
        if key == "target" and isinstance(value, str) and "inputs" in parent:
            nodes += 1
            if _DENIED.match(value) or not (_OPERATOR.fullmatch(value) or _SCALAR.fullmatch(value)):
                raise ProgramRefused("an operator that is not served", expected="torch.ops.aten.*", seen=value[:80])
        elif key == "expr_str":
            _check_expression(value)
        elif key in ("in_spec", "out_spec") and value is not None:
            _check_tree(value, _NAME if key == "in_spec" else _OUTPUT_NAME)
        elif key in _FORBIDDEN_ARGUMENTS and value is not None:
            raise ProgramRefused(f"an argument of kind {key}")
        elif key in ("custom_obj_values", "treespec_namedtuple_fields") and value:
            raise ProgramRefused(f"the program has {key}")
        elif isinstance(value, str) and key == "as_string" and not re.fullmatch(r"[a-z_]{1,32}", value):
            raise ProgramRefused("an operator's text argument is not one word")
    if not nodes:
        raise ProgramRefused("the program has no operator")


def _check_names(key: str, value: Any) -> None:
    texts = [key, *(item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str))]
    if key in _CHECKED:
        return
    if key == "torch_version" and isinstance(value, str):
        texts[1] = value.replace("+", ".")
    for text in texts:
        if not _NAME.fullmatch(text):
            raise ProgramRefused("a name that is not one", expected="letters, digits, _ and .", seen=text[:80])


def _is_metadata(key: str, value: Any, parent: dict[str, Any]) -> bool:
    """Of a node: where it came from, in free text. It becomes comments at most, so a line of it must stay one."""
    if key != "metadata" or not isinstance(parent.get("target"), str) or "inputs" not in parent:
        return False
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ProgramRefused("a node's metadata are not text")
    if any(_CONTROL.search(text) for text in (*value, *value.values())):
        raise ProgramRefused("a node's metadata have control characters")
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
                raise ProgramRefused("texts in lists within lists")
            stack.extend(item)


def _check_expression(text: Any) -> None:
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise ProgramRefused("a shape expression is not short text")
    at = 0
    while at < len(text.rstrip()):
        token = _EXPRESSION.match(text, at)
        if not token or (token[1] and not _NAMES.fullmatch(token[1])) or token[0].endswith("**"):
            raise ProgramRefused("a shape expression that is not arithmetic", seen=text[:80])
        at = token.end()


def _check_tree(text: Any, name: re.Pattern[str]) -> None:
    spec = parse(text.encode() if isinstance(text, str) else b"", list)
    if len(spec) != 2 or spec[0] != 1:
        raise ProgramRefused("inputs or outputs are of an unknown form")
    for key, value, _ in _walk({"spec": spec[1]}):
        if key == "type" and value not in _SPECS:
            raise ProgramRefused(
                "inputs or outputs are other than tuples, lists and dictionaries of tensors", seen=str(value)[:80]
            )
        if key == "context" and value is not None:
            names = parse(value.encode(), object) if isinstance(value, str) else value
            for each in names or [] if isinstance(names, list | None) else [names]:
                if not isinstance(each, str) or not name.fullmatch(each):
                    raise ProgramRefused("an input or output with a name that is not one", seen=str(each)[:80])


def parse(data: bytes, kind: type) -> Any:
    """JSON of the archive, each key once. Raises `ProgramRefused`."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) != len(items):
            raise ProgramRefused("a key stands twice in one object")
        return made

    if not values_at_most(data, MAX_VALUES):
        raise ProgramRefused(f"a part of more than {MAX_VALUES} values")
    try:
        # Not wire's loader: PyTorch writes 2**63 - 1 for "to the end" of a slice.
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs)
    except ProgramRefused:
        raise
    except (ValueError, RecursionError):
        raise ProgramRefused("a part that is not JSON") from None
    if not isinstance(value, kind):
        raise ProgramRefused("a part that is not of its form")
    return value


def values_at_most(text: bytes, limit: int) -> bool:
    """Whether a JSON text has `limit` values at most, keys included, by the marks that stand between values. Those in
    strings count as well: it is a bound, told before anything is built."""
    return sum(text.count(mark) for mark in (b",", b"[", b"{", b":")) <= limit
