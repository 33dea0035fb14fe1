"""An S3 service on loopback: moto's server, and before it a door that checks signatures as the service would, and makes faults.

moto believes every signature; so the door computes those of presigned addresses again (AWS Signature Version 4, query form), and
refuses what is unsigned or over its time.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import logging
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from moto.server import ThreadedMotoServer

from perunml.sealing.store_s3 import Credentials, Place, S3Store

logging.getLogger("werkzeug").setLevel(logging.ERROR)
ACCOUNT = Credentials("AKIATESTS", "a-secret-of-the-tests")
NAME = "sealed-blobs"
Fault = Callable[["Door"], bool]
"""Answers a request in its own way and says so (True), or lets it through."""


class Bucket:
    """One bucket. `faults` are worked off, one for each request that they concern; `seen` has (method, path with query) of all."""

    def __init__(self) -> None:
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        self.behind = self._moto.get_host_and_port()
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str]] = []
        self.refused: list[str] = []
        self.clock: Callable[[], float] = time.time
        bucket = self

        class Handler(Door):
            of = bucket

        self._door = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._door.daemon_threads = True
        self._thread = threading.Thread(target=self._door.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._door.server_address[1]}"
        self.make()

    def close(self) -> None:
        self.clear()  # moto's state is its process's
        self._door.shutdown()
        self._door.server_close()
        self._thread.join()
        self._moto.stop()

    @property
    def place(self) -> Place:
        return Place(self.url, NAME, "a/prefix")

    def store(self, asset: str = "", **more: Any) -> S3Store:
        """With pauses that take no time."""
        return S3Store(self.place, ACCOUNT, asset, pause=lambda seconds: None, **more)

    def make(self) -> None:
        self._ask("PUT", "")

    def remove(self) -> None:
        """The bucket and all that is in it."""
        self.clear()
        self._ask("DELETE", "")

    def clear(self) -> None:
        for key in self.held():
            self.delete(key)

    def held(self) -> list[str]:
        text = self._ask("GET", "?list-type=2").decode()
        return [part.partition("</Key>")[0] for part in text.split("<Key>")[1:]]

    def get(self, key: str) -> bytes:
        return self._ask("GET", "/" + key)

    def put(self, key: str, data: bytes) -> None:
        """As whoever runs the service can: over what is there."""
        self._ask("PUT", "/" + key, data)

    def delete(self, key: str) -> None:
        self._ask("DELETE", "/" + key)

    def uploads(self) -> int:
        """Multipart uploads begun and neither completed nor aborted."""
        return self._ask("GET", "?uploads").decode().count("<UploadId>")

    def _ask(self, method: str, rest: str, data: bytes | None = None) -> bytes:
        url = f"http://{self.behind[0]}:{self.behind[1]}/{NAME}{rest}"
        headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=AKIATESTS/20260101/us-east-1/s3/aws4_request"}
        headers["Content-Type"] = "application/octet-stream"
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method)) as answer:
            found: bytes = answer.read()
        return found


class Door(BaseHTTPRequestHandler):
    """Looks at each request, then hands it to moto, or not."""

    of: Bucket
    body: bytes
    protocol_version = "HTTP/1.1"
    timeout = 10

    def log_message(self, *args: Any) -> None:
        """Says nothing."""

    def _serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("content-length", "0")))
        self.of.seen.append((self.command, self.path))
        if wrong := self._unsigned():
            self.of.refused.append(wrong)
            self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
            return
        for fault in list(self.of.faults):
            with contextlib.suppress(ValueError):  # another request took it
                self.of.faults.remove(fault)  # before it answers: whoever has the answer looks at what is left
                if fault(self):
                    return
                self.of.faults.append(fault)
        status, headers, data = self.behind()
        self.answer(status, data, headers)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def behind(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """What moto answers."""
        connection = http.client.HTTPConnection(*self.of.behind, timeout=30)
        connection.request(self.command, self.path, self.body, dict(self.headers))
        got = connection.getresponse()
        data = got.read()
        connection.close()
        dropped = {"connection", "transfer-encoding", "server", "date"}
        return got.status, [(name, value) for name, value in got.getheaders() if name.lower() not in dropped], data

    def answer(self, status: int, data: bytes, headers: list[tuple[str, str]] = []) -> None:  # noqa: B006 - never changed
        self.send_response(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD" or not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _unsigned(self) -> str:
        query = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        if "X-Amz-Signature" not in query:
            signed = f"Credential={ACCOUNT.key_id}/" in self.headers.get("authorization", "")
            return "" if signed else "not signed"
        made = time.mktime(time.strptime(query["X-Amz-Date"] + " UTC", "%Y%m%dT%H%M%SZ %Z")) - time.timezone
        if self.of.clock() > made + int(query["X-Amz-Expires"]):
            return "over its time"
        return "" if hmac.compare_digest(query["X-Amz-Signature"], self._signature(query)) else "another signature"

    def _signature(self, query: dict[str, str]) -> str:
        """Signature Version 4 of this request, as its query says that it was signed."""
        rest = {name: value for name, value in query.items() if name != "X-Amz-Signature"}
        line = "&".join(
            f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(rest.items())
        )
        names = query["X-Amz-SignedHeaders"].split(";")
        headers = "".join(f"{name}:{self.headers[name].strip()}\n" for name in names)
        path = urlsplit(self.path).path
        request = "\n".join([self.command, path, line, headers, ";".join(names), "UNSIGNED-PAYLOAD"])
        scope = query["X-Amz-Credential"].partition("/")[2]
        text = "\n".join(["AWS4-HMAC-SHA256", query["X-Amz-Date"], scope, hashlib.sha256(request.encode()).hexdigest()])
        key = b"AWS4" + ACCOUNT.secret.encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def busy(method: str) -> Fault:
    """503, once."""
    return lambda door: door.command == method and (door.answer(503, b"<Error><Code>SlowDown</Code></Error>") or True)


def broken(method: str) -> Fault:
    """The connection is closed without an answer, once."""

    def fault(door: Door) -> bool:
        if door.command != method:
            return False
        door.close_connection = True
        return True

    return fault


def cut(door: Door) -> bool:
    """Half of the answer, then the connection is closed."""
    if door.command != "GET" or "list-type" in door.path:
        return False
    status, headers, data = door.behind()
    door.send_response(status)
    for name, value in headers:
        door.send_header(name, value)
    door.end_headers()
    door.wfile.write(data[: len(data) // 2])
    door.close_connection = True
    return True


def lost(door: Door) -> bool:
    """A PUT is done, its answer does not arrive."""
    if door.command != "PUT":
        return False
    door.behind()
    door.close_connection = True
    return True
