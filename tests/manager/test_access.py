"""Who may call, and what a request may be: every route without credentials, strangers, sizes, encodings, replays."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manager.road import Road
from manager.world import World, code_of
from perunml.api.agreements import AgreementView
from perunml.api.assets import AssetView
from perunml.api.pin import pinned_context
from perunml.api.runs import RunList, RunView
from perunml.wire.httpsig import sign_request
from perunml.wire.identity import SigningKey

OPENAPI = Path(__file__).parents[2] / "docs" / "spec" / "openapi.json"


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    return Road(world, tmp_path_factory.mktemp("road"))


def ask(world: World, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Any:
    """A request over TLS without any credentials: status and body."""
    connection = http.client.HTTPSConnection("127.0.0.1", world.port, context=pinned_context(world.pin), timeout=20)
    try:
        connection.request(method, path, body=body or None, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_every_route_without_credentials(road: Road) -> None:
    """P13: 401 in one constant shape on every route and method of docs/spec/openapi.json, and on paths that do not exist, but for a
    written list: what the manager shows of itself, whether it lives, and where a machine asks for its root key."""
    paths = json.loads(OPENAPI.read_text())["paths"]
    assert len(paths) > 35
    _, constant = ask(road.world, "GET", "/v1/nothing")
    opened = set()
    for template, operations in paths.items():
        path = template.replace("{path}", "0/000")
        for name in ("asset", "agreement", "digest"):
            path = path.replace("{" + name + "}", road.scans.digest)
        for name in ("run", "blob", "enrolment", "handover"):
            path = path.replace("{" + name + "}", "0" * 32)
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
            status, body = ask(road.world, method, path, b"{}" if method in ("POST", "PUT") else b"")
            if operations.get(method.lower(), {}).get("security") == []:
                opened.add(template)
                assert status in (200, 400)
            else:
                assert status == 401, (method, path)
                assert body in (constant, b""), (method, path)
    shows = "/.well-known/perunml/attestation"
    assert opened == {shows, shows + "/activate", "/healthz", "/v1/handovers"}


def test_strangers_cannot_tell_what_exists(road: Road) -> None:
    """C16: one answer for what exists and what does not, to a key that is admitted but not entitled."""
    stranger = road.world.party()
    run = road.submit().run
    pairs = [
        (f"/v1/runs/{run}", f"/v1/runs/{'0' * 32}", RunView),
        (f"/v1/agreements/{road.agreement.digest}", f"/v1/agreements/sha256:{'0' * 64}", AgreementView),
        (f"/v1/assets/{road.scans.digest}", f"/v1/assets/sha256:{'0' * 64}", AssetView),
    ]
    for there, missing, kind in pairs:
        answers = []
        for path in (there, missing):
            headers = sign_request("GET", road.world.url + path, b"", stranger._signer, int(time.time()))
            answers.append(ask(road.world, "GET", path, headers=headers))
        assert answers[0] == answers[1]
        assert answers[0][0] == 403
        assert code_of(lambda path=there, kind=kind: stranger.call("GET", path, kind)) == "not_entitled"


def test_request_is_good_once_and_here_only(road: Road) -> None:
    """A signed request replayed, addressed to another manager, with another body, too old, or by an unknown key."""
    world, key = road.world, road.keys["startup"]
    path, now = "/v1/runs", int(time.time())

    def status(headers: dict[str, str], body: bytes = b"") -> int:
        found: int = ask(world, "GET", path, body, headers)[0]
        return found

    good = sign_request("GET", world.url + path, b"", key, now)
    assert status(good) == 200
    assert status(good) == 403
    code = json.loads(ask(world, "GET", path, headers=good)[1])["reasons"][0]["code"]
    assert code == "request_stale"
    assert status(sign_request("GET", world.url + path, b"", key, now - 3600)) == 403
    elsewhere = sign_request("GET", "https://elsewhere:1" + path, b"", key, now)
    assert status(elsewhere) == 401
    assert status({**elsewhere, "host": "elsewhere:1"}) == 401
    assert status(sign_request("GET", world.url + path, b"{}", key, now)) == 401
    assert status(sign_request("GET", world.url + path, b"", SigningKey.generate(), now)) == 401


def test_replay_after_restart(own_world: World) -> None:
    """Nonces of signed requests outlive the manager."""
    key = SigningKey.generate()
    own_world.party(key).call("GET", "/v1/runs", RunList)
    headers = sign_request("GET", own_world.url + "/v1/runs", b"", key, int(time.time()))
    assert ask(own_world, "GET", "/v1/runs", headers=headers)[0] == 200
    own_world.restart()
    assert ask(own_world, "GET", "/v1/runs", headers=headers)[0] == 403


def test_large_body_is_refused_early(road: Road) -> None:
    """D1: 100 MB announced is refused before it is sent, and so is a body of unknown length."""
    headers = sign_request("POST", road.world.url + "/v1/runs", b"", road.keys["startup"], int(time.time()))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /v1/runs HTTP/1.1\r\nhost: 127.0.0.1:{road.world.port}\r\n{lines}"
    for length, status in ((b"content-length: 104857600", b" 413 "), (b"transfer-encoding: chunked", b" 400 ")):
        raw = socket.create_connection(("127.0.0.1", road.world.port), timeout=20)
        with raw, pinned_context(road.world.pin).wrap_socket(raw) as tls:
            tls.sendall(head.encode() + length + b"\r\n\r\n")
            assert status in tls.recv(4096).split(b"\r\n")[0]


def test_deep_json_is_refused(road: Road) -> None:
    """D2: nesting of 10^5 levels."""
    body = b'{"request":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    party = road.party["startup"]
    assert code_of(lambda: party.raw("POST", "/v1/runs", body)) == "malformed"


def test_compressed_body_is_refused(road: Road) -> None:
    """D3: no content encoding is read, so there is no bomb."""
    url = road.world.url + "/v1/runs"
    headers = sign_request("POST", url, b"x", road.keys["startup"], int(time.time()))
    status, body = ask(road.world, "POST", "/v1/runs", b"x", {**headers, "content-encoding": "gzip"})
    assert status == 415
    assert json.loads(body)["reasons"][0]["code"] == "encoding_refused"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/runs/..%2f..%2fetc",
        "/v1/runs/%00",
        "/v1/assets/%2e%2e/blobs/%2e%2e",
        "/v1/runs/․․",
        "/v1/ledger/tile/../../x",
    ],
)
def test_names_that_are_paths(road: Road, path: str) -> None:
    """C13: nothing that looks like a path gets anywhere near a file; each is what does not exist."""
    from urllib.parse import quote

    safe = quote(path, safe="/%")
    headers = sign_request("GET", road.world.url + safe, b"", road.keys["startup"], int(time.time()))
    status, _ = ask(road.world, "GET", safe + ("?offset=0&length=1" if "blobs" in path else ""), headers=headers)
    assert status in (401, 403, 422)


def test_log_lines_cannot_be_forged(road: Road, caplog: pytest.LogCaptureFixture) -> None:
    """D10: line ends and terminal escapes of a path are shown, not written."""
    with caplog.at_level(logging.INFO, "perunml.manager"):
        ask(road.world, "GET", "/v1/runs/%0d%0aforged%1b[31m")
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "forged" in text
    assert "\x1b" not in text
    assert "\nforged" not in text


def test_only_tls_1_3(road: Road) -> None:
    """C6: an older TLS gets no handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", road.world.port), timeout=20) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw)


