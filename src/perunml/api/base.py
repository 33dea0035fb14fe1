"""What every message has in common: strict, frozen, no unknown members, canonical JSON on the wire."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, PlainSerializer, ValidationError, WithJsonSchema
from pydantic.functional_validators import PlainValidator

from perunml.wire.canonical import canonical, load_json
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import Envelope
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import PerunError, refuse

MAX_MESSAGE = 32 * 1024 * 1024
"""Largest message, in bytes: a first release carries a whole IMA log, 100,000 entries of which have 15 MB (20 in base64)."""

M = TypeVar("M", bound="Message")


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return unb64(value)
    except PerunError as exc:
        raise ValueError(str(exc)) from None


def _envelope(value: Any) -> Envelope:
    if isinstance(value, Envelope):
        return value
    try:
        return Envelope.from_json(value)
    except PerunError as exc:
        raise ValueError(str(exc)) from None


B64 = Annotated[
    bytes,
    PlainValidator(_bytes),
    PlainSerializer(b64, return_type=str),
    WithJsonSchema({"type": "string", "contentEncoding": "base64url"}),
]
"""Bytes; base64url without padding on the wire."""
ENVELOPE = {
    "type": "object",
    "required": ["payloadType", "payload", "signatures"],
    "additionalProperties": False,
    "properties": {
        "payloadType": {"type": "string"},
        "payload": {"type": "string", "contentEncoding": "base64url"},
        "signatures": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["keyid", "sig"],
                "additionalProperties": False,
                "properties": {"keyid": {"type": "string"}, "sig": {"type": "string", "contentEncoding": "base64url"}},
            },
        },
    },
}
"""A DSSE envelope, as a JSON Schema."""
Signed = Annotated[
    Envelope,
    PlainValidator(_envelope),
    PlainSerializer(lambda e: e.as_json(), return_type=dict),
    WithJsonSchema(ENVELOPE),
]
"""A DSSE envelope; whoever reads it verifies it."""
Document = dict[str, Any]
"""A JSON object that another room parses (an evidence bundle, a manifest's wraps)."""


class Message(BaseModel):
    """One request or answer."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def encode(self) -> bytes:
        """RFC 8785 bytes."""
        return canonical(self.model_dump(mode="json"))

    @classmethod
    def decode(cls: type[M], data: bytes, *, limit: int = MAX_MESSAGE) -> M:
        """Raises `UsageError` (malformed), naming the first field that is wrong and never showing its value."""
        value = load_json(data, limit=limit)
        try:
            return cls.model_validate(value)
        except ValidationError as exc:
            first = exc.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the message"
            raise refuse(MALFORMED, f"{cls.__name__}: {where}: {first['msg']}") from None
