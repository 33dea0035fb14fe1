"""The HTTP face of a service: bounded in bytes, in time and in number, and shut at once when the lease is lost.

Plain HTTP by design: requests and answers are sealed end to end, and any proxy may add TLS. A proxy's log sees
sizes, times and that somebody asked; docs/limitations.md says so.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from perunml.api.base import Message
from perunml.api.codes import REQUEST_TOO_LARGE, UNREACHABLE
from perunml.api.refusal import STATUS, RefusalBody
from perunml.api.service import MAX_BODY
from perunml.serving.codes import SERVICE_BUSY
from perunml.serving.service import Service
from perunml.serving.watch import HEADER, Seen, Watched
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import PerunError, refuse

MAX_SEALED = MAX_BODY + MAX_BODY // 8 + 2 * 2**20
"""Bytes of one sealed request: its body, padding, and what is said of it."""
SEALED_ANSWER = "application/vnd.perunml.answer"
BODY_SECONDS = 20.0
"""Seconds in which a body must have come: a slow client holds a connection, never a worker."""
MAX_CONNECTIONS = 256
MAX_WAITING = 64
"""Calls that are opened, computed or wait for it; the next is told to come again."""
SMALL = 1 << 20
MAX_LARGE = 8
"""Requests of more than `SMALL` bytes that are held at once, of up to `MAX_SEALED` each; the next one's bytes wait where they are."""
WORKERS = 32
"""Threads that open, wait for the engine and seal: as many requests can come together in one batch."""
STOP_SECONDS = 5.0


def make_app(service: Service, max_waiting: int = MAX_WAITING, watch: Watch | None = None) -> ASGIApp:
    """The application. It has two routes and keeps nothing."""
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="perunml-infer")
    waiting, large = asyncio.Semaphore(max_waiting), asyncio.Semaphore(MAX_LARGE)

    async def show(request: Request) -> Response:
        return await _guarded(_viewed(service))

    async def sealed(request: Request) -> Response:
        return await _guarded(_streamed(request, service, pool, waiting, large))

    app = Starlette(
        routes=[
            Route("/.well-known/perunml/service", show, methods=["GET"]),
            Route("/v1/sealed", sealed, methods=["POST"]),
        ]
    )
    return Watched(app, watch.watchers, watch.begun) if watch else app


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told of requests: when they are over, and of each begin and end."""

    watchers: tuple[Callable[[Seen], None], ...]
    begun: Callable[[int], None]


async def _viewed(service: Service) -> Message:
    return service.view()


async def _streamed(
    request: Request, service: Service, pool: ThreadPoolExecutor, waiting: asyncio.Semaphore, large: asyncio.Semaphore
) -> Response:
    """An answer as it is made. Large requests, and those that do not say how large they are, are read a few at a time."""
    announced = request.headers.get("content-length", "")
    slot = waiting if announced.isascii() and announced.isdigit() and int(announced[:20]) <= SMALL else large
    if waiting.locked():
        raise refuse(SERVICE_BUSY, "too many requests at once")
    loop = asyncio.get_running_loop()
    await slot.acquire()
    try:
        first, rest = await loop.run_in_executor(pool, service.open, await _bounded_body(request))
    except BaseException:
        slot.release()
        raise

    headers = {"cache-control": "no-store"}
    if rest is None:
        slot.release()
        return Response(first, 200, headers, SEALED_ANSWER)

    pieces = _Pieces(rest)

    async def answer() -> AsyncIterator[bytes]:
        yield first
        while (piece := await loop.run_in_executor(pool, pieces.next)) != b"":
            yield piece

    class Answer(StreamingResponse):
        """Lets go of its slot, and of the answer, however it ends: taken whole, broken off, or never begun."""

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await super().__call__(scope, receive, send)
            finally:
                slot.release()
                pool.submit(pieces.close)

    return Answer(answer(), 200, headers, SEALED_ANSWER)


class _Pieces:
    """The rest of an answer, read by one thread at a time; closing waits for the one that reads."""

    def __init__(self, rest: Iterator[bytes]) -> None:
        self._rest, self._guard = rest, threading.Lock()

    def next(self) -> bytes:
        """Empty at the end."""
        with self._guard:
            return next(self._rest, b"")

    def close(self) -> None:
        with self._guard:
            getattr(self._rest, "close", lambda: None)()


async def _bounded_body(request: Request, most: int = MAX_SEALED) -> bytes:
    """The body, refused at its announcement when that is too large already (D1)."""
    announced = request.headers.get("content-length", "0")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise refuse(MALFORMED, "bodies are not compressed")
    if not announced.isascii() or not announced.isdigit() or int(announced[:20]) > most:
        raise refuse(REQUEST_TOO_LARGE, "the body is too large", expected=f"at most {most} bytes")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > most:
                    raise refuse(REQUEST_TOO_LARGE, "the body is too large", expected=f"at most {most} bytes")
    except (TimeoutError, ClientDisconnect):
        raise refuse(UNREACHABLE, "the body did not come") from None
    return b"".join(parts)


async def _guarded(work: Coroutine[Any, Any, Message | Response]) -> Response:
    """The work's answer, or its refusal; no exception leaves the handler, and none shows a text of its own."""
    try:
        made = await work
        if isinstance(made, Response):
            return made
        status, content, code = 200, made.encode(), ""
    except PerunError as exc:
        status = 413 if exc.code == REQUEST_TOO_LARGE.code else STATUS[exc.reasons[0].rule.kind]
        content, code = RefusalBody.of(exc).encode(), exc.code
    except Exception:
        status, code = 500, UNREACHABLE.code
        content = RefusalBody.of(refuse(UNREACHABLE, "the service failed")).encode()
    # The body of a refused request may not have been read: the connection is of no further use then.
    headers = {"cache-control": "no-store"} | ({"connection": "close", HEADER.decode(): code} if code else {})
    return Response(content, status, headers, "application/json")


def listen(address: str) -> tuple[socket.socket, str]:
    """A bound, listening socket for ``host:port`` (port 0: any) and its endpoint, ``http://host:port``. Raises `OSError`."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    six = ":" in host
    # asyncio turns Nagle's delay off, some 40 ms per answer, for sockets that name their protocol.
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, int(port)))
    sock.listen(128)
    shown, number = sock.getsockname()[:2]
    if ipaddress.ip_address(shown).is_unspecified:
        shown = socket.gethostname()
    return sock, f"http://[{shown}]:{number}" if ":" in shown else f"http://{shown}:{number}"


class Gateway:
    """Serves in a thread of its own, from `start` to `stop`."""

    def __init__(
        self, service: Service, sock: socket.socket, *, max_waiting: int = MAX_WAITING, watch: Watch | None = None
    ) -> None:
        self._service = service
        self._socket = sock
        config = uvicorn.Config(
            functools.partial(make_app, service, max_waiting, watch),
            factory=True,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            http="h11",
            loop="asyncio",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=32 * 1024,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="perunml-gateway", daemon=True)

    def start(self) -> Gateway:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the service first, then listener and connections: nothing that was being computed leaves any more."""
        self._service.close()
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(STOP_SECONDS)
        self._socket.close()

    def _run(self) -> None:
        # uvicorn takes over signals in the main thread only; in this one it leaves them to the runner.
        self._server.run(sockets=[self._socket])
