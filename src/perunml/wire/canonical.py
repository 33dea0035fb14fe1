"""Canonical JSON (RFC 8785) out; strict JSON and YAML in.

The loaders take JSON's types only and refuse what `json` and PyYAML let pass: duplicate keys, NaN and infinities,
integers that RFC 8785 cannot carry, deep nesting, YAML anchors, aliases, tags and merge keys, and YAML's dates and yes/no
(a plain ``no`` stays the string "no").
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import rfc8785

from perunml.wire.codes import MALFORMED
from perunml.wire.errors import PerunError, refuse

Json: TypeAlias = "dict[str, Any] | list[Any] | str | int | float | bool | None"

MAX_DOCUMENT = 4 * 1024 * 1024
"""Largest document read, in bytes: an agreement of 50 assets has 30 KiB, a manifest of 100,000 files 15 MiB is sealed
apart."""
MAX_YAML = 128 * 1024
"""Largest YAML read, in bytes: people write it, and PyYAML reads some 200 KiB a second."""
MAX_DEPTH = 64
"""Deepest nesting read; our own documents need 9 levels."""
MAX_SAFE_INTEGER = 2**53 - 1
"""RFC 8785 section 3.2.2.3: greater integers travel as decimal strings."""
_EXPONENT_FORM = 1e21
"""ECMAScript writes numbers from here on with an exponent, so they read as floats again."""
_PLAIN = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)
_BRACKETS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|([\[\]{}])', re.DOTALL)
"""A string, or a bracket outside of one (group 1)."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value. Raises `ValueError` for NaN, integers past 2^53-1 and types JSON has not."""
    if _is_plain(value):
        try:
            return _PLAIN.encode(value).encode()
        except UnicodeEncodeError:  # a lone surrogate: refused below
            pass
    return rfc8785.dumps(value)


def _is_plain(value: Any) -> bool:
    """Whether Python's own encoder writes `value` as RFC 8785 demands: it differs in floats, and in the order of keys
    beyond ASCII; it takes keys that are no strings, and integers of any size. It is ten times as fast."""
    kind = type(value)
    if kind is str:
        return True
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or not key.isascii() or not (type(item) is str or _is_plain(item)):
                return False
        return True
    if kind is list:
        return all(map(_is_plain, value))
    if kind is int:
        return abs(int(value)) <= MAX_SAFE_INTEGER
    return kind is bool or value is None


def load_json(data: bytes, *, limit: int = MAX_DOCUMENT) -> Any:
    """The value of strict JSON text in UTF-8. Raises `UsageError` (malformed)."""
    _check_size(data, limit)
    _check_depth(data)
    try:
        value = _STRICT.decode(data.decode("utf-8"))
    except PerunError:
        raise
    except (ValueError, RecursionError) as exc:
        raise refuse(MALFORMED, f"not strict JSON: {exc}") from None
    if b"\\u" in data:  # UTF-8 itself has no lone surrogate, so only an escape writes one
        check_values(value)
    return value


def load_canonical(data: bytes, *, limit: int = MAX_DOCUMENT) -> Any:
    """As `load_json`, and the bytes must be the canonical form: what was signed has one spelling."""
    value = load_json(data, limit=limit)
    if canonical(value) != data:
        raise refuse(MALFORMED, "JSON is not in canonical form (RFC 8785)")
    return value


def load_yaml(data: bytes, *, limit: int = MAX_YAML) -> Any:
    """The value of YAML text that uses JSON's types only. Raises `UsageError` (malformed)."""
    import yaml

    _check_size(data, limit)
    try:
        events = yaml.parse(data.decode("utf-8"), Loader=yaml.SafeLoader)
        value = _from_stream(events)
    except PerunError:
        raise
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise refuse(MALFORMED, f"not YAML: {exc.problem} (line {line})") from None
    except (ValueError, yaml.YAMLError) as exc:
        raise refuse(MALFORMED, f"not YAML: {exc}") from None
    check_values(value)
    return value


