"""What an operator is told of a service's requests: what passed, and nothing of what it was."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from perunml.serving.gateway import Gateway, Watch, listen
from perunml.serving.metrics import BUCKETS, Metrics, MetricsServer
from perunml.serving.traces import NAME, Traces
from perunml.serving.watch import ATTRIBUTES, Seen, allowed, told
from perunml.testing.service import World, load
from perunml.testing.story.data import patient
from perunml.wire.errors import PerunError
from serving.between import ask

pytestmark = pytest.mark.torch
SECRETS = (
    "clinic",
    "stranger",
    "features",
    "probabilities",
    "client_not_in_agreement",
    "inputs_refused",
    "serve/infer",
)
"""What a sealed request and its answer are about, refusals among it."""


def test_what_is_not_on_the_list_is_dropped() -> None:
    """By name, and by value: an attribute cannot carry a text of somebody's choice."""
    assert allowed(
        {
            "perunml.kind": "request", "perunml.party": "clinic", "url.full": "/v1/sealed?secret", "exception.message": "x", "http.response.status_code": 200,
            "user.id": "ann", "http.request.body.size": 10,
        }
    ) == {"perunml.kind": "request", "http.response.status_code": 200, "http.request.body.size": 10}  # fmt: skip
    assert allowed(dict.fromkeys(ATTRIBUTES, "some text")) == {}
    assert (
        allowed(
            {"perunml.code": "client_not_in_agreement", "perunml.kind": "clinic", "http.response.status_code": True}
        )
        == {}
    )
    assert allowed({"http.request.body.size": -1, "http.response.body.size": "5"}) == {}
    assert set(told(Seen("request", 422, "unseal_failed", 1, 2, 0.1, 9.0))) == set(ATTRIBUTES)


@dataclass
class Watched:
    """A service that is watched: its numbers' address, and what was seen."""

    world: World
    url: str
    seen: list[Seen]
    text: Any


@pytest.fixture
def watched(model: Path) -> Iterator[Watched]:
    made = World(load(model))
    seen: list[Seen] = []
    metrics = Metrics(lambda: 12.3456)
    sock, made.endpoint = listen("127.0.0.1:0")
    numbers, url = listen("127.0.0.1:0")
    gateway = Gateway(made.service(), sock, watch=Watch((metrics.seen, seen.append), metrics.begun)).start()
    server = MetricsServer(metrics, numbers).start()
    try:
        yield Watched(made, url, seen, lambda: httpx.get(f"{url}/metrics").text)
    finally:
        server.stop()
        gateway.stop()


def _talk(world: World) -> None:
    """Requests of every outcome: answered, refused sealed, refused in plain, no route."""
    from perunml.testing.service import Client

    ask(world)
    for changes in ({"inputs": {"features": [[1.0]]}}, {"identity": Client("stranger")}):
        with pytest.raises(PerunError):
            ask(world, **changes)
    assert httpx.post(f"{world.endpoint}/v1/sealed", content=b"junk").status_code == 422
    assert httpx.get(f"{world.endpoint}/clinic/secret").status_code == 404


def test_the_numbers_are_what_passed(watched: Watched) -> None:
    """Counts by route, status and plain code; sizes; a histogram that adds up; nothing in flight in the end."""
    _talk(watched.world)
    text = watched.text()
    sealed = [each for each in watched.seen if each.kind == "request"]
    answered = sum(each.status == 200 for each in sealed)
    assert answered >= 4  # metadata and inference, a refusal each: all look alike
    assert f'perunml_service_requests_total{{kind="request",status="200",code=""}} {answered}' in text
    assert 'perunml_service_requests_total{kind="request",status="422",code="unseal_failed"} 1' in text
    assert 'perunml_service_requests_total{kind="other",status="404",code=""} 1' in text
    assert f'perunml_service_bytes_total{{way="received"}} {sum(each.received for each in watched.seen)}' in text
    assert f'perunml_service_request_seconds_count{{kind="request"}} {len(sealed)}' in text
    assert f'perunml_service_request_seconds_bucket{{kind="request",le="+Inf"}} {len(sealed)}' in text
    assert "perunml_service_in_flight 0" in text
    assert "perunml_service_lease_seconds 12.346" in text
    below = [int(n) for n in re.findall(r'seconds_bucket\{kind="request",le="[^"]+"\} (\d+)', text)]
    assert len(below) == len(BUCKETS) + 1
    assert below == sorted(below)


def test_nothing_of_a_request_is_in_the_numbers(watched: Watched) -> None:
    """Neither who asked, nor what, nor that it was refused under seal, nor a path of somebody's choice."""
    _talk(watched.world)
    text = watched.text() + repr(watched.seen)
    assert "kind" in text
    assert not [word for word in SECRETS if word in text]
    numbers = [repr(number) for number in patient()["features"][0] if len(repr(number)) > 4]
    assert not [number for number in numbers if number in text]


def test_the_numbers_are_read_by_prometheus_own_rules(watched: Watched) -> None:
    """Each line is a comment or a sample (text format 0.0.4), each family has its type before its samples."""
    _talk(watched.world)
    known: set[str] = set()
    for line in watched.text().splitlines():
        if line.startswith("# TYPE "):
            known.add(line.split()[2])
        elif not line.startswith("# HELP "):
            found = re.fullmatch(r'([a-z_]+)(?:\{[a-z]+="[^"]*"(?:,[a-z]+="[^"]*")*\})? [0-9.]+', line)
            assert found, line
            assert re.sub("_(bucket|sum|count)$", "", found[1]) in known or found[1] in known
    assert httpx.get(f"{watched.url}/other").status_code == 404


def test_a_stream_that_breaks_off_is_counted_when_it_ends(watched: Watched) -> None:
    """A client that goes away in the middle of its body is over, too."""
    host, port = watched.world.endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"POST /v1/sealed HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
    for _ in range(100):
        if watched.seen:
            break
        threading.Event().wait(0.1)
    assert (watched.seen[0].kind, watched.seen[0].received) == ("request", 3)
    assert "perunml_service_in_flight 0" in watched.text()


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """An OpenTelemetry collector that keeps what it gets."""
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", got
    server.shutdown()
    server.server_close()
    thread.join()


def test_spans_reach_a_collector_with_nothing_but_what_is_allowed(
    model: Path, collector: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the wire (OTLP), with the environment trying to add something of its own."""
    pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry is not installed; `make setup` installs it")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=secret-host")
    url, got = collector
    traces = Traces(url)
    world = World(load(model))
    sock, world.endpoint = listen("127.0.0.1:0")
    gateway = Gateway(world.service(), sock, watch=Watch((traces.seen,), lambda change: None)).start()
    _talk(world)
    gateway.stop()
    traces.stop()
    sent = b"".join(got)
    assert NAME.encode() in sent
    assert b"http.request.body.size" in sent
    assert b"unseal_failed" in sent
    assert not [word for word in (*SECRETS, "secret-host", "/clinic/secret") if word.encode() in sent]


def test_spans_have_the_time_of_their_request() -> None:
    """From the request's head to its end; the attributes of `told`, and no more."""
    memory: Any = pytest.importorskip(
        "opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="OpenTelemetry is not installed"
    )
    exporter = memory.InMemorySpanExporter()
    traces = Traces(exporter=exporter)
    seen = Seen("request", 200, "", 10, 20, 0.5, 1000.0)
    traces.seen(seen)
    traces.stop()
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.start_time, span.end_time) == (NAME, 999_500_000_000, 1_000_000_000_000)
    assert dict(span.attributes) == told(seen)
    assert json.loads(span.to_json())["resource"]["attributes"] == {"service.name": "perunml-service"}
