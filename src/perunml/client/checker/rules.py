"""What a checker is told to look for: a closed, strict file that its party writes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from perunml.agreements.forms import Duration, Name, Part, Size, Table, Time, Unique
from perunml.wire.canonical import canonical, load_json, load_yaml
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse

MAX_FILE = 256 * 1024
"""Bytes of a checker's configuration."""
FactKind = Literal["network", "processes", "native", "dynamic", "writes"]
P = TypeVar("P", bound=Part)
Pattern = Annotated[str, Field(min_length=1, max_length=100)]


class CodeRules(Part):
    """For a code asset that this home can open.

    max_size     of all its files together
    files        patterns that each file's path matches one of (``*`` matches within a folder, ``**`` across)
    forbid       static facts that must not be there
    imports      top-level modules that may be imported; any other is refused
    changed      how many lines may differ from the newest version of the asset that an agreement in force named
    """

    max_size: Size | None = None
    files: Unique[Pattern] | None = None
    forbid: Unique[FactKind] | None = None
    imports: Unique[Pattern] | None = None
    changed: Annotated[int, Field(ge=0, le=10**6)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> CodeRules:
        return _says_something(self)


class OutputRules(Part):
    """For every output that the agreement declares: its formats, its size, who may get it."""

    formats: Unique[Name] | None = None
    max_size: Size | None = None
    to: Unique[Name] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> OutputRules:
        return _says_something(self)


class LimitRules(Part):
    """For every job's limits: at most so much."""

    runs: Annotated[int, Field(ge=0)] | None = None
    wall: Duration | None = None
    until: Time | None = None

    @model_validator(mode="after")
    def _says_something(self) -> LimitRules:
        return _says_something(self)


class Rules(Part):
    """A checker's configuration.

    agreements   names of the agreements that it decides about; of others it says nothing
    versions     ``narrowing``: it agrees to versions alone that widen nothing; ``any``
    code         by the name of a code asset; one that an agreement reads and that is not named here is refused
    outputs, limits   of the document
    profiles     that hosts' roles may ask for; any other is refused
    """

    agreements: Unique[Name]
    versions: Literal["narrowing", "any"]
    code: Table[Name, CodeRules] | None = None
    outputs: OutputRules | None = None
    limits: LimitRules | None = None
    profiles: Unique[Literal["measured", "tee", "gpu-cc", "simulated"]] | None = None


def read_rules(data: bytes) -> Rules:
    """A configuration, YAML or JSON, with ``apiVersion: perunml/v1`` and ``kind: Checker``. Raises `UsageError` (malformed) with the place that
    is wrong."""
    if len(data) > MAX_FILE:
        raise refuse(MALFORMED, "a checker's file is too long", expected=f"{MAX_FILE} bytes", seen=f"{len(data)} bytes")
    value: Any = load_yaml(data)
    if not isinstance(value, dict) or (value.pop("apiVersion", ""), value.pop("kind", "")) != ("perunml/v1", "Checker"):
        raise refuse(MALFORMED, "not a checker's file", expected="apiVersion: perunml/v1, kind: Checker")
    try:
        return Rules.model_validate(load_json(canonical(value)))
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"] if not str(step).startswith("<"))
        raise refuse(
            MALFORMED, f"{where or 'the file'}: {first['msg']}", expected="docs/checker.md", seen=where
        ) from None


def _says_something(value: P) -> P:
    if not value.model_fields_set:
        raise PydanticCustomError("malformed", "an empty rule allows everything: leave it out")
    return value
