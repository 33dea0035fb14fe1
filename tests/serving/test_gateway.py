"""A client, a gateway, and whoever stands between: the whole way over real sockets."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perunml.api.inference import InferenceAnswer, InferenceCall, ReceiptFile
from perunml.client.infer import infer
from perunml.client.receipts import verify_receipt
from perunml.serving.engines import Engine
from perunml.serving.gateway import MAX_BODY, Gateway, listen
from perunml.testing.service import AGREEMENT, MODEL, RUN, Client, World, load, pin_of
from perunml.testing.story.data import patient
from perunml.wire.answers import MAX_ANSWER, open_answer
from perunml.wire.digests import digest
from perunml.wire.encoding import unb64
from perunml.wire.errors import EvidenceRefusal, IntegrityError, PerunError, SuspendedError, Unreachable
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey
from perunml.wire.timestamps import format_time

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def world(model: Path) -> Iterator[World]:
    made = World(load(model))
    with made.gateway():
        yield made


class Between(httpx.HTTPTransport):
    """Something on the way that changes answers: `change(path, body) -> body`."""

    def __init__(self, change: Callable[[str, bytes], bytes]) -> None:
        super().__init__()
        self.change = change

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        body = self.change(request.url.path, answer.read())
        return httpx.Response(answer.status_code, stream=httpx.ByteStream(body))


def ask(world: World, **changes: Any) -> tuple[dict[str, Any], ReceiptFile]:
    identity = changes.pop("identity", world.clinic)
    run = changes.pop("run", None) or world.run()
    inputs = changes.pop("inputs", None) or patient()
    return infer(identity, changes.pop("pin", None) or pin_of(world.manager), run, inputs, **changes)


def test_a_client_gets_predictions_and_a_receipt(world: World) -> None:
    """The answer is the engine's own, and the receipt verifies offline with nothing but the pin."""
    outputs, file = ask(world, agreement=AGREEMENT, model=MODEL)
    assert outputs == world.engine.predict(patient())
    told = verify_receipt(ReceiptFile.decode(file.encode()), pin_of(world.manager), outputs=outputs)
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


# --- another service, another manager, another time ------------------------------------------------------------------


def test_the_wrong_manager_is_refused(world: World) -> None:
    """A certificate by any other key than the pinned manager's is worth nothing."""
    with pytest.raises(IntegrityError) as refused:
        ask(world, pin=pin_of(SigningKey.generate()))
    assert refused.value.code == "bad_signature"


@pytest.mark.parametrize(
    "certificate",
    [{"agreement": digest(b"other")}, {"run": "cd" * 16}, {"model": digest(b"other")}],
    ids=["agreement", "run", "model"],
)
def test_another_service_s_certificate_is_refused(world: World, certificate: dict[str, Any]) -> None:
    """A genuine certificate of another agreement, run or model, put into this one's place, is refused before sending."""

    def swap(path: str, body: bytes) -> bytes:
        assert path != "/v1/infer"
        view = json.loads(body)
        view["certificate"] = world.certificate(**certificate).as_json()
        return json.dumps(view).encode()

    with pytest.raises(EvidenceRefusal) as refused:
        ask(world, model=MODEL, transport=Between(swap))
    assert refused.value.code == "service_not_expected"


def test_a_certificate_with_another_key_is_refused(world: World) -> None:
    """The key that inputs are sealed to cannot be exchanged under the manager's signature (C2)."""

    def swap(path: str, body: bytes) -> bytes:
        assert path != "/v1/infer"
        forged = world.certificate(hpke=HpkePrivateKey.generate().public.text, signer=SigningKey.generate())
        return json.dumps({"certificate": forged.as_json()}).encode()

    with pytest.raises(IntegrityError):
        ask(world, transport=Between(swap))


@pytest.mark.parametrize("at", [-61, 61])
def test_a_certificate_outside_its_time_is_refused(world: World, at: int) -> None:
    """Expired, or from the future: refused before anything is sent."""
    with pytest.raises(SuspendedError) as refused:
        ask(world, clock=lambda: time.time() + at)
    assert refused.value.code == "service_certificate_over"


