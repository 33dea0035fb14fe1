"""What a party makes of answers that are none: refused with `unreachable`, never believed, never followed."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.test_pin import issue, key_pem, pem, pin_of
from perunml.api.assets import AssetView
from perunml.api.refusal import RefusalBody
from perunml.client.connection import Connection, WouldSend
from perunml.wire.errors import OutputHeld, PerunError, Unreachable, refuse
from perunml.wire.identity import SigningKey
from perunml.wire.rules import Kind, Rule

HELD = Rule("held_in_tests", Kind.HELD, "Only for this test.", "Nobody.")
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answer, folder: Path) -> Iterator[Connection]:
    """A connection to a pinned server that answers everything with `answer`."""
    key, certificate = issue("manager")
    file = folder / "server.pem"
    file.write_bytes(pem(certificate).encode() + key_pem(key))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    pin = pin_of(certificate, url=f"https://127.0.0.1:{server.server_port}")
    try:
        with Connection(pin, SigningKey.generate(), timeout=5) as connection:
            yield connection
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def say(status: int, body: bytes, **headers: str) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def cut(handler: http.server.BaseHTTPRequestHandler) -> None:
    say(200, b"{", content_length="100")(handler)
    handler.close_connection = True


REFUSED = RefusalBody.of(refuse(HELD, "not yet\x1b[31m")).encode()


@pytest.mark.parametrize(
    "answer",
    [
        say(200, b"<html>"),
        say(200, b"{}"),
        say(200, b'{"asset":"x","surprise":1}'),
        say(500, b"oops"),
        say(403, b'{"reasons":[]}'),
        say(403, b'{"reasons":"no"}'),
        say(302, b"", location="https://127.0.0.1:1/"),
        cut,
        lambda handler: None,
    ],
    ids=["html", "empty", "surprise", "500", "no-reasons", "bad-reasons", "redirect", "cut", "nothing"],
)
def test_what_is_no_answer(answer: Answer, tmp_path: Path) -> None:
    """Exit code 16 for all of them; a redirect is not followed."""
    with answering(answer, tmp_path) as connection, pytest.raises(Unreachable) as caught:
        connection.call("GET", "/v1/x", AssetView)
    assert caught.value.code == "unreachable"


def test_an_answer_past_its_limit(tmp_path: Path) -> None:
    """What is read is bounded by what was asked for."""
    with answering(say(200, bytes(1000)), tmp_path) as connection:
        assert len(connection.raw("GET", "/v1/x", limit=1000)) == 1000
        with pytest.raises(Unreachable):
            connection.raw("GET", "/v1/x", limit=999)


def test_a_refusal_keeps_its_kind_and_loses_its_escapes(tmp_path: Path) -> None:
    """The error that the manager raised, shown without control characters."""
    with answering(say(403, REFUSED), tmp_path) as connection, pytest.raises(OutputHeld) as caught:
        connection.call("GET", "/v1/x", AssetView)
    assert caught.value.code == "held_in_tests"
    assert "\x1b" not in str(caught.value)


def test_no_proxy_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody in the environment says whom we talk to."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    with answering(say(200, b"ok"), tmp_path) as connection:
        assert connection.raw("GET", "/v1/x") == b"ok"


def test_a_dry_run_reads_and_sends_nothing() -> None:
    """The first request that would change something is raised instead."""
    with Connection(pin_of(issue("m")[1]), SigningKey.generate(), dry_run=True) as connection:
        for method in ("POST", "PUT", "DELETE"):
            with pytest.raises(WouldSend) as caught:
                connection.raw(method, "/v1/x", b"body")
            assert (caught.value.method, caught.value.body) == (method, b"body")
        with pytest.raises(PerunError):
            connection.raw("GET", "/v1/x")