def _from_stream(events: Iterator[Any]) -> Any:
    # Straight from the parser's events: they come lazily, so nothing deep or tagged is ever built.
    import yaml

    next(events)  # the stream's start
    value = None
    if isinstance(next(events), yaml.DocumentStartEvent):
        value = _from_event(events, next(events), 0)
        next(events)  # the document's end
        if not isinstance(after := next(events), yaml.StreamEndEvent):
            raise refuse(MALFORMED, f"a second YAML document begins at line {_line(after)}")
    return value


def _from_event(events: Iterator[Any], event: Any, depth: int) -> Any:
    import yaml

    if depth > MAX_DEPTH:
        raise refuse(MALFORMED, f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(event, yaml.AliasEvent) or event.anchor:
        raise refuse(MALFORMED, f"YAML anchors and aliases are not read (line {_line(event)})")
    if event.tag:
        raise refuse(MALFORMED, f"YAML tags are not read (line {_line(event)})")
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_from_event(events, item, depth + 1))
        return items
    if isinstance(event, yaml.MappingStartEvent):
        pairs = []
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent) or key.anchor or key.tag or (key.value, key.style) == ("<<", None):
                raise refuse(MALFORMED, f"keys must be plain strings (line {_line(key)})")
            pairs.append((key.value, _from_event(events, next(events), depth + 1)))
        return _no_duplicates(pairs)
    return _scalar(event)


def _scalar(node: Any) -> Any:
    text: str = node.value
    if node.style is not None:  # quoted or block: a string whatever it looks like
        return text
    if text in ("", "null", "~"):
        return None
    if text in ("true", "false"):
        return text == "true"
    try:
        return json.loads(text, parse_constant=_no_constant, parse_int=_safe_int)
    except PerunError:
        raise
    except ValueError:
        return text


def _line(at: Any) -> int:
    return int(at.start_mark.line) + 1


def _safe_int(text: str) -> int:
    # The length is looked at first: int() of a million digits is slow, and Python refuses it in another voice.
    if len(text) > 17 or abs(value := int(text)) > MAX_SAFE_INTEGER:
        raise refuse(MALFORMED, "integers of 2^53 and more are written as decimal strings", seen=text[:40])
    return value


def _safe_float(text: str) -> float:
    value = float(text)
    check_values(value)
    return value


def _no_constant(text: str) -> Any:
    raise refuse(MALFORMED, f"{text} is not a JSON number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) == len(pairs):
        return out
    out.clear()
    for key, value in pairs:
        if key in out:
            raise refuse(MALFORMED, f"the key {key!r} stands twice in one object")
        out[key] = value
    return out


_STRICT = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_int=_safe_int, parse_float=_safe_float
)


def _check_size(data: bytes, limit: int) -> None:
    if len(data) > limit:
        raise refuse(MALFORMED, f"document of {len(data)} bytes; at most {limit} are read")


def _check_depth(data: bytes) -> None:
    # Counted on the bytes before json.loads, which recurses; documents with few brackets need no counting.
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    # strings are passed over whole; one that does not end is for the decoder to refuse
    for bracket in _BRACKETS.findall(data):
        if bracket in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise refuse(MALFORMED, f"nested deeper than {MAX_DEPTH} levels")
        elif bracket:
            depth -= 1


def check_values(value: Any) -> None:
    """Raises `UsageError` (malformed) for what JSON text cannot carry there and back: lone surrogates have no UTF-8 form,
    1e999 reads as infinity, and 1e16 is written as an integer that is not read."""
    stack = [value]
    while stack:
        item = stack.pop()
        kind = type(item)
        if kind is str and item.isascii():  # nearly all there is: the kinds below are asked for by their base classes
            continue
        if kind is dict:
            stack += item
            stack += item.values()
        elif isinstance(item, Mapping):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise refuse(MALFORMED, "a number is out of range")
            if MAX_SAFE_INTEGER < abs(item) < _EXPONENT_FORM and item.is_integer():
                raise refuse(MALFORMED, "integers of 2^53 and more are written as decimal strings", seen=str(item))
        elif isinstance(item, str) and not item.isascii() and _SURROGATE.search(item):
            raise refuse(MALFORMED, "a string holds a lone surrogate")
