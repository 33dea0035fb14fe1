"""HTTP/1.1 as the manager reads it: one spelling of a request, within bounds, and nothing that two readers could take for two.

llhttp (through httptools) reads the bytes, uvicorn makes an ASGI request of them, and this class refuses, with a constant
400 and an end to the connection, what is HTTP but never ours: bodies of unknown length, upgrades, targets that are no plain
path, a host named twice or not at all, a head that is too long or trickles.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from perunml.manager.auth import EXTENSION, Peer

HEADER_TIME = 10.0
"""Seconds for a request's head: a client that trickles it is cut off (D6)."""
MAX_HEAD = 16 * 1024
"""Bytes of a request's head; ours have one kilobyte."""


class Corked:
    """A transport that sends what one step writes as one piece: head and body of an answer in one TLS record."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pending: list[bytes] = []
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes) -> None:
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pending:
            data, self._pending = b"".join(self._pending), []
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _NotOurs(Exception):
    """A request that is refused for its form. httptools turns what a callback raises into a parse error of its own, and
    uvicorn that into a 400."""


class Protocol(HttpToolsProtocol):
    """One connection. Hands the client's certificate to the application (`auth.Peer`)."""

    _peer: Peer
    _timer: asyncio.TimerHandle | None = None
    _in_head = True
    """From a request's first byte to the end of its head; before the first one, from the handshake."""
    _head = 0
    """Bytes of the head read so far."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a TCP transport always
        super().connection_made(Corked(transport, self.loop))  # type: ignore[arg-type]  # it is one in all that is used
        ssl_object = transport.get_extra_info("ssl_object")
        self._peer = Peer(ssl_object.getpeercert(binary_form=True) if ssl_object else None)
        self._watch()

    def data_received(self, data: bytes) -> None:
        # Only what comes whole reaches the callbacks, which count it; so one line without an end is counted here.
        began_in_head = self._in_head
        super().data_received(data)
        if began_in_head and self._in_head:
            self._head += len(data)
            if self._head > MAX_HEAD and not self.transport.is_closing():
                self.send_400_response("Invalid HTTP request received.")
        self._watch()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: self._peer}  # type: ignore[dict-item]  # not a JSON-like one of ASGI's own
        self._in_head, self._head = True, 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        names = [name for name, _ in self.headers]
        if (
            names.count(b"host") != 1
            or b"transfer-encoding" in names  # chunks and trailers: our bodies tell their length before they come
            or self.parser.should_upgrade()
            or not self.url.startswith(b"/")  # what is signed is the path, so the target is a path and a query
            or b"#" in self.url
        ):
            raise _NotOurs
        self._in_head = False
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def shutdown(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()  # an idle client may never answer TLS's goodbye
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD:
            raise _NotOurs

    def _watch(self) -> None:
        """A timer runs while a head has begun and not ended, and nothing is being answered."""
        waits = self._in_head and (self.cycle is None or self.cycle.response_complete)
        if waits and self._timer is None:
            self._timer = self.loop.call_later(HEADER_TIME, self.transport.close)
        elif not waits and self._timer is not None:
            self._timer.cancel()
            self._timer = None