def test_certificate_of_a_stranger(road: Road) -> None:
    """A client certificate of another CA gets no handshake, and none at all gets 401."""
    from perunml.manager.certificates import Issuer
    from perunml.manager.keys import Keys

    key = SigningKey.generate()
    forged = Issuer(Keys(bytes(32)).host_ca()).machine(road.trainer.machine, key.public.text, int(time.time()), 3600)
    assert code_of(road.world.link(forged, key).work) == "unreachable"
    assert code_of(road.world.anonymous().work) == "request_unsigned"


def test_slow_client_holds_up_nobody(road: Road) -> None:
    """D6: a client that never ends its head costs the others nothing."""
    slow = []
    for _ in range(50):
        raw = socket.create_connection(("127.0.0.1", road.world.port), timeout=20)
        tls = pinned_context(road.world.pin).wrap_socket(raw)
        tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ")
        slow.append(tls)
    assert ask(road.world, "GET", "/healthz")[0] == 200
    for tls in slow:
        tls.close()


def test_home_of_the_manager_is_private(road: Road) -> None:
    """What is secret on disk is its owner's alone, and the passphrase opens it or nothing does."""
    from perunml.manager import setup

    folder: Path = road.world.folder
    assert (folder / "root.json").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert code_of(lambda: setup.unlock(folder, b"another")) == "unseal_failed"
