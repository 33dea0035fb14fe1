"""What confidentiality costs an Open Inference Protocol client: the same engine and handler behind the same server, plainly and sealed.

Server and client are processes of their own, over loopback HTTP. Small: one row of 30 numbers in JSON. Large: 1 MiB of FP32 in binary, through a model that adds it up. They take turns; medians of each round's own
difference and ratio. Sealing alone is what a TEE's inference costs more by it, whatever else it costs. The sealed side signs, seals (X25519 + ML-KEM-768), checks the certificate, and verifies a receipt for each answer; state cost: nothing but that is added, the TEE itself is not measured.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import torch

from perunml.api.pin import Pin
from perunml.client.tunnel import Service, Tunnel
from perunml.serving.engines import TorchExport
from perunml.serving.inner import Inner, Reply
from perunml.serving.oip import LENGTH, OpenInference
from perunml.testing.service import AGREEMENT, RUN, Client, World, pin_of
from perunml.wire.identity import SigningKey
from perunml.wire.timestamps import format_time

ROUNDS = 7
ASKED = 40
CLIENTS = 4
SECONDS = 1.0
WIDTH = 262_144
INFER = "/v2/models/serve/infer"


def _model(width: int) -> bytes:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": x.mean(1)}

    program = torch.export.export(
        Mean().eval(), (torch.zeros(2, width),), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    )
    out = io.BytesIO()
    torch.export.save(program, out)
    return out.getvalue()


def _serve(width: int, ready: Any) -> None:
    """A process: the sealed gateway, and the same handler plainly."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from perunml.serving.gateway import listen

    engine = TorchExport(_model(width), threads=1)
    world = World(engine, granted=10**9)
    handler = OpenInference(engine, "serve")
    computing = threading.Lock()

    def answer(inner: Inner) -> bytes:
        with computing:
            return b"".join(handler(inner).parts)

    async def plain(request: Request) -> Response:
        inner = Inner("POST", request.url.path, dict(request.headers), await request.body())
        return Response(await run_in_threadpool(answer, inner))

    sock, endpoint = listen("127.0.0.1:0")
    config = uvicorn.Config(Starlette(routes=[Route(INFER, plain, methods=["POST"])]), log_config=None, access_log=False, lifespan="off", ws="none", http="h11", loop="asyncio")  # fmt: skip
    threading.Thread(target=uvicorn.Server(config).run, kwargs={"sockets": [sock]}, daemon=True).start()
    with world.gateway(world.service(not_after=format_time(int(time.time()) + 3600))):
        # the clinic's key and a pin of the manager: what a client has
        ready.put((endpoint, world.endpoint, world.clinic.signing.secret(), pin_of(world.manager).to_file()))
        while True:
            time.sleep(20)
            world.ends = world.clock() + 600


