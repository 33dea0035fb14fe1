"""From a request to an answer: reads bodies within bounds, says no in one shape, and lets no exception out.

An endpoint is an ASGI application over one action. Callers who are not entitled get one constant answer (C16); what went
wrong inside is a number in the log.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from perunml.api.base import Message
from perunml.api.refusal import STATUS, RefusalBody
from perunml.manager.codes import (
    BODY_TOO_LARGE,
    ENCODING_REFUSED,
    INTERNAL,
    NOT_ENTITLED,
    TOO_SLOW,
)
from perunml.wire.codes import MALFORMED, REQUEST_UNSIGNED
from perunml.wire.errors import PerunError, refuse
from perunml.wire.rules import printable

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

SMALL = 1024 * 1024
"""Bytes of an ordinary body: an agreement's envelope has at most 700 KiB."""
BODY_TIME = 30.0
"""Seconds for a body, and one more for each 256 KiB of it: a slower sender is cut off (D6)."""
BODY_RATE = 256 * 1024
JSON_TYPE = b"application/json"
BYTES_TYPE = b"application/octet-stream"
TEXT_TYPE = b"text/plain; charset=utf-8"
log = logging.getLogger("perunml.manager")


class Access(enum.Enum):
    """Who may call a route at all."""

    OPEN = "open"
    PARTY = "party"
    MACHINE = "machine"
    LEASE = "lease"
    PARTY_OR_LEASE = "party or lease"
    WITNESS = "party or witness"
    JOINER = "joiner"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a party's identity key, a machine, or a lease; all empty for an open route."""

    key: str = ""
    machine: str = ""
    lease: str = ""
    address: str = ""

    @property
    def name(self) -> str:
        return self.key or self.machine or self.lease or self.address


@dataclass(frozen=True, slots=True)
class Call:
    """One request, after it is known who asks. `query` has each name once."""

    caller: Caller
    params: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes
    type: bytes = JSON_TYPE
    status: int = 200


Action = Callable[[Call], Awaitable[Message | Answer]]
Identify = Callable[[Scope, Callable[[], Awaitable[bytes]]], Awaitable[Caller]]


class Endpoint:
    """One route's ASGI application. `identify` says who asks and may read the body; `limit` bounds it in bytes."""

    def __init__(self, action: Action, access: Access, identify: Identify, limit: int) -> None:
        self.action = action
        self.access = access
        self._identify = identify
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        close = False
        try:
            body = Body(scope, receive, self._limit)
            caller = await self._identify(scope, body.read)
            call = Call(caller, scope.get("path_params", {}), read_query(scope), await body.read())
            made = await self.action(call)
            answer = made if isinstance(made, Answer) else Answer(encode(made))
        except PerunError as exc:
            answer = refused(exc)
            close = exc.code in (BODY_TOO_LARGE.code, TOO_SLOW.code)
            log_refusal(scope, exc)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            answer, close = broken(scope, exc), True
        await respond(send, answer, close=close)


