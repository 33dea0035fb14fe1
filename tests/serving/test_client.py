"""What a client accepts: of certificates, of answers, of endpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perunml.client.infer import infer
from perunml.client.tunnel import Service, Tunnel
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
        assert path != "/v1/sealed"
        view = json.loads(body)
        view["certificate"] = world.certificate(**certificate).as_json()
        return json.dumps(view).encode()

    with pytest.raises(EvidenceRefusal) as refused:
        ask(world, model=MODEL, transport=Between(swap))
    assert refused.value.code == "service_not_expected"


def test_a_certificate_with_another_key_is_refused(world: World) -> None:
    """The key that inputs are sealed to cannot be exchanged under the manager's signature (C2)."""

    def swap(path: str, body: bytes) -> bytes:
        assert path != "/v1/sealed"
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
    """The agreement that a client approved is compared with the certificate's."""
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
    with pytest.raises(PerunError) as refused:
        ask(world, identity=Client("stranger"), agreement="", run="")
    assert refused.value.code == "client_not_in_agreement"
    assert ask(world, agreement=AGREEMENT, run="")[0]
    with pytest.raises(EvidenceRefusal):
        ask(world, agreement=digest(b"other"), run="")
    with pytest.raises(Unreachable), Tunnel(world.clinic, pin_of(world.manager), Service("", "")) as nowhere:
        infer(nowhere, patient())


@given(st.integers(min_value=0), st.integers(0, 7))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_byte_changed_in_an_answer_is_refused(world: World, where: int, bit: int) -> None:
    """Whatever a relay changes in the HTTP body, the client gets no outputs."""

    def flip(path: str, body: bytes) -> bytes:
        if path != "/v1/sealed":
            return body
        changed = bytearray(body)
        changed[where % len(body)] ^= 1 << bit
        return bytes(changed)

    with pytest.raises(PerunError) as refused:
        ask(world, transport=Between(flip))
    assert refused.value.code in ("unseal_failed", "malformed", "answer_incomplete")


def test_an_answer_to_another_request_is_refused(world: World) -> None:
    """A genuine answer of the same service to the same client, but to an earlier request, does not open."""
    kept: list[bytes] = []

    def keep(path: str, body: bytes) -> bytes:
        if path == "/v1/sealed":
            kept.append(body)
            return kept[0]
        return body

    with pytest.raises(IntegrityError):  # the second request's answer is the metadata's
        ask(world, transport=Between(keep))
    assert len(kept) == 2


@pytest.mark.parametrize(
    "inputs",
    [{"x": [1]}, {"features": float("nan")}, {"features": {1}}, {"features": [[[[[[[[[1]]]]]]]]]}],
    ids=["name", "nan", "set", "deep"],
)
def test_inputs_that_cannot_be_sent_are_refused_by_the_client(world: World, inputs: Any) -> None:
    """What is no input of the model, or not JSON, does not leave the client."""
    granted = world.granted
    with pytest.raises(PerunError) as refused:
        ask(world, inputs=inputs)
    assert refused.value.code == "malformed"
    assert world.granted == granted


def test_a_request_of_the_protocol_goes_as_it_is(world: World) -> None:
    """`inputs` as a list of tensors is an Open Inference Protocol request; the outputs wanted are chosen by it."""
    rows = patient()["features"]
    asked = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 30], "data": rows}]}
    assert ask(world, inputs=asked)[0] == ask(world)[0]
    with pytest.raises(PerunError) as refused:
        ask(world, inputs={**asked, "outputs": [{"name": "other"}]})
    assert refused.value.code == "inputs_refused"


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
