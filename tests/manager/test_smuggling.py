"""Requests that mean one thing to who signed them and another to who reads them, over raw TLS."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Sequence

import pytest

from manager.road import Road
from manager.world import World
from perunml.wire.httpsig import sign_request


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    return Road(world, tmp_path_factory.mktemp("road"))


def raw(road: Road, *pieces: bytes) -> list[bytes]:
    """Send bytes as they are on one connection; the status lines that come back."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the attacker does not care whom it talks to
    with (
        socket.create_connection(("127.0.0.1", road.world.port), 10) as plain,
        context.wrap_socket(plain) as connection,
    ):
        connection.settimeout(2)
        got = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            while chunk := connection.recv(65536):
                got += chunk
        except (TimeoutError, ConnectionError, ssl.SSLError):
            pass
    return [line for line in got.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


def request(
    road: Road,
    target: str,
    *,
    signed: str | None = None,
    method: str = "GET",
    sent_method: str = "",
    body: bytes = b"",
    sent_body: bytes | None = None,
    extra: Sequence[str] = (),
    twice: str = "",
) -> bytes:
    """A request of the hospital's for `target` whose signature is over `signed`."""
    url = f"{road.world.url}{target if signed is None else signed}"
    headers = sign_request(method, url, body, road.keys["hospital"], int(time.time()))
    sent = body if sent_body is None else sent_body
    lines = [f"{sent_method or method} {target} HTTP/1.1", f"host: 127.0.0.1:{road.world.port}", *extra]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if twice:
        lines.append(f"{twice}: {headers[twice]}")
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in extra):
        lines.append(f"content-length: {len(sent)}")
    lines.append("connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + sent


def statuses(road: Road, *pieces: bytes) -> list[int]:
    return [int(line.split()[1]) for line in raw(road, *pieces)]


def test_an_honest_raw_request_is_answered(road: Road) -> None:
    """What the others differ from."""
    assert statuses(road, request(road, "/v1/agreements")) == [200]


@pytest.mark.parametrize(
    ("target", "signed"),
    [
        ("/v1/runs", "/v1/agreements"),
        ("//v1/agreements", "/v1/agreements"),
        ("/v1//agreements", "/v1/agreements"),
        ("/v1/%61greements", "/v1/agreements"),
        ("/v1/./agreements", "/v1/agreements"),
        ("/v1/x/../agreements", "/v1/agreements"),
        ("/v1/agreements/", "/v1/agreements"),
        ("/v1/agreements?a=b", "/v1/agreements"),
        ("/v1/agreements", "/v1/agreements?a=b"),
        ("/v1/agreements%3Fa=b", "/v1/agreements?a=b"),
        ("/v1/agreements#x", "/v1/agreements"),
        ("/v1/assets/%2e%2e/agreements", "/v1/agreements"),
        ("/v1/assets/..%2f..%2fetc/blobs/x", "/v1/assets/..%2f..%2fetc/blobs/x"),
        ("/v1/runs/%00", "/v1/runs/%00"),
        ("/v1/runs/%ff%fe", "/v1/runs/%ff%fe"),
        ("http://evil/v1/agreements", "/v1/agreements"),
        ("*", "/v1/agreements"),
    ],
)
def test_a_target_other_than_the_signed_one_or_no_target_at_all(road: Road, target: str, signed: str) -> None:
    """C13: paths and queries count as they are sent, undecoded; names that lead elsewhere are nothing."""
    assert all(status in (400, 401, 403) for status in statuses(road, request(road, target, signed=signed)))


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "DELETE", "TRACE", "get"])
def test_another_method_than_the_signed_one(road: Road, method: str) -> None:
    """A signed GET is no other method."""
    assert all(
        status in (400, 401, 403) for status in statuses(road, request(road, "/v1/agreements", sent_method=method))
    )


@pytest.mark.parametrize("header", ["signature", "signature-input", "content-digest"])
def test_a_header_of_the_signature_twice(road: Road, header: str) -> None:
    """Two of them, even alike, are none."""
    assert statuses(road, request(road, "/v1/agreements", twice=header)) == [401]


@pytest.mark.parametrize(
    "extra",
    [
        ["host: evil"],
        ["content-length: 0", "transfer-encoding: chunked"],
        ["content-length: 0", "content-length: 5"],
        ["content-length: +0"],
        ["content-length: -1"],
        ["transfer-encoding: gzip, chunked"],
        ["transfer-encoding : chunked"],
    ],
)
def test_two_lengths_or_two_hosts(road: Road, extra: list[str]) -> None:
    """What two readers could take for two requests is answered to at most once, and never with yes."""
    found = statuses(road, request(road, "/v1/agreements", extra=extra), request(road, "/v1/agreements"))
    assert len(found) <= 1
    assert 200 not in found


def test_a_signed_request_sent_again_on_another_connection(road: Road) -> None:
    """A nonce is good once, wherever it comes from."""
    once = request(road, "/v1/agreements")
    assert statuses(road, once) == [200]
    assert statuses(road, once) == [403]


def test_another_body_under_the_digest(road: Road) -> None:
    """The body is compared with what was signed."""
    sent = request(road, "/v1/suspensions", method="POST", body=b"{}", sent_body=b"[]")
    assert statuses(road, sent) == [401]


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"NaN", b'{"a":1,"a":2}', b"1e999999"]
)
def test_odd_json(road: Road, body: bytes) -> None:
    """D2, P9: deep, doubled or impossible JSON of a known party is refused, and the manager lives on."""
    for path in ("/v1/agreements", "/v1/runs", "/v1/suspensions", "/v1/assets", "/v1/documents"):
        assert statuses(road, request(road, path, method="POST", body=body)) == [400]
    assert statuses(road, request(road, "/v1/agreements")) == [200]
