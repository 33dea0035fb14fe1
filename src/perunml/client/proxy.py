"""A plain HTTP server on this machine, for clients that know nothing of Perun: what they ask goes sealed to one service, and its answer comes back plain.

An Open Inference Protocol or OpenAI client is pointed at it unchanged. Whoever can connect asks in this party's name, so it listens on this machine alone unless told otherwise.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from perunml.api.codes import REQUEST_TOO_LARGE
from perunml.api.inference import ReceiptFile
from perunml.api.service import MAX_BODY
from perunml.client.codes import BROWSER_REFUSED, LISTEN_REFUSED
from perunml.client.plain import receipted, refusal_body, refusal_event, refusal_headers, status_of
from perunml.client.tunnel import Answer, Tunnel
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import PerunError, refuse

IDLE_SECONDS = 75.0
"""After which a connection on which nothing comes is closed."""


class Proxy:
    """Listens from the start; `serve` until `stop`. `on_receipt` gets each answer's receipt, from several threads; `on_refusal` what was refused."""

    def __init__(
        self, tunnel: Tunnel, address: str, *, beyond_this_machine: bool = False,
        on_receipt: Callable[[ReceiptFile], None] = lambda receipt: None, on_refusal: Callable[[PerunError], None] = lambda exc: None,
    ) -> None:  # fmt: skip
        """`address` is HOST:PORT, port 0 for any. Raises `UsageError` (listen_refused): not this machine's own, or taken."""
        self._tunnel, self._on_receipt, self._on_refusal = tunnel, on_receipt, on_refusal
        host, port = _address(address, beyond_this_machine)
        proxy = self

        class Handler(_Handler):
            own_host = host

            def answer(self, method: str, body: bytes) -> None:
                proxy._answer(self, method, body)

        try:
            self._server = _server(host, port, Handler)
        except OSError as exc:
            raise refuse(
                LISTEN_REFUSED, "the address cannot be listened on", seen=f"{address}: {exc.strerror}"
            ) from None
        bound = self._server.server_address
        self.url = f"http://{'[' + host + ']' if ':' in host else host}:{bound[1]}"

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """From another thread; `serve` returns, and the tunnel is closed."""
        self._server.shutdown()
        self._server.server_close()
        self._tunnel.close()

    def _answer(self, handler: _Handler, method: str, body: bytes) -> None:
        try:
            answer = self._tunnel.ask(method, handler.path, dict(handler.headers.items()), body)
        except PerunError as exc:
            self._on_refusal(exc)
            handler.refuse(exc)
            return
        try:
            self._pass_on(handler, answer)
        finally:
            answer.close()

    def _pass_on(self, handler: _Handler, answer: Answer) -> None:
        """The whole answer where it is short, with its length; a longer one, or a stream, in chunks as they come."""
        parts = receipted(answer.parts())
        try:
            first = [part for _, part in zip(range(2), parts, strict=False)]
            if answer.receipt is not None or len(first) < 2:
                first += list(parts)
                self._kept(answer)
                handler.whole(answer.status, answer.headers, b"".join(first))
                return
        except PerunError as exc:
            self._on_refusal(exc)
            handler.refuse(exc)
            return
        handler.begin(answer.status, answer.headers)
        try:
            for part in first:
                handler.chunk(part)
            for part in parts:
                handler.chunk(part)
            self._kept(answer)
            handler.end()
        except PerunError as exc:
            # What has left cannot be taken back: the connection ends without the end of its answer, which a client sees.
            self._on_refusal(exc)
            handler.cut(exc)

    def _kept(self, answer: Answer) -> None:
        if answer.receipt is not None:
            self._on_receipt(answer.receipt)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server_version, sys_version = "perunml", ""
    own_host = ""

    def answer(self, method: str, body: bytes) -> None:
        """In subclasses."""

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        try:
            self._from_a_program()
            body = self._body() if method == "POST" else b""
        except PerunError as exc:
            self.close_connection = True  # what else came may not have been read
            self.refuse(exc)
            return
        self.answer(method, body)

    def _from_a_program(self) -> None:
        """Any web page can have its reader's browser ask this machine; none may ask here. A browser says where it comes from, and whose name led it here."""
        named = urlsplit("//" + self.headers.get("host", "")).hostname or ""
        own = named in ("localhost", self.own_host)
        with contextlib.suppress(ValueError):
            own = own or ipaddress.ip_address(named).is_loopback
        if "origin" in self.headers or "sec-fetch-site" in self.headers or not own:
            raise refuse(
                BROWSER_REFUSED, "a web page asked, or another name than this machine's was used", seen=named[:80]
            )

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no request that this server reads, or of a method that it has not: told as any refusal, and the connection ends."""
        self.close_connection = True
        exc = refuse(MALFORMED, "not a request that a service takes", expected="GET or POST", seen=str(message)[:80])
        self.path = getattr(self, "path", "/")
        self.request_version = getattr(self, "request_version", "") or self.protocol_version
        self.whole(code, refusal_headers(exc), refusal_body(exc, self.path))

    def log_message(self, format: str, *args: Any) -> None:
        """What is asked is nobody's to log."""

    def refuse(self, exc: PerunError) -> None:
        """As clients of the path's protocol read errors."""
        self.whole(status_of(exc), refusal_headers(exc), refusal_body(exc, self.path))

    def whole(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self._head(status, {**headers, "content-length": str(len(body))})
        self.wfile.write(body)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self._head(status, {**headers, "transfer-encoding": "chunked"})

    def chunk(self, part: bytes) -> None:
        if part:
            self.wfile.write(b"%x\r\n" % len(part) + part + b"\r\n")
            self.wfile.flush()

    def end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def cut(self, exc: PerunError) -> None:
        """In an event stream the refusal can still be said; then the connection ends."""
        if "event-stream" in self._sent:
            self.chunk(refusal_event(exc, self.path))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self._sent = headers.get("content-type", "")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self) -> bytes:
        length = self.headers.get("content-length", "0")
        if self.headers.get("transfer-encoding"):
            return b"".join(self._chunked())
        if not length.isascii() or not length.isdigit() or int(length[:20]) > MAX_BODY:
            raise refuse(
                REQUEST_TOO_LARGE, "the body is too large", expected=f"at most {MAX_BODY} bytes", seen=length[:20]
            )
        return self.rfile.read(int(length))

    def _chunked(self) -> Iterator[bytes]:
        """A body that comes in chunks (RFC 9112, section 7.1)."""
        total = 0
        while True:
            line = self.rfile.readline(64).strip().partition(b";")[0]
            try:
                size = int(line, 16)
            except ValueError:
                raise refuse(MALFORMED, "not a chunked body", expected="sizes in hexadecimal") from None
            total += size
            if size < 0 or total > MAX_BODY:
                raise refuse(REQUEST_TOO_LARGE, "the body is too large", expected=f"at most {MAX_BODY} bytes")
            data = self.rfile.read(size)
            self.rfile.readline(64)
            if not size:
                return
            yield data


def _address(address: str, beyond: bool) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    own = host == "localhost"
    with contextlib.suppress(ValueError):
        own = ipaddress.ip_address(host).is_loopback
    if not port.isdigit() or int(port) > 65535 or not (own or beyond):
        raise refuse(
            LISTEN_REFUSED, "a proxy asks in this party's name for whoever connects, so it listens on this machine alone",
            expected="127.0.0.1:PORT", seen=address, command="perunml proxy RUN --listen 127.0.0.1:9000",
        )  # fmt: skip
    return host, int(port)


def _server(host: str, port: int, handler: type[_Handler]) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that went away is no news."""

    return Server((host, port), handler)