def test_a_run_of_another_agreement_is_refused(world: World) -> None:
    """The agreement that a client approved is compared with the run's."""
    with pytest.raises(EvidenceRefusal):
        ask(world, agreement=digest(b"approved"))


def test_a_foreign_client_is_refused(world: World) -> None:
    """A party that the agreement does not name, a stranger's key under a known name, and a party without keys."""
    for identity in (Client("stranger"), Client("clinic"), Client("empty")):
        with pytest.raises(PerunError) as refused:
            ask(world, identity=identity)
        assert refused.value.code == "client_not_in_agreement"


def test_a_stranger_hears_it_from_the_service_itself(world: World) -> None:
    """One to whom the manager does not show the run asks the endpoint alone, and is refused there; a client is served."""
    pin = pin_of(world.manager)
    with pytest.raises(PerunError) as refused:
        infer(Client("stranger"), pin, None, patient(), endpoint=world.endpoint)
    assert refused.value.code == "client_not_in_agreement"
    assert infer(world.clinic, pin, None, patient(), endpoint=world.endpoint, agreement=AGREEMENT)[0]
    with pytest.raises(EvidenceRefusal):
        infer(world.clinic, pin, None, patient(), endpoint=world.endpoint, agreement=digest(b"other"))
    with pytest.raises(Unreachable):
        infer(world.clinic, pin, None, patient())


# --- altered on the way ----------------------------------------------------------------------------------------------


@given(st.integers(min_value=0))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bit_flipped_in_a_request_is_refused(world: World, where: int) -> None:
    """C15: a sealed request with one bit flipped does not open, wherever the bit is."""
    service = world.service()
    whole = bytearray(world.call(world.request(service.view().certificate, patient()).encode()).sealed)
    bit = where % (8 * len(whole))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError) as refused:
        service.answer(InferenceCall(sealed=bytes(whole)))
    assert refused.value.code == "unseal_failed"


@given(st.integers(min_value=0), st.integers(0, 7))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_byte_changed_in_an_answer_is_refused(world: World, where: int, bit: int) -> None:
    """Whatever a relay changes in the HTTP body, the client gets no outputs."""

    def flip(path: str, body: bytes) -> bytes:
        if path != "/v1/infer":
            return body
        changed = bytearray(body)
        changed[where % len(body)] ^= 1 << bit
        return bytes(changed)

    with pytest.raises(PerunError) as refused:
        ask(world, transport=Between(flip))
    assert refused.value.code in ("unseal_failed", "malformed")


def _chunks(change: Callable[[list[Any]], list[Any]]) -> Callable[[str, bytes], bytes]:
    def apply(path: str, body: bytes) -> bytes:
        if path != "/v1/infer":
            return body
        answer = json.loads(body)
        assert len(answer["chunks"]) >= 3
        return json.dumps(answer | {"chunks": change(answer["chunks"])}).encode()

    return apply


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda chunks: chunks[:-1], "answer_incomplete"),
        (lambda chunks: [], "answer_incomplete"),
        (lambda chunks: [chunks[1], chunks[0], *chunks[2:]], "unseal_failed"),
        (lambda chunks: chunks[1:], "unseal_failed"),
        (lambda chunks: [*chunks, chunks[-1]], "malformed"),
    ],
    ids=["cut", "empty", "swapped", "beheaded", "continued"],
)
def test_a_long_answer_cannot_be_cut_or_reordered(
    world: World, change: Callable[[list[Any]], list[Any]], code: str
) -> None:
    """An answer of several chunks counts whole and in order only."""
    many = {"features": patient()["features"] * 4096}
    with pytest.raises(PerunError) as refused:
        ask(world, inputs=many, transport=Between(_chunks(change)))
    assert refused.value.code == code


def test_an_answer_to_another_request_is_refused(world: World) -> None:
    """A genuine answer of the same service to the same client, but to an earlier request, does not open."""
    kept: list[bytes] = []

    def keep(path: str, body: bytes) -> bytes:
        if path == "/v1/infer":
            kept.append(body)
            return kept[0]
        return body

    ask(world, transport=Between(keep))
    with pytest.raises(IntegrityError):
        ask(world, transport=Between(keep))