class Body:
    """A request's body, read once, within its limit and time."""

    def __init__(self, scope: Scope, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._read: bytes | None = None
        headers = {name: value for name, value in scope["headers"] if name in (b"content-length", b"content-encoding")}
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise refuse(ENCODING_REFUSED, "only plain bodies are read")
        length = int(headers.get(b"content-length", b"0"))  # llhttp has checked that it is a number
        if length > limit:
            raise self._too_large()
        if length == 0:  # and `Protocol`, that there is no body without one
            self._read = b""

    async def read(self) -> bytes:
        """Raises `LimitReached` (body_too_large, too_slow)."""
        if self._read is None:
            try:
                async with asyncio.timeout(BODY_TIME + self._limit / BODY_RATE):
                    self._read = await self._all()
            except TimeoutError:
                raise refuse(TOO_SLOW, "the body did not arrive in time") from None
        return self._read

    async def _all(self) -> bytes:
        message = await self._receive()
        data = message.get("body", b"")
        if not message.get("more_body") and len(data) <= self._limit:
            return bytes(data)
        parts = bytearray(data)
        while message.get("more_body"):
            if len(parts) > self._limit:
                raise self._too_large()
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise refuse(MALFORMED, "the request broke off")
            parts += message.get("body", b"")
        if len(parts) > self._limit:
            raise self._too_large()
        return bytes(parts)

    def _too_large(self) -> PerunError:
        return refuse(BODY_TOO_LARGE, "the body is too large", expected=f"at most {self._limit} bytes")


def read_query(scope: Scope) -> dict[str, str]:
    """The query's members. Raises `UsageError` (malformed) for one that stands twice."""
    raw = scope["query_string"]
    if not raw:
        return {}
    try:
        pairs = parse_qsl(raw.decode("ascii"), strict_parsing=True, keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise refuse(MALFORMED, "the query is not of its form") from None
    if len({name for name, _ in pairs}) != len(pairs):
        raise refuse(MALFORMED, "a name stands twice in the query")
    return dict(pairs)


def number(call: Call, name: str, high: int = 2**53 - 1, default: int | None = None) -> int:
    """A whole number of the query. Raises `UsageError` (malformed)."""
    text = call.query.get(name, "" if default is None else str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= high):
        raise refuse(MALFORMED, f"{name} is a whole number", expected=f"0 to {high}", seen=text)
    return int(text)


def encode(message: Message) -> bytes:
    """JSON of an answer. Nobody signs or hashes it, so it need not be canonical, which is slow."""
    return message.model_dump_json().encode()


UNSIGNED = refuse(REQUEST_UNSIGNED, "the caller is not known here, or did not prove who it is")
OUTSIDE = refuse(NOT_ENTITLED, "there is nothing here for this caller")


def outside() -> PerunError:
    """What everyone hears who is not entitled, whether there is something or not."""
    return refuse(NOT_ENTITLED, "there is nothing here for this caller")


def unsigned() -> PerunError:
    """What everyone hears who did not prove who it is."""
    return refuse(REQUEST_UNSIGNED, "the caller is not known here, or did not prove who it is")


def refused(exc: PerunError) -> Answer:
    """The refusal as an answer."""
    status = STATUS[exc.reasons[0].rule.kind]
    match exc.code:
        case BODY_TOO_LARGE.code:
            status = 413
        case ENCODING_REFUSED.code:
            status = 415
        case REQUEST_UNSIGNED.code:
            return Answer(encode(RefusalBody.of(UNSIGNED)), status=401)
        case NOT_ENTITLED.code:
            return Answer(encode(RefusalBody.of(OUTSIDE)), status=403)
        case INTERNAL.code:
            status = 500
        case _:
            pass
    return Answer(encode(RefusalBody.of(exc)), status=status)


def broken(scope: Scope, exc: Exception) -> Answer:
    """The one answer to everything unforeseen; the log has the number and where it happened, never a value."""
    mark = secrets.token_hex(4)
    where = exc.__traceback__
    place = "?"
    while where is not None:
        place = f"{where.tb_frame.f_code.co_filename.rpartition('/')[2]}:{where.tb_lineno}"
        where = where.tb_next
    log.error("failed %s %s: %s at %s", mark, shown(scope), type(exc).__name__, place)
    return refused(refuse(INTERNAL, f"the manager failed at this (number {mark})"))


def log_refusal(scope: Scope, exc: PerunError) -> None:
    if log.isEnabledFor(logging.INFO):
        log.info("refused %s: %s", shown(scope), ",".join(reason.code for reason in exc.reasons[:8]))


def shown(scope: Scope) -> str:
    """The request's line, made printable: a path is whatever a stranger sends (D10)."""
    return printable(f"{scope['method']} {scope['path']}", 200)


async def respond(send: Send, answer: Answer, *, close: bool = False) -> None:
    headers = [
        (b"content-type", answer.type),
        (b"content-length", b"%d" % len(answer.body)),
        (b"cache-control", b"no-store"),
    ]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
