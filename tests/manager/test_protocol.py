"""Heads that are HTTP and never ours, over raw TLS: too long, too slow, of two spellings, or more than a request."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.world import World
from perunml.manager import protocol
from perunml.manager.app import path_pattern
from perunml.manager.protocol import MAX_HEAD

HOST = b"host: 127.0.0.1\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST
OK, BAD = b"HTTP/1.1 200 OK", b"HTTP/1.1 400 Bad Request"


@contextmanager
def connected(world: World) -> Iterator[ssl.SSLSocket]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the attacker does not care whom it talks to
    with (
        socket.create_connection(("127.0.0.1", world.port), 10) as plain,
        context.wrap_socket(plain) as tls,
    ):
        yield tls


def answers(tls: ssl.SSLSocket, seconds: float = 2.0) -> list[bytes]:
    """The status lines that come before the manager closes, or falls silent."""
    got = b""
    tls.settimeout(seconds)
    try:
        while chunk := tls.recv(65536):
            got += chunk
    except (TimeoutError, ConnectionError, ssl.SSLError):
        pass
    return re.findall(rb"HTTP/1\.1 [^\r]*", got)


def ask(world: World, *pieces: bytes) -> list[bytes]:
    with connected(world) as tls:
        for piece in pieces:
            tls.sendall(piece)
        return answers(tls)


def test_an_honest_request(world: World) -> None:
    """What the others differ from, whole and in pieces."""
    whole = GET + b"connection: close\r\n\r\n"
    assert ask(world, whole) == [OK]
    assert ask(world, *(whole[i : i + 7] for i in range(0, len(whole), 7))) == [OK]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\n\r\n",
        GET + HOST + b"\r\n",
        GET + b"host: evil\r\n\r\n",
        b"GET https://127.0.0.1/healthz HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /healthz#x HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET healthz HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /h\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
        b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"get /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/3.7\r\n" + HOST + b"\r\n",
        b"GET /healthz\r\n\r\n",
        GET + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n",
        GET + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n",
        GET + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        GET + b"transfer-encoding: chunked\r\n\r\n0\r\nhost: evil\r\n\r\n",
        GET + b"transfer-encoding: identity\r\n\r\n",
        GET + b"content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        GET + b"content-length: 0\r\ncontent-length: 0\r\n\r\n",
        GET + b"content-length: 0, 0\r\n\r\n",
        GET + b"content-length: 0x0\r\n\r\n",
        GET + b"content-length: 99999999999999999999999\r\n\r\n",
        GET + b"content-length:\r\n\r\n",
        GET + b"x : y\r\n\r\n",
        GET + b"x\r\n\r\n",
        GET + b": y\r\n\r\n",
        GET + b" x: y\r\n\r\n",
        GET + b"x: a\rb\r\n\r\n",
        GET + b"x: a\nb: c\r\n\r\n",
        GET + b"x: a\x00b\r\n\r\n",
    ],
)
def test_a_head_of_another_spelling(world: World, head: bytes) -> None:
    """One answer, a refusal, and the connection is over: nothing behind it is read as a request."""
    assert ask(world, head + GET + b"\r\n") == [BAD]


@pytest.mark.parametrize("pieces", [1, 7], ids=["at once", "in pieces"])
@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * MAX_HEAD,
        b"GET /healthz?" + b"x" * MAX_HEAD + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        GET + b"x: " + b"y" * MAX_HEAD,
        GET + b"x: " + b"y" * MAX_HEAD + b"\r\n\r\n",
        GET + b"x" * MAX_HEAD,
        GET + b"x: y\r\n" * MAX_HEAD,
    ],
    ids=["path without end", "query", "header without end", "header", "name without end", "many headers"],
)
def test_a_head_that_is_too_long(world: World, head: bytes, pieces: int) -> None:
    """16 KiB, whichever part they are in and whether it ever ends."""
    size = -(-len(head) // pieces)
    with connected(world) as tls:
        try:
            for start in range(0, len(head), size):
                tls.sendall(head[start : start + size])
        except (ConnectionError, ssl.SSLError):
            pass  # refused before the last piece was sent
        assert set(answers(tls)) <= {BAD}
    with connected(world) as tls:
        tls.sendall(head)
        assert answers(tls) == [BAD]


def test_a_long_head_within_the_bound(world: World) -> None:
    """The bound is of one head: the next on the same connection has its own."""
    head = GET + b"x: " + b"y" * (MAX_HEAD - 200) + b"\r\n\r\n"
    assert ask(world, head, head, GET + b"connection: close\r\n\r\n") == [OK, OK, OK]


def test_two_requests_in_one_piece_are_answered_in_turn(world: World) -> None:
    """Pipelined: the second is read after the first was answered."""
    second = b"GET /nowhere HTTP/1.1\r\n" + HOST + b"connection: close\r\n\r\n"
    assert ask(world, GET + b"\r\n" + second) == [OK, b"HTTP/1.1 401 Unauthorized"]


@pytest.mark.parametrize("first", [b"", b"G", GET, GET + b"\r\n" + b"GET /hea"], ids=["none", "one", "most", "second"])
def test_a_head_that_trickles(world: World, first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """D6: who does not end a head in time is cut off; the time runs from the handshake, or from a later head's start."""
    monkeypatch.setattr(protocol, "HEADER_TIME", 0.3)
    with connected(world) as tls:
        tls.sendall(first)
        began = time.monotonic()
        assert answers(tls, 5) == ([OK] if b"\r\n\r\n" in first else [])
        assert time.monotonic() - began < 5


def test_an_idle_connection_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between requests nothing has begun, so no head's time runs."""
    monkeypatch.setattr(protocol, "HEADER_TIME", 0.1)
    with connected(world) as tls:
        tls.sendall(GET + b"\r\n")
        assert answers(tls, 0.5) == [OK]
        tls.sendall(GET + b"\r\n")
        assert answers(tls, 0.5) == [OK]


@given(st.lists(st.sampled_from(["a", "b", "{x}", "{y}", "", "{rest:path}", "."]), min_size=1, max_size=5, unique=True))
def test_a_routes_pattern_matches_its_own_paths_alone(parts: list[str]) -> None:
    """A name is one segment and not empty; all else stands for itself."""
    pattern = path_pattern("/" + "/".join(parts))
    values = {"{x}": "1", "{y}": "2\n", "{rest:path}": "3/4"}
    found = pattern.fullmatch("/" + "/".join(values.get(part, part) for part in parts))
    assert found is not None
    assert found.groupdict() == {key.strip("{}").partition(":")[0]: v for key, v in values.items() if key in parts}
    if "{rest:path}" not in parts:
        assert pattern.fullmatch("/" + "/".join(parts) + "/") is None
