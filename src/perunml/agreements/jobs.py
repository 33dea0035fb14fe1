"""Jobs: a training or a service, with its parameters, limits and outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from perunml.agreements.forms import (
    MAX_NAMES,
    NAME_PATTERN,
    AssetRef,
    Count,
    Duration,
    FieldName,
    Filled,
    Items,
    MountPath,
    Name,
    Number,
    Part,
    Rate,
    Scalar,
    Size,
    Table,
    Time,
    Unique,
    same,
)

FORMATS = ("pt2", "safetensors", "onnx", "json", "csv")
"""Formats that are read without running code in them."""
_NAMED = {"type": "string", "pattern": NAME_PATTERN}
DEFAULT_LEASE = 30
"""Seconds for which released keys may be held without fresh evidence (DESIGN's example)."""
MIN_LEASE, MAX_LEASE = 1, 3600
"""Seconds. A quote takes some milliseconds; an hour without evidence is no lease."""
FIELDS_SIZE = 64 * 1024
"""Largest output of named fields that says no max_size, in bytes."""
MAX_RESUMES = 1000
MAX_LOG = 16 * 2**20
"""Bytes of a log: its end is held in the run's memory."""
PRINTED = "EVERYTHING THAT THE CODE PRINTS, which may be anything that it reads; of runs that fail too"
"""What `level: full` lets out, for whoever reads what he approves."""
CLASS_BITS = 4
"""Bits of an error's class: nine ways to end."""
DEFAULT_EVERY, MAX_EVERY = 300, 86400
"""Seconds between two checkpoints."""
MAX_COUNT, MAX_DIGITS = 1 << 24, 15
"""Rows of a request and scores of an answer, more than a service takes or gives; digits that a 64-bit number has."""
MAX_ROWS, MAX_DELAY = 4096, 1000
"""Rows of one batch, and milliseconds: a client's request is to be answered at once."""


def _format(value: Any) -> str:
    if isinstance(value, str) and value in FORMATS:
        return value
    raise PydanticCustomError(
        "format_refused",
        "the format {seen} is refused, known are {known}",
        {"seen": repr(value)[:40], "known": ", ".join(FORMATS)},
    )


Format = Annotated[str, BeforeValidator(_format), WithJsonSchema({"enum": list(FORMATS)})]


class Range(Part):
    """A number within bounds, both included. `type` is by default ``integer`` where the bounds are whole: canonical JSON
    writes 1.0 as 1, so a bound's spelling cannot say it."""

    min: Number | None = None
    max: Number | None = None
    type: Literal["integer", "number"] | None = None

    @model_validator(mode="after")
    def _has_room(self) -> Range:
        if self.min is None and self.max is None:
            raise PydanticCustomError("malformed", "a range has min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise PydanticCustomError("malformed", "min is greater than max")
        return self

    @property
    def whole(self) -> bool:
        if self.type is not None:
            return self.type == "integer"
        return all(float(bound).is_integer() for bound in (self.min, self.max) if bound is not None)

    def allows(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if not math.isfinite(value) or (self.whole and not float(value).is_integer()):
            return False
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def in_words(self) -> str:
        what = "a whole number" if self.whole else "a number"
        if self.min is None:
            return f"{what}, at most {self.max}"
        return f"{what}, at least {self.min}" if self.max is None else f"{what} from {self.min} to {self.max}"


class Choice(Part):
    """One of the values listed."""

    one_of: Annotated[Unique[Scalar], Field(alias="in")]

    def allows(self, value: object) -> bool:
        return any(same(value, choice) for choice in self.one_of)

    def in_words(self) -> str:
        return "one of " + ", ".join(map(str, self.one_of))


class Fixed(Part):
    """One value; a run may leave it out and gets it all the same."""

    value: Scalar

    def allows(self, value: object) -> bool:
        return same(value, self.value)

    def in_words(self) -> str:
        return f"always {self.value}"


def _parameter(value: Any) -> str:
    if isinstance(value, dict):
        return "<in>" if "in" in value else "<value>" if "value" in value else "<range>"
    return "<in>" if isinstance(value, Choice) else "<value>" if isinstance(value, Fixed) else "<range>"


Parameter = Annotated[
    Annotated[Range, Tag("<range>")] | Annotated[Choice, Tag("<in>")] | Annotated[Fixed, Tag("<value>")],
    Discriminator(_parameter),
]
Lease = Annotated[Duration, Field(ge=MIN_LEASE, le=MAX_LEASE)]
Tenancy = Literal["exclusive", "shared"]


class TrainingLimits(Part):
    """`runs` releases in all, none at or after `until`, none longer than `wall` seconds."""

    runs: Count
    until: Time
    wall: Annotated[Duration, Field(ge=1)]
    resumes: Annotated[int, Field(ge=0, le=MAX_RESUMES)] = 0


class ServiceLimits(Part):
    """`requests`: (count, window in seconds) over all replicas. Of a model of tensors also: rows in one request (`batch`), how many of the greatest scores an answer has (`top_k`), and to how many
    decimal digits they are rounded."""

    requests: Rate
    until: Time
    batch: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    top_k: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    digits: Annotated[int, Field(ge=0, le=MAX_DIGITS)] | None = None


class ReleaseRule(Part):
    """Parties whose boards must approve each output before it leaves."""

    approve: Unique[Name]


Recipients = Annotated[
    Unique[Name],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema(
        {
            "anyOf": [
                _NAMED,
                {"type": "array", "items": _NAMED, "minItems": 1, "maxItems": MAX_NAMES, "uniqueItems": True},
            ]
        }
    ),
]
"""One party's name, or a list of them."""


class Output(Part):
    """What a training may put into PERUNML_OUT under this name, and who gets it. One with a `level` is no file of the job's: it is what the job printed (``full``,
    the last `max_size` bytes, of a run that failed too), or the class of its error alone."""

    to: Recipients
    format: Format = "json"
    max_size: Annotated[Size, Field(ge=1)] = FIELDS_SIZE
    use: Unique[Name] = ()
    release: ReleaseRule | None = None
    fields: Unique[FieldName] = ()
    level: Literal["error-class", "full"] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Output:
        if self.fields and self.format != "json":
            raise PydanticCustomError("malformed", "an output of named fields has the format json")
        if self.level:
            if self.fields or self.use or "format" in self.model_fields_set:
                raise PydanticCustomError(
                    "malformed", "an output with a level is the job's log: it has no format, fields or use"
                )
            if self.max_size > MAX_LOG:
                raise PydanticCustomError("malformed", "a log has at most 16 MiB")
            return self
        if not self.fields and not {"format", "max_size"} <= self.model_fields_set:
            raise PydanticCustomError("malformed", "an output says its format and max_size, or its fields")
        return self

    @property
    def form(self) -> str:
        """Its format, or ``log``."""
        return "log" if self.level else self.format

    @property
    def most_bits(self) -> int:
        """Bits of one run at the most."""
        return CLASS_BITS if self.level == "error-class" else 8 * self.max_size

    @property
    def approvers(self) -> tuple[str, ...]:
        return self.release.approve if self.release else ()


def combined(combinations: Iterable[Mapping[str, Any]], values: Mapping[str, Any]) -> bool:
    """Whether the values agree with one of the combinations, in all that it names; equal as JSON is."""
    return any(all(name in values and same(values[name], value) for name, value in one.items()) for one in combinations)


Combination = Filled[FieldName, Scalar]
"""Values of parameters that may stand together; of parameters that it does not name it says nothing."""


class Checkpoints(Part):
    """What a training keeps for its own resumes: `every` so many seconds what lies in PERUNML_CHECKPOINTS, at most `max_size` bytes,
    padded to that. Nobody but another session of the same run gets it."""

    max_size: Annotated[Size, Field(ge=1)]
    every: Annotated[Duration, Field(ge=1, le=MAX_EVERY)] = DEFAULT_EVERY


class TrainingJob(Part):
    """Code and inputs on one host, outputs sealed. Where there are `combinations`, a run's parameters agree with one of them."""

    code: Name
    inputs: Table[AssetRef, MountPath]
    hosts: Name
    operator: Name
    parameters: Table[FieldName, Parameter] = Field(default_factory=dict)
    combinations: Items[Combination] | None = None
    limits: TrainingLimits
    network: Literal["none"] = "none"
    lease: Lease = DEFAULT_LEASE
    tenancy: Tenancy = "exclusive"
    outputs: Table[Name, Output]
    checkpoints: Checkpoints | None = None


class Batching(Part):
    """Requests of any clients, computed together: at most `rows` rows, and none waits longer for others than `delay_ms` milliseconds."""

    rows: Annotated[int, Field(ge=2, le=MAX_ROWS)]
    delay_ms: Annotated[int, Field(ge=0, le=MAX_DELAY)]


LANGUAGE = ("transformers", "vllm")
"""Engines whose models are of language."""
WITH_CODE = ("safetensors",)
"""Engines whose models are weights alone: the architecture is an asset of kind code."""


class ServiceJob(Part):
    """A model served to clients. `code` is the architecture of a model that is weights alone. With `batching` the parties say that a row's result does
    not depend on the rows beside it."""

    model: AssetRef
    engine: Literal["torch-export", "onnx", "safetensors", "transformers", "vllm"]
    code: Name | None = None
    hosts: Name
    operator: Name
    clients: Unique[Name]
    limits: ServiceLimits
    lease: Lease = DEFAULT_LEASE
    tenancy: Tenancy = "exclusive"
    batching: Batching | None = None


def _job(value: Any) -> str:
    if isinstance(value, dict):
        return "<service>" if "model" in value or "engine" in value else "<training>"
    return "<service>" if isinstance(value, ServiceJob) else "<training>"


Job = Annotated[
    Annotated[TrainingJob, Tag("<training>")] | Annotated[ServiceJob, Tag("<service>")], Discriminator(_job)
]
AnyJob = TrainingJob | ServiceJob
