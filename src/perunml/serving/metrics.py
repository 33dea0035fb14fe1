"""A service's numbers for Prometheus (text format 0.0.4), at an address of the operator's own; of each request what `watch` allows, of the service its lease and its engine's starts."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from perunml.serving.watch import Seen, told

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds of the histogram's borders."""
CONTENT = "text/plain; version=0.0.4; charset=utf-8"
_Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counts from the service's begin; `lease` tells the seconds that are left of it. Called from several threads."""

    def __init__(self, lease: Callable[[], float]) -> None:
        self._lease, self._guard = lease, threading.Lock()
        self._requests: Counter[_Labels] = Counter()
        self._below: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._in_flight = self._starts = 0

    def seen(self, seen: Seen) -> None:
        """Count one request that is over."""
        attributes = told(seen)
        kind = str(attributes.get("perunml.kind", "other"))
        labels = (
            ("kind", kind),
            ("status", str(attributes.get("http.response.status_code", 0))),
            ("code", str(attributes.get("perunml.code", ""))),
        )
        with self._guard:
            self._requests[labels] += 1
            below = self._below.setdefault(kind, [0] * (len(BUCKETS) + 1))
            for place, border in enumerate((*BUCKETS, float("inf"))):
                below[place] += seen.seconds <= border
            self._seconds[kind] += seen.seconds  # type: ignore[assignment]  # a counter of seconds is one of floats
            self._bytes["received"] += seen.received
            self._bytes["sent"] += seen.sent

    def begun(self, change: int) -> None:
        """A request began (1) or is over (-1)."""
        with self._guard:
            self._in_flight += change

    def started(self) -> None:
        """The engine's process was started."""
        with self._guard:
            self._starts += 1

    def text(self) -> str:
        """All of it, as Prometheus reads it."""
        with self._guard:
            lines = [
                *_family("requests_total", "counter", "requests that are over, and the code of a refusal in plain"),
                *(_line("requests_total", count, labels) for labels, count in sorted(self._requests.items())),
                *_family("request_seconds", "histogram", "seconds from a request's head to its answer's last byte"),
                *(line for kind in sorted(self._below) for line in self._histogram(kind)),
                *_family("bytes_total", "counter", "bytes of bodies"),
                *(_line("bytes_total", self._bytes[way], (("way", way),)) for way in ("received", "sent")),
                *_family("in_flight", "gauge", "requests that are not over"),
                _line("in_flight", self._in_flight),
                *_family("engine_starts_total", "counter", "starts of the engine's process"),
                _line("engine_starts_total", self._starts),
                *_family("lease_seconds", "gauge", "seconds until the lease ends unless it is renewed"),
                _line("lease_seconds", round(max(0.0, self._lease()), 3)),
            ]
        return "\n".join(lines) + "\n"

    def _histogram(self, kind: str) -> list[str]:
        below = self._below[kind]
        borders = [*map(str, BUCKETS), "+Inf"]
        rows = [
            _line("request_seconds_bucket", count, (("kind", kind), ("le", border)))
            for border, count in zip(borders, below, strict=True)
        ]
        total = round(float(self._seconds[kind]), 6)
        return [
            *rows,
            _line("request_seconds_sum", total, (("kind", kind),)),
            _line("request_seconds_count", below[-1], (("kind", kind),)),
        ]


def _family(name: str, kind: str, help_: str) -> tuple[str, str]:
    return f"# HELP perunml_service_{name} {help_}", f"# TYPE perunml_service_{name} {kind}"


def _line(name: str, value: float, labels: _Labels = ()) -> str:
    said = ",".join(f'{label}="{text}"' for label, text in labels)
    return f"perunml_service_{name}{{{said}}} {value}" if said else f"perunml_service_{name} {value}"


class MetricsServer:
    """Answers ``GET /metrics`` on a bound socket, one after the other, until `stop`."""

    def __init__(self, metrics: Metrics, sock: socket.socket) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                found = self.path == "/metrics"
                body = metrics.text().encode() if found else b""
                self.send_response(200 if found else 404)
                self.send_header("content-type", CONTENT)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Who reads numbers is no news."""

        self._server = HTTPServer(sock.getsockname()[:2], Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = sock
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="perunml-metrics", daemon=True
        )

    def start(self) -> MetricsServer:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
