"""What a client accepts: of certificates, of answers, of endpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perunml.client.infer import infer
from perunml.testing.service import AGREEMENT, MODEL, Client, World, pin_of
from perunml.testing.story.data import patient
from perunml.wire.digests import digest
from perunml.wire.errors import EvidenceRefusal, IntegrityError, PerunError, SuspendedError, Unreachable
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey
from serving.between import Between, ask

pytestmark = pytest.mark.torch


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
    paths: list[str] = []

    def watch(path: str, body: bytes) -> bytes:
        paths.append(path)
        return body

    with pytest.raises(PerunError) as refused:
        ask(world, inputs=inputs, transport=Between(watch))
    assert refused.value.code == code
    assert "/v1/infer" not in paths


class Endless(httpx.BaseTransport):
    """An endpoint whose answers do not end."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        class Stream(httpx.SyncByteStream):
            def __iter__(self) -> Iterator[bytes]:
                for _ in range(64):
                    yield bytes(2**20)
                raise AssertionError("the client reads on")

        return httpx.Response(200, stream=Stream())


def test_an_endless_answer_is_not_read_to_its_end(world: World) -> None:
    """A hostile endpoint cannot fill a client's memory."""
    with pytest.raises(Unreachable) as refused:
        ask(world, transport=Endless())
    assert "too large" in str(refused.value)


@pytest.mark.parametrize("endpoint", ["ftp://127.0.0.1:1", "127.0.0.1:1", "http://", "file:///etc/passwd"])
def test_an_endpoint_that_is_none_is_refused(world: World, endpoint: str) -> None:
    """What a host told as its address is looked at before anything is opened."""
    with pytest.raises(Unreachable) as refused:
        ask(world, endpoint=endpoint)
    assert "names no endpoint" in str(refused.value)
