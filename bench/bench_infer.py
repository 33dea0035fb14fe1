"""What confidentiality costs an inference: the engine alone, the service around it, the whole way over loopback HTTP."""

from __future__ import annotations

import io
import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from perunml.client.infer import infer
from perunml.serving.engines import TorchExport
from perunml.testing.service import World, pin_of
from perunml.wire.answers import open_answer

ROUNDS = 300
CLIENTS = 8
SECONDS = 4.0
INPUTS = {"features": [[0.01 * column for column in range(30)]]}


def model() -> bytes:
    """An exported network of the story's size: 30 inputs, 32 hidden, 2 classes."""
    layers = torch.nn.Sequential(torch.nn.Linear(30, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2), torch.nn.Softmax(1))

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"probabilities": self.layers(features)}

    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(Named().eval(), (torch.zeros(2, 30),), dynamic_shapes={"features": {0: batch}})
    out = io.BytesIO()
    torch.export.save(program, out)
    return out.getvalue()


def median(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Milliseconds, after a warm-up."""
    for _ in range(rounds // 10):
        work()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


def run() -> dict[str, Any]:
    """Medians in milliseconds, and requests per second of several clients."""
    engine = TorchExport(model(), threads=1)
    world = World(engine)
    pin, expected = pin_of(world.manager), engine.predict(INPUTS)
    service = world.service()
    certificate = service.view().certificate

    def answered() -> None:
        request = world.request(certificate, INPUTS, id=os.urandom(16).hex())
        answer = service.answer(world.call(request.encode()))
        assert open_answer(answer.nonce, answer.chunks, bytes(range(32)), request.digest)

    def asked() -> None:
        outputs, _ = infer(world.clinic, pin, world.run(), INPUTS)
        assert outputs == expected

    direct = median(lambda: engine.predict(INPUTS))
    protocol = median(answered)
    with world.gateway():
        whole = median(asked)
        rate = throughput(asked)
    return {
        "title": "One row through a network of 30-32-2: called directly; sealed, checked, answered with a receipt in one "
        "process (client's part included); over loopback HTTP with the service's certificate fetched and checked each time.",
        "results": [
            {"name": "engine alone, p50", "value": round(direct, 3), "unit": "ms", "higher_is_better": False},
            {"name": "with the protocol, p50", "value": round(protocol, 3), "unit": "ms", "higher_is_better": False},
            {"name": "over HTTP, p50", "value": round(whole, 3), "unit": "ms", "higher_is_better": False},
            {
                "name": "overhead over HTTP, p50",
                "value": round(whole - direct, 3),
                "unit": "ms",
                "higher_is_better": False,
            },
            {
                "name": f"{CLIENTS} clients in one process",
                "value": round(rate, 1),
                "unit": "1/s",
                "higher_is_better": True,
            },
        ],
    }


def throughput(work: Callable[[], object]) -> float:
    """Requests per second of `CLIENTS` threads; clients and service share this process and its interpreter lock."""
    until = time.monotonic() + SECONDS
    counts = [0] * CLIENTS

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
