"""How rules for TEEs and GPUs are read and written: frozen values with a JSON form that has one spelling per meaning.

Every member is optional, a default is never written, and a default is the strictest there is: what the parties leave out is
refused. An unknown member is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Self

from perunml.wire.codes import MALFORMED
from perunml.wire.errors import PerunError, refuse
from perunml.wire.quantities import parse_duration

MAX_ITEMS = 256
"""Members of one list of rules."""
MAX_NUMBER = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Form:
    """How one member is read from JSON (`ValueError` for what it is not), and written."""

    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    what: str


def _hex(size: int) -> Callable[[Any], str]:
    pattern = re.compile(f"[0-9a-f]{{{2 * size}}}")

    def read(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError
        return value

    return read


def _text(pattern: str) -> Callable[[Any], str]:
    form = re.compile(pattern)

    def read(value: Any) -> str:
        if not isinstance(value, str) or not form.fullmatch(value):
            raise ValueError
        return value

    return read


def _listed(read: Callable[[Any], Any]) -> Callable[[Any], frozenset[Any]]:
    def whole(value: Any) -> frozenset[Any]:
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_ITEMS:
            raise ValueError
        found = [read(item) for item in value]
        if found != sorted(set(found)):
            raise ValueError
        return frozenset(found)

    return whole


def _whole(limit: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
            raise ValueError
        return value

    return read


def _as_it_is(value: Any) -> Any:
    return value


def hex_value(size: int) -> Form:
    """`size` bytes in lower-case hex."""
    return Form(_hex(size), _as_it_is, f"{size} bytes in lower-case hex")


def hex_set(size: int) -> Form:
    """A sorted list of such values, each once."""
    return Form(_listed(_hex(size)), sorted, f"a sorted list of values of {size} bytes in lower-case hex")


def words(pattern: str, what: str) -> Form:
    """A sorted list of texts of a pattern, each once."""
    return Form(_listed(_text(pattern)), sorted, f"a sorted list of {what}")


def word(pattern: str, what: str) -> Form:
    """A text of a pattern."""
    return Form(_text(pattern), _as_it_is, what)


def number(limit: int = MAX_NUMBER) -> Form:
    """A whole number from 0 to `limit`."""
    return Form(_whole(limit), _as_it_is, f"a whole number up to {limit}")


def numbers(limit: int) -> Form:
    """A sorted list of such numbers, each once."""
    return Form(_listed(_whole(limit)), sorted, f"a sorted list of whole numbers up to {limit}")


def _flag(value: Any) -> bool:
    if value is not True:
        raise ValueError
    return True


FLAG = Form(_flag, _as_it_is, "true, or left out")


def _duration(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    try:
        parse_duration(value)
    except PerunError:
        raise ValueError from None
    return value


DURATION = Form(_duration, _as_it_is, "a time as 30d, 12h")
"""Kept as it is written; `seconds` gives its length."""


def seconds(text: str) -> int:
    """The length of a duration that `DURATION` read."""
    return parse_duration(text)


def table(key: Callable[[str], Any], form: Form) -> Form:
    """An object whose keys `key` reads and whose members are of `form`."""

    def read(value: Any) -> Mapping[Any, Any]:
        if not isinstance(value, dict) or not 1 <= len(value) <= MAX_ITEMS:
            raise ValueError
        found = {key(name): form.read(item) for name, item in value.items()}
        if [str(name) for name in found] != list(map(str, value)):
            raise ValueError
        return _Table(found)

    return Form(
        read, lambda value: {str(name): form.write(item) for name, item in value.items()}, f"an object of {form.what}"
    )


class _Table(dict[Any, Any]):
    """A read-only table that can be hashed, as the values that hold it."""

    def __hash__(self) -> int:  # type: ignore[override]  # dict has none
        return hash(tuple(sorted((str(key), hash(value)) for key, value in self.items())))

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError("read only")


EMPTY_TABLE: Mapping[Any, Any] = _Table()


def rule(form: Form, default: Any) -> Any:
    """A field of rules: how its member is read, and what it is when it is left out."""
    return field(default=default, metadata={"form": form})


@dataclass(frozen=True, slots=True)
class Rules:
    """What reads and writes the JSON form by the fields that `rule` made."""

    def as_json(self) -> dict[str, Any]:
        return {
            each.name: each.metadata["form"].write(value)
            for each in fields(self)
            if (value := getattr(self, each.name)) != each.default
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Raises `UsageError` (malformed): unknown members, values that are not of their form, defaults that are written."""
        if not isinstance(data, dict):
            raise refuse(MALFORMED, "rules are an object", seen=type(data).__name__)
        known = {each.name: each for each in fields(cls)}
        read: dict[str, Any] = {}
        for name, value in data.items():
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
                hint = near[0] if near else ", ".join(sorted(known))
                raise refuse(MALFORMED, f"unknown rule {str(name)[:80]!r}", expected=hint, seen=str(name)[:80])
            form: Form = known[name].metadata["form"]
            try:
                read[name] = form.read(value)
            except (ValueError, PerunError):
                raise refuse(
                    MALFORMED, f"`{name}` is not of its form", expected=form.what, seen=str(value)[:80]
                ) from None
            if known[name].default is not MISSING and read[name] == known[name].default:
                raise refuse(
                    MALFORMED, f"`{name}` says what holds without it", expected="leave it out", seen=str(value)[:80]
                )
        return cls(**read)
