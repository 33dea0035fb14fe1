"""What a service's operator is told of its requests: nothing that he could not see on his own network.

Counts, sizes and times of what passed, and the codes that stand in plain answers. Who asked, for what, and whether the answer was one or a refusal is sealed, and is not told here either: what is told goes through `allowed`, and
through nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perunml.api.codes import REQUEST_TOO_LARGE, UNREACHABLE
from perunml.serving.codes import SERVICE_BUSY, SERVICE_OVER
from perunml.wire.codes import MALFORMED, UNSEAL_FAILED

KINDS = {"/.well-known/perunml/service": "certificate", "/v1/sealed": "request"}
"""A service's routes, as they are counted; anything else is ``other``."""
HEADER = b"perunml-code"
"""Of an answer in plain that refuses: why."""
CODES = frozenset(
    rule.code for rule in (SERVICE_OVER, UNSEAL_FAILED, MALFORMED, SERVICE_BUSY, REQUEST_TOO_LARGE, UNREACHABLE)
)
"""Codes of refusals in plain."""
Value = str | int | float


@dataclass(frozen=True, slots=True)
class Seen:
    """One HTTP request as it passed: bytes both ways, seconds from its head to its last byte, when it ended (seconds since 1970)."""

    kind: str
    status: int
    code: str
    received: int
    sent: int
    seconds: float
    ended: float


def _one_of(names: frozenset[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in names


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


ATTRIBUTES: Mapping[str, Callable[[Any], bool]] = {
    "perunml.kind": _one_of(frozenset({*KINDS.values(), "other"})),
    "perunml.code": _one_of(CODES),
    "http.response.status_code": _count,
    "http.request.body.size": _count,
    "http.response.body.size": _count,
}
"""The whole list: an attribute's name, and which values it may have."""


def allowed(attributes: Mapping[str, Any]) -> dict[str, Value]:
    """What of `attributes` may leave in metrics and traces; the rest is dropped."""
    return {name: value for name, value in attributes.items() if name in ATTRIBUTES and ATTRIBUTES[name](value)}


def told(seen: Seen) -> dict[str, Value]:
    """The attributes of one request, by the names of OpenTelemetry's semantic conventions where they have one."""
    return allowed(
        {
            "perunml.kind": seen.kind,
            "perunml.code": seen.code,
            "http.response.status_code": seen.status,
            "http.request.body.size": seen.received,
            "http.response.body.size": seen.sent,
        }
    )


class Watched:
    """An ASGI application whose requests are told to `watchers`, when they are over."""

    def __init__(
        self, app: ASGIApp, watchers: tuple[Callable[[Seen], None], ...], begun: Callable[[int], None]
    ) -> None:
        """`begun` hears of each request's begin (1) and end (-1)."""
        self._app, self._watchers, self._begun = app, watchers, begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        received = sent = status = 0
        code = ""

        async def taken() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def given(message: Message) -> None:
            nonlocal sent, status, code
            if message["type"] == "http.response.start":
                status = message["status"]
                code = dict(message["headers"]).get(HEADER, b"").decode("ascii", "replace")
            sent += len(message.get("body", b""))
            await send(message)

        self._begun(1)
        try:
            await self._app(scope, taken, given)
        finally:
            self._begun(-1)
            kind = KINDS.get(scope["path"], "other")
            seen = Seen(kind, status, code, received, sent, time.monotonic() - began, time.time())
            for watcher in self._watchers:
                watcher(seen)