def test_a_replayed_request_is_refused(world: World) -> None:
    """The same sealed bytes a second time: refused, sealed to the secret inside, while a new request still goes."""
    service = world.service()
    request = world.request(service.view().certificate, patient())
    call = world.call(request.encode())
    first, second = (_opened(service.answer(call), request.digest) for _ in range(2))
    assert "outputs" in first
    assert second["refusal"]["reasons"][0]["code"] == "request_replayed"


def test_an_id_is_never_forgotten_while_its_request_would_pass(world: World) -> None:
    """N4, N11 for requests: at every later time, a replay is refused as replayed or as stale."""
    service = world.service()
    certificate = service.view().certificate
    request = world.request(certificate, patient(), id="02" * 16)
    call = world.call(request.encode())
    assert "outputs" in _opened(service.answer(call), request.digest)
    try:
        for later in (1, 59, 61, 119, 121, 149, 151, 300):
            world.skipped = later
            now = int(time.time()) + later
            service.certify(world.certificate(not_before=format_time(now), not_after=format_time(now + 60)))
            again = _opened(service.answer(call), request.digest)["refusal"]["reasons"][0]["code"]
            assert again in ("request_replayed", "request_not_for_this_service", "request_stale")
    finally:
        world.skipped = 0.0


def _opened(answer: InferenceAnswer, request: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(open_answer(answer.nonce, answer.chunks, bytes(range(32)), request))
    return body


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"manager": SigningKey.generate().public.text}, "request_not_for_this_service"),
        ({"agreement": digest(b"x")}, "request_not_for_this_service"),
        ({"run": "ef" * 16}, "request_not_for_this_service"),
        ({"certificate": digest(b"x")}, "request_not_for_this_service"),
        ({"party": "stranger"}, "client_not_in_agreement"),
        ({"signer": SigningKey.generate()}, "client_not_in_agreement"),
        ({"time": "2026-01-01T00:00:00Z"}, "request_stale"),
        ({"time": "2099-01-01T00:00:00Z"}, "request_stale"),
        ({"inputs": {"features": "x"}}, "inputs_refused"),
    ],
    ids=["manager", "agreement", "run", "certificate", "party", "signer", "old", "early", "inputs"],
)
def test_a_request_for_somebody_else_is_refused(world: World, changes: dict[str, Any], code: str) -> None:
    """A well-sealed request that names or is signed by the wrong one gets a sealed refusal."""
    service = world.service()
    request = world.request(service.view().certificate, patient(), **changes)
    answer = _opened(service.answer(world.call(request.encode())), request.digest)
    assert answer["refusal"]["reasons"][0]["code"] == code


def test_a_request_sealed_in_another_context_does_not_open(world: World) -> None:
    """HPKE's info: the same bytes sealed for another agreement, run, manager or purpose."""
    service = world.service()
    plain = world.request(service.view().certificate, patient()).encode()
    for info in ({"agreement": digest(b"x")}, {"run": "ef" * 16}, {"manager": "x"}, {"label": "perunml/release"}):
        with pytest.raises(IntegrityError) as refused:
            service.answer(world.call(plain, **info))
        assert refused.value.code == "unseal_failed"


JUNK = [b"", b"{}", b"[]", b"\xff", b'{"payloadType":"x","payload":"","signatures":[]}', b"[" * 10_000]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_junk_inside_is_refused_without_an_echo(world: World, junk: bytes) -> None:
    """D2: sealed junk is malformed, in one constant sentence."""
    with pytest.raises(PerunError) as refused:
        world.service().answer(world.call(junk))
    assert str(refused.value) == "malformed: what was sealed is not a signed inference request"


# --- the HTTP face ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"null", b'{"sealed": 1}', b'{"sealed":"AA","more":1}', b"\x00" * 100, b"[" * 100_000]
)
def test_junk_http_bodies_are_refused(world: World, body: bytes) -> None:
    """D2: no junk makes anything but a coded refusal."""
    answer = httpx.post(f"{world.endpoint}/v1/infer", content=body)
    assert answer.status_code == 400
    assert answer.json()["reasons"][0]["code"] == "malformed"


