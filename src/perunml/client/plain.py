"""Refusals as clients of plain protocols read them: the Open Inference Protocol's, and OpenAI's under `/v1/`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from perunml.api.codes import REQUEST_TOO_LARGE
from perunml.api.refusal import STATUS
from perunml.wire.errors import PerunError

DONE = b"data: [DONE]\n\n"


def status_of(exc: PerunError) -> int:
    """The HTTP status of a refusal."""
    return 413 if exc.code == REQUEST_TOO_LARGE.code else STATUS[exc.reasons[0].rule.kind]


def refusal_body(exc: PerunError, path: str) -> bytes:
    """A refusal's body, in the form of the path's protocol."""
    value: dict[str, Any] = {"error": str(exc)}
    if path.startswith("/v1/"):
        value = {"error": {"message": str(exc), "type": "perunml", "param": None, "code": exc.code}}
    return json.dumps(value).encode()


def refusal_event(exc: PerunError, path: str) -> bytes:
    """A refusal in the middle of a stream of events."""
    return b"data: " + refusal_body(exc, path) + b"\n\n"


def receipted(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same parts, but the event that ends a stream for OpenAI's clients, who read no further, only when the answer's receipt was checked behind it."""
    for part in parts:
        if part.endswith(DONE):
            rest = list(parts)
            yield part
            yield from rest
            return
        yield part


def refusal_headers(exc: PerunError) -> dict[str, str]:
    return {"content-type": "application/json", "perunml-code": exc.code}
