"""A client, a gateway, and whoever stands between: the whole way over real sockets."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from perunml.api.inference import ReceiptFile
from perunml.client.receipts import verify_receipt
from perunml.serving.gateway import MAX_SEALED, Gateway, listen
from perunml.serving.tensors import Tensor
from perunml.testing.service import AGREEMENT, MODEL, World, load, pin_of, predict
from perunml.testing.story.data import patient
from perunml.wire.encoding import unb64
from perunml.wire.errors import PerunError, SuspendedError, Unreachable
from serving.between import Between, Wrapped, ask, predicted

pytestmark = pytest.mark.torch


def test_a_client_gets_predictions_and_a_receipt(world: World) -> None:
    """The answer is the engine's own, and the receipt verifies offline with nothing but the pin."""
    found = predicted(world, agreement=AGREEMENT, model=MODEL)
    assert found.outputs == predict(world.engine, patient())
    told = verify_receipt(ReceiptFile.decode(found.receipt.encode()), pin_of(world.manager), answer=found.answer)
    assert told["model"] == MODEL
    assert told["party"] == "clinic"
    assert told["simulated"] is True
    assert told["imitates"] == "tee"


def test_a_relay_sees_only_ciphertext(world: World) -> None:
    """Whoever carries every byte finds neither inputs nor outputs, nor who asked, in any spelling it tries."""
    seen = bytearray()
    front = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(65536):
            seen.extend(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    def relay() -> None:
        near, _ = front.accept()
        host, port = world.endpoint.removeprefix("http://").split(":")
        with near, socket.create_connection((host, int(port))) as far:
            back = threading.Thread(target=pump, args=(far, near))
            back.start()
            pump(near, far)
            back.join()

    thread = threading.Thread(target=relay)
    thread.start()
    outputs, file = ask(world, endpoint=f"http://127.0.0.1:{front.getsockname()[1]}")
    thread.join(10)
    front.close()
    for token in re.findall(rb"[A-Za-z0-9_-]{16,}", bytes(seen)):
        with contextlib.suppress(PerunError):
            seen.extend(unb64(token.decode()))
    assert len(seen) > 3000
    assert b"ServiceCertificate" in seen  # what is public does show: the search below could find something
    numbers = [*patient()["features"][0], *outputs["probabilities"][0]]
    secrets = [repr(number) for number in numbers if len(repr(number)) > 4]
    secrets += ["clinic", "probabilities", "features", file.request_digest, file.response_digest]
    assert len(secrets) > 20
    for secret in secrets:
        assert secret.encode() not in seen


def test_a_refusal_after_opening_is_sealed_too(world: World) -> None:
    """What is wrong with the inputs is told to the client alone: the relay cannot tell a refusal from an answer."""
    bodies: list[bytes] = []

    def watch(path: str, body: bytes) -> bytes:
        bodies.append(body)
        return body

    with pytest.raises(PerunError) as refused:
        ask(world, inputs={"features": [[1.0]]}, transport=Between(watch))
    assert refused.value.code == "inputs_refused"
    assert b"refus" not in bodies[-1]
    assert b"inputs" not in bodies[-1]


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"null", b'{"sealed": 1}', b'{"sealed":"AA","more":1}', b"\x00" * 100, b"[" * 100_000]
)
def test_junk_http_bodies_are_refused(world: World, body: bytes) -> None:
    """D2: no junk makes anything but a coded refusal."""
    answer = httpx.post(f"{world.endpoint}/v1/sealed", content=body)
    assert answer.status_code == 422
    assert answer.json()["reasons"][0]["code"] == "unseal_failed"


def test_a_body_too_large_is_refused_early(world: World) -> None:
    """D1: 413 at the announcement of 100 MB, and at the limit of a stream that announced nothing."""
    host, port = world.endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.settimeout(10)
        sock.sendall(b"POST /v1/sealed HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 413")

    def stream() -> Iterator[bytes]:
        for _ in range(MAX_SEALED // 2**20 + 1):
            yield bytes(2**20)

    try:
        answer = httpx.post(f"{world.endpoint}/v1/sealed", content=stream())
    except httpx.WriteError:  # the refusal came, and the connection closed, while the body was still being sent
        return
    assert answer.status_code == 413
    assert answer.json()["reasons"][0]["code"] == "request_too_large"


def test_a_compressed_body_is_refused(world: World) -> None:
    """D3: nothing is decompressed, and a body that says it is compressed is not looked at."""
    body = b"x"
    assert httpx.post(f"{world.endpoint}/v1/sealed", content=body).status_code == 422
    answer = httpx.post(f"{world.endpoint}/v1/sealed", content=body, headers={"content-encoding": "gzip"})
    assert answer.status_code == 400


def test_other_paths_and_methods_are_not_there(world: World) -> None:
    """Two routes, nothing else."""
    assert httpx.get(f"{world.endpoint}/").status_code == 404
    assert httpx.get(f"{world.endpoint}/v1/sealed").status_code == 405


def test_a_slow_client_does_not_hold_up_others(world: World) -> None:
    """D6: twenty connections that send half a request, and the next is answered."""
    host, port = world.endpoint.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(20)]
    try:
        for sock in slow:
            sock.sendall(b"POST /v1/sealed HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert "probabilities" in ask(world)[0]
    finally:
        for sock in slow:
            sock.close()


def test_the_quota_is_the_manager_s(model: Path) -> None:
    """Three requests where the manager grants three; the fourth is refused with the time to wait."""
    world = World(load(model), granted=3)
    with world.gateway():
        for _ in range(3):
            ask(world)
        with pytest.raises(PerunError) as refused:
            ask(world)
    assert refused.value.code == "quota_exhausted"
    assert "60 s" in refused.value.reasons[0].seen


def test_after_the_lease_s_end_nobody_is_answered(model: Path) -> None:
    """C14: the same service, a moment past its deadline, refuses certificate and answer alike."""
    world = World(load(model))
    with world.gateway():
        ask(world)
        world.ends = world.clock()
        with pytest.raises(SuspendedError) as refused:
            ask(world)
        assert refused.value.code == "service_over"


def test_too_many_at_once_are_told_to_come_again(model: Path) -> None:
    """D6: with its places taken by requests that compute, the service answers the next at once, with a refusal."""
    world = World(load(model))
    entered, go_on = threading.Event(), threading.Event()

    def block(outputs: list[Tensor]) -> list[Tensor]:
        entered.set()
        go_on.wait(20)
        return outputs

    world.engine = Wrapped(world.engine, block)
    sock, world.endpoint = listen("127.0.0.1:0")
    gateway = Gateway(world.service(), sock, max_waiting=1).start()
    try:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(ask, world)
            assert entered.wait(20)
            with pytest.raises(PerunError) as refused:
                ask(world)
            go_on.set()
            assert "probabilities" in first.result()[0]
    finally:
        gateway.stop()
    assert refused.value.code == "service_busy"


def test_stopping_closes_the_listener_at_once(model: Path) -> None:
    """A lost lease: the port is closed, and the service holds no keys."""
    world = World(load(model))
    service = world.service()
    with world.gateway(service) as gateway:
        ask(world)
        gateway.stop()
        with pytest.raises(Unreachable):
            ask(world)
    with pytest.raises(SuspendedError):
        service.view()