def test_a_body_too_large_is_refused_early(world: World) -> None:
    """D1: 413 at the announcement of 100 MB, and at the limit of a stream that announced nothing."""
    host, port = world.endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.settimeout(10)
        sock.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 413")

    def stream() -> Iterator[bytes]:
        for _ in range(MAX_BODY // 2**20 + 1):
            yield bytes(2**20)

    try:
        answer = httpx.post(f"{world.endpoint}/v1/infer", content=stream())
    except httpx.WriteError:  # the refusal came, and the connection closed, while the body was still being sent
        return
    assert answer.status_code == 413
    assert answer.json()["reasons"][0]["code"] == "request_too_large"


def test_a_compressed_body_is_refused(world: World) -> None:
    """D3: nothing is decompressed."""
    answer = httpx.post(f"{world.endpoint}/v1/infer", content=b"x", headers={"content-encoding": "gzip"})
    assert answer.status_code == 400


def test_other_paths_and_methods_are_not_there(world: World) -> None:
    """Two routes, nothing else."""
    assert httpx.get(f"{world.endpoint}/").status_code == 404
    assert httpx.get(f"{world.endpoint}/v1/infer").status_code == 405


def test_a_slow_client_does_not_hold_up_others(world: World) -> None:
    """D6: twenty connections that send half a request, and the next is answered."""
    host, port = world.endpoint.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(20)]
    try:
        for sock in slow:
            sock.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert "probabilities" in ask(world)[0]
    finally:
        for sock in slow:
            sock.close()


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ([1], "malformed"),
        ({"x": 2**53}, "malformed"),
        ({"x": float("nan")}, "malformed"),
        ({"x": "y" * 2**22}, "request_too_large"),
    ],
    ids=["list", "integer", "nan", "large"],
)
def test_inputs_that_cannot_be_sent_are_refused_by_the_client(world: World, inputs: Any, code: str) -> None:
    """What is not JSON, or too large, does not leave the client."""
    with pytest.raises(PerunError) as refused:
        ask(world, inputs=inputs)
    assert refused.value.code == code


# --- quota and lease -------------------------------------------------------------------------------------------------


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