class _Work:
    def __init__(self, width: int, binary: bool) -> None:
        context = multiprocessing.get_context("spawn")
        ready = context.Queue()
        self._process = context.Process(target=_serve, args=(width, ready), daemon=True)
        self._process.start()
        self._plain, sealed, secret, pin = ready.get(timeout=120)
        values = np.random.default_rng(1).random((1, width), np.float32)
        tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, width]}
        self._headers: dict[str, str] = {}
        if binary:
            data = values.tobytes()
            head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}]}).encode()
            self._headers, self._body = {LENGTH: str(len(head))}, head + data
        else:
            self._body = json.dumps({"inputs": [{**tensor, "data": values.tolist()}]}).encode()
        self._http = httpx.Client(base_url=self._plain, trust_env=False)
        self._tunnel = Tunnel(
            Client("clinic", SigningKey.from_secret(secret)), Pin.from_file(pin), Service(sealed, AGREEMENT, RUN)
        )
        if json.loads(self.plain()) != json.loads(self.sealed()):
            raise RuntimeError("plain and sealed answers are not the same")

    def plain(self) -> bytes:
        return self._http.post(INFER, content=self._body, headers=self._headers).content

    def sealed(self) -> bytes:
        return self._tunnel.ask("POST", INFER, self._headers, self._body).read()

    def close(self) -> None:
        self._http.close()
        self._tunnel.close()
        self._process.kill()
        self._process.join()


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """``{title, results}`` as bench/README.md says."""
    found: dict[str, list[float]] = {}
    small, large = _Work(30, binary=False), _Work(WIDTH, binary=True)
    try:
        for number in range(rounds + 1):
            for name, work in (("small", small), ("large", large)):
                for way in ("plain", "sealed"):
                    latency, rate = _latency(getattr(work, way)), _rate(getattr(work, way))
                    if number:  # the first round warms up
                        found.setdefault(f"{name} {way} p50", []).append(latency)
                        found.setdefault(f"{name} {way} rate", []).append(rate)
    finally:
        small.close()
        large.close()

    def middle(name: str) -> float:
        return statistics.median(found[name])

    def between(what: str, compare: Callable[[float, float], float]) -> float:
        name, _, kind = what.partition(" ")
        pairs = zip(found[f"{name} sealed {kind}"], found[f"{name} plain {kind}"], strict=True)
        return statistics.median(compare(sealed, plain) for sealed, plain in pairs)

    return {
        "title": f"Open Inference Protocol requests, plainly and sealed, same engine, handler and server; {CLIENTS} clients' threads for rates.",
        "results": [
            {"name": "one row, plain, p50", "value": middle("small plain p50"), "unit": "ms", "higher_is_better": False},
            {"name": "one row, sealed, p50", "value": middle("small sealed p50"), "unit": "ms", "higher_is_better": False},
            {"name": "one row, added, p50", "value": between("small p50", lambda a, b: a - b), "unit": "ms", "higher_is_better": False, "target": 1.0},
            {"name": "1 MiB, plain", "value": middle("large plain rate"), "unit": "1/s", "higher_is_better": True},
            {"name": "1 MiB, sealed", "value": middle("large sealed rate"), "unit": "1/s", "higher_is_better": True},
            {"name": "1 MiB, sealed against plain, rate", "value": between("large rate", lambda a, b: a / b), "unit": "x", "higher_is_better": True, "target": 0.9},
            {"name": "1 MiB, added, p50", "value": between("large p50", lambda a, b: a - b), "unit": "ms", "higher_is_better": False},
            *({"name": f"sealing alone, {name}", "value": _alone(size, rounds), "unit": "ms", "higher_is_better": False} for name, size in ALONE.items()),
        ],
    }  # fmt: skip


ALONE = {"600 bytes": 600, "1 MiB": 1 << 20}
"""Requests whose sealing is measured by itself."""


class _Direct(httpx.BaseTransport):
    """The service without a network."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, stream=httpx.ByteStream(self._service.view().encode()))
        first, rest = self._service.open(request.read())
        return httpx.Response(200, stream=httpx.ByteStream(first + b"".join(rest or ())))


def _alone(size: int, rounds: int) -> float:
    """Milliseconds that both sides' signing, sealing, checking, opening and the receipt take of one request, with no network, no server and no model."""
    engine: Any = None
    world = World(
        engine, handler=lambda asked: Reply(200, {"content-type": "application/json"}, [b"{}"]), granted=10**9
    )
    service = world.service(not_after=format_time(int(time.time()) + 3600))
    body = bytes(size)
    with Tunnel(world.clinic, pin_of(world.manager), Service("http://direct", AGREEMENT, RUN), transport=_Direct(service)) as tunnel:  # fmt: skip
        return statistics.median(_latency(lambda: tunnel.ask("POST", INFER, {}, body).read()) for _ in range(rounds))


def _latency(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(ASKED):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


def _rate(work: Callable[[], object]) -> float:
    until, counts = time.monotonic() + SECONDS, [0] * CLIENTS

    def client(number: int) -> None:
        while time.monotonic() < until:
            work()
            counts[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - began)
