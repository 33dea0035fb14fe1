"""The small forms that documents are made of: names, keys, digests, machines, sizes, times; and the strict base class.

People write ``500MiB``, ``8h``, ``2027-06-30T00:00:00Z``; the models hold bytes and seconds. The document itself keeps what was
written (see `document`), so no spelling is lost and none changes a digest.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    Strict,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from perunml.wire.errors import PerunError
from perunml.wire.hpke import HpkePublicKey
from perunml.wire.identity import PublicKey
from perunml.wire.quantities import parse_duration, parse_rate, parse_size
from perunml.wire.timestamps import parse_time

T = TypeVar("T")
K = TypeVar("K")

MAX_NAMES = 256
"""Most parties, assets, hosts, jobs, and most entries of any list or mapping of an agreement."""

_NAME = r"[a-z][a-z0-9-]{0,62}"
NAME_PATTERN = f"^{_NAME}$"
_DIGEST = r"sha256:[0-9a-f]{64}"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A party, asset, host role, job or output. Lower-case ASCII: no two names look alike (P9)."""
FieldName = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_-]{0,62}$")]
"""A parameter or a field of metrics, as code spells them."""
Digest = Annotated[str, StringConstraints(pattern=f"^{_DIGEST}$")]
AssetRef = Annotated[str, StringConstraints(pattern=rf"^{_NAME}(\.outputs\.{_NAME})?$")]
"""An asset's name, or ``<job>.outputs.<name>``."""
MountPath = Annotated[str, StringConstraints(pattern="^/in/[A-Za-z0-9_][A-Za-z0-9._-]{0,62}$")]
"""Where a job sees an input: one directory under /in, which is PERUNML_IN."""
EntryPath = Annotated[
    str, StringConstraints(pattern="^([A-Za-z0-9_][A-Za-z0-9._-]{0,62}/){0,8}[A-Za-z0-9_][A-Za-z0-9._-]{0,62}$")
]
"""The file of a code asset that is run: relative, no component starts with a dot."""
Count = Annotated[int, Field(ge=1, le=10**9)]


def _read(parse: Callable[[str], T]) -> Callable[[Any], T]:
    """A ground-floor parser as a pydantic validator."""

    def validator(value: Any) -> T:
        try:
            return parse(value)
        except PerunError as exc:
            reason = exc.reasons[0]
            hint = f", expected {reason.expected}" if reason.expected else ""
            raise PydanticCustomError("malformed", "{what}", {"what": f"{reason.message}{hint}"}) from None

    return validator


def _text(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


_SEGMENT = "([1-9][0-9]{0,11}|0)"
Size = Annotated[int, BeforeValidator(_read(parse_size)), _text(f"^{_SEGMENT}(B|KiB|MiB|GiB|TiB|kB|MB|GB)$", "500MiB")]
"""Bytes."""
Duration = Annotated[int, BeforeValidator(_read(parse_duration)), _text(f"^{_SEGMENT}[smhd]$", "8h")]
"""Seconds."""
Time = Annotated[
    int,
    BeforeValidator(_read(parse_time)),
    _text(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", "2027-06-30T00:00:00Z"),
]
"""Seconds since 1970."""
Rate = Annotated[
    tuple[int, int],
    PlainValidator(_read(parse_rate)),
    _text(f"^{_SEGMENT}/(second|minute|hour|day)$", "10000/day"),
]
"""(count, window in seconds)."""
SigningKeyText = Annotated[
    str,
    AfterValidator(_read(lambda text: PublicKey(text).text)),
    _text("^(ed25519|p384):[A-Za-z0-9_-]+$", "ed25519:…"),
]
ReceivingKeyText = Annotated[
    str, AfterValidator(_read(lambda text: HpkePublicKey(text).text)), _text("^hpke:[A-Za-z0-9_-]+$", "hpke:…")
]


def _scalar(value: Any) -> bool | int | float | str:
    if isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise PydanticCustomError("malformed", "a number, string, true or false")


Scalar = Annotated[
    bool | int | float | str, PlainValidator(_scalar), WithJsonSchema({"type": ["boolean", "number", "string"]})
]
Number = Annotated[int | float, PlainValidator(lambda v: _number(v)), WithJsonSchema({"type": "number"})]


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PydanticCustomError("malformed", "a number")
    return value


def same(one: object, other: object) -> bool:
    """Equal as JSON values: 1 and 1.0 are one number there, true is none."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _unique(items: tuple[T, ...]) -> tuple[T, ...]:
    for place, item in enumerate(items):
        if any(same(item, other) for other in items[:place]):
            raise PydanticCustomError("malformed", "{item} stands twice", {"item": repr(item)})
    return items


# JSON's arrays and objects as values that nobody can change afterwards.
Items = Annotated[tuple[T, ...], Strict(False), Field(min_length=1, max_length=MAX_NAMES)]
Unique = Annotated[tuple[T, ...], Strict(False), Field(min_length=1, max_length=MAX_NAMES), AfterValidator(_unique)]
_FROZEN = AfterValidator(lambda table: MappingProxyType(dict(table)))
Table = Annotated[Mapping[K, T], Field(max_length=MAX_NAMES), _FROZEN]
Filled = Annotated[Mapping[K, T], Field(min_length=1, max_length=MAX_NAMES), _FROZEN]
"""A table with at least one entry."""


class Part(BaseModel):
    """A piece of a document: strict, frozen, no unknown key."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        """An unknown key is refused with the nearest known one."""
        if not isinstance(value, dict):
            return value
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in value:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
                raise PydanticCustomError("unknown_key", "{text}", {"text": f"unknown key {str(key)[:80]!r}, {hint}"})
        return value