class Wrapped:
    """The real engine, with something that happens while it computes."""

    def __init__(self, inner: Engine, meanwhile: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.describe, self._inner, self._meanwhile = inner.describe, inner, meanwhile

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return self._meanwhile(self._inner.predict(inputs))


def test_an_answer_computed_past_the_lease_does_not_leave(model: Path) -> None:
    """The lease ends while the engine computes: what it computed stays."""
    world = World(load(model))

    def end(outputs: dict[str, Any]) -> dict[str, Any]:
        world.ends = world.clock()
        return outputs

    world.engine = Wrapped(world.engine, end)
    service = world.service()
    with pytest.raises(SuspendedError) as refused:
        service.answer(world.call(world.request(service.view().certificate, patient()).encode()))
    assert refused.value.code == "service_over"


def test_an_answer_computed_past_the_certificate_does_not_leave(model: Path) -> None:
    """The certificate ends while the engine computes, the lease does not: no receipt is made from outside its time."""
    world = World(load(model))

    def pass_time(outputs: dict[str, Any]) -> dict[str, Any]:
        world.skipped = 61
        return outputs

    world.engine = Wrapped(world.engine, pass_time)
    service = world.service()
    request = world.request(service.view().certificate, patient())
    refusal = _opened(service.answer(world.call(request.encode())), request.digest)["refusal"]
    assert refusal["reasons"][0]["code"] == "request_not_for_this_service"


@pytest.mark.parametrize(
    "outputs",
    [{"text": "x" * MAX_ANSWER}, {"number": 2**53}, {"number": float("inf")}],
    ids=["large", "integer", "infinite"],
)
def test_outputs_that_cannot_be_written_are_a_failure_of_the_model(model: Path, outputs: dict[str, Any]) -> None:
    """An answer past its bound, or that JSON cannot carry, is refused under seal."""
    world = World(load(model))
    world.engine = Wrapped(world.engine, lambda found: outputs)
    service = world.service()
    request = world.request(service.view().certificate, patient())
    refusal = _opened(service.answer(world.call(request.encode())), request.digest)["refusal"]
    assert refusal["reasons"][0]["code"] == "inference_failed"


def test_too_many_at_once_are_told_to_come_again(model: Path) -> None:
    """D6: with its places taken by requests that compute, the service answers the next at once, with a refusal."""
    world = World(load(model))
    entered, go_on = threading.Event(), threading.Event()

    def block(outputs: dict[str, Any]) -> dict[str, Any]:
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


def test_a_renewed_certificate_replaces_the_old_one(model: Path) -> None:
    """Requests may name the older one until it is over; then the client, asking anew, is served under the newer."""
    world = World(load(model))
    service = world.service()
    old = service.view().certificate
    now = int(time.time())
    service.certify(world.certificate(not_after=format_time(now + 500)))
    assert service.view().certificate.digest != old.digest
    request = world.request(old, patient())
    assert "outputs" in _opened(service.answer(world.call(request.encode())), request.digest)
    world.skipped = 61
    late = world.request(old, patient(), id="03" * 16, time=format_time(now + 61))
    refusal = _opened(service.answer(world.call(late.encode())), late.digest)["refusal"]
    assert refusal["reasons"][0]["code"] == "request_not_for_this_service"


def test_a_certificate_of_another_session_is_refused_by_the_service(world: World) -> None:
    """A manager's answer that certifies other keys, or something else, is not taken over."""
    for changes in (
        {"hpke": HpkePrivateKey.generate().public.text},
        {"session_key": SigningKey.generate().public.text},
        {"run": "ef" * 16},
        {"model": digest(b"x")},
    ):
        with pytest.raises(IntegrityError) as refused:
            world.service(**changes)
        assert refused.value.code == "delivery_mismatch"
    with pytest.raises(IntegrityError):
        world.service(signer=SigningKey.generate())


# --- receipts --------------------------------------------------------------------------------------------------------


def test_an_altered_receipt_is_refused(world: World) -> None:
    """Each part of a kept receipt, exchanged for another genuine one, is noticed offline."""
    outputs, one = ask(world)
    _, two = ask(world, inputs={"features": [[0.5] * 30]})
    pin = pin_of(world.manager)
    verify_receipt(one, pin, outputs=outputs)
    for changes in (
        {"receipt": two.receipt},
        {"request_digest": two.request_digest},
        {"response_digest": two.response_digest},
        {"certificate": world.certificate(model=digest(b"x"))},
        {"certificate": world.certificate(job="other")},
        {"certificate": world.certificate(signer=SigningKey.generate())},
    ):
        with pytest.raises(IntegrityError):
            verify_receipt(one.model_copy(update=changes), pin)
    with pytest.raises(IntegrityError):
        verify_receipt(one, pin, outputs={"probabilities": [[0.0, 1.0]]})
    with pytest.raises(IntegrityError):
        verify_receipt(one, pin_of(SigningKey.generate()))


def test_a_receipt_from_outside_the_certificate_s_time_is_refused(world: World) -> None:
    """A session key that signs on after its certificate ended makes no receipts."""
    _, file = ask(world)
    now = int(time.time())
    over = world.certificate(not_before=format_time(now - 100), not_after=format_time(now - 50))
    body = json.loads(file.receipt.payload) | {"certificate": over.digest}
    from perunml.api.service import InferenceReceipt

    late = InferenceReceipt(**{k: v for k, v in body.items() if k not in ("apiVersion", "kind")}).envelope(world.signer)
    with pytest.raises(IntegrityError) as refused:
        verify_receipt(file.model_copy(update={"certificate": over, "receipt": late}), pin_of(world.manager))
    assert refused.value.code == "receipt_mismatch"
    assert RUN in file.receipt.payload.decode()
