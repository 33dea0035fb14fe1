"""What a service accepts: whose requests, which, when; and what leaves it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perunml.api.service import frame_request
from perunml.serving.tensors import Tensor
from perunml.testing.service import World, load
from perunml.testing.story.data import patient
from perunml.wire.digests import digest
from perunml.wire.dsse import unsigned
from perunml.wire.encoding import b64
from perunml.wire.errors import IntegrityError, PerunError, SuspendedError
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey
from perunml.wire.timestamps import format_time
from serving.between import Wrapped, opened

pytestmark = pytest.mark.torch


@given(st.integers(min_value=0))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bit_flipped_in_a_request_is_refused(world: World, where: int) -> None:
    """C15: a sealed request with one bit flipped does not open, wherever the bit is."""
    service = world.service()
    whole = bytearray(world.call(world.request(service.view().certificate, patient()).encode()))
    bit = where % (8 * len(whole))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError) as refused:
        service.open(bytes(whole))
    assert refused.value.code == "unseal_failed"


def test_a_replayed_request_is_refused(world: World) -> None:
    """The same sealed bytes a second time: refused, sealed to the secret inside, while a new request still goes."""
    service = world.service()
    request = world.request(service.view().certificate, patient())
    call = world.call(request.encode())
    first, second = (opened(service.open(call), request.digest) for _ in range(2))
    assert "outputs" in first
    assert second["refusal"]["reasons"][0]["code"] == "request_replayed"


def test_an_id_is_never_forgotten_while_its_request_would_pass(world: World) -> None:
    """N4, N11 for requests: at every later time, a replay is refused as replayed or as stale."""
    service = world.service()
    certificate = service.view().certificate
    request = world.request(certificate, patient(), id="02" * 16)
    call = world.call(request.encode())
    assert "outputs" in opened(service.open(call), request.digest)
    try:
        for later in (1, 59, 61, 119, 121, 149, 151, 300):
            world.skipped = later
            now = int(time.time()) + later
            service.certify(world.certificate(not_before=format_time(now), not_after=format_time(now + 60)))
            again = opened(service.open(call), request.digest)["refusal"]["reasons"][0]["code"]
            assert again in ("request_replayed", "request_not_for_this_service", "request_stale")
    finally:
        world.skipped = 0.0


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
        ({"path": "/v2/models/other/infer"}, "model_unknown"),
    ],
    ids=["manager", "agreement", "run", "certificate", "party", "signer", "old", "early", "path"],
)
def test_a_request_for_somebody_else_is_refused(world: World, changes: dict[str, Any], code: str) -> None:
    """A well-sealed request that names or is signed by the wrong one gets a sealed refusal."""
    service = world.service()
    request = world.request(service.view().certificate, patient(), **changes)
    answer = opened(service.open(world.call(request.encode())), request.digest)
    assert answer["refusal"]["reasons"][0]["code"] == code


def test_a_request_sealed_in_another_context_does_not_open(world: World) -> None:
    """HPKE's info: the same bytes sealed for another agreement, run, manager or purpose."""
    service = world.service()
    plain = world.request(service.view().certificate, patient()).encode()
    for info in ({"agreement": digest(b"x")}, {"run": "ef" * 16}, {"manager": "x"}, {"label": "perunml/release"}):
        with pytest.raises(IntegrityError) as refused:
            service.open(world.call(plain, **info))
        assert refused.value.code == "unseal_failed"


JUNK = [b"", b"{}", b"[]", b"\xff", b'{"payloadType":"x","payload":"","signatures":[]}', b"[" * 10_000]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_junk_inside_is_refused_without_an_echo(world: World, junk: bytes) -> None:
    """D2: sealed junk is malformed, in one constant sentence."""
    with pytest.raises(PerunError) as refused:
        world.service().open(world.call(junk))
    assert str(refused.value) == "malformed: what was sealed is not a signed request"


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "0" * 31},
        {"id": "G" * 32},
        {"secret": b64(bytes(31))},
        {"time": "now"},
        {"headers": {"cookie": "x"}},
        {"path": "x"},
        {"size": 1},
        {"more": 1},
    ],
)
def test_a_signed_request_of_another_form_is_refused(world: World, changes: dict[str, Any]) -> None:
    """Well signed and well sealed, but a member is missing its form: malformed, in the constant sentence."""
    service = world.service()
    asked = world.request(service.view().certificate, patient())
    payload = json.loads(asked.envelope.payload)
    body = {name: value for name, value in payload.items() if name not in ("apiVersion", "kind")} | changes
    made = unsigned("SealedRequest", body)
    signed = made.with_signature(world.clinic.signing.public, world.clinic.signing.sign(made.signing_bytes()))
    with pytest.raises(PerunError) as refused:
        service.open(world.call(frame_request(signed, asked.body, pad=False)))
    assert str(refused.value) == "malformed: what was sealed is not a signed request"


def test_an_answer_computed_past_the_lease_does_not_leave(model: Path) -> None:
    """The lease ends while the engine computes: what it computed stays."""
    world = World(load(model))

    def end(outputs: list[Tensor]) -> list[Tensor]:
        world.ends = world.clock()
        return outputs

    world.engine = Wrapped(world.engine, end)
    service = world.service()
    request = world.request(service.view().certificate, patient())
    refusal = opened(service.open(world.call(request.encode())), request.digest)["refusal"]
    assert refusal["reasons"][0]["code"] == "service_over"
    with pytest.raises(SuspendedError):
        service.open(world.call(request.encode()))


def test_an_answer_computed_past_the_certificate_does_not_leave(model: Path) -> None:
    """The certificate ends while the engine computes, the lease does not: no receipt is made from outside its time."""
    world = World(load(model))

    def pass_time(outputs: list[Tensor]) -> list[Tensor]:
        world.skipped = 61
        return outputs

    world.engine = Wrapped(world.engine, pass_time)
    service = world.service()
    request = world.request(service.view().certificate, patient())
    refusal = opened(service.open(world.call(request.encode())), request.digest)["refusal"]
    assert refusal["reasons"][0]["code"] == "request_not_for_this_service"


def test_outputs_that_cannot_be_written_are_a_failure_of_the_model(model: Path) -> None:
    """What JSON cannot carry is refused under seal."""
    world = World(load(model))
    world.engine = Wrapped(world.engine, lambda found: [Tensor("y", "FP32", (1,), b"\0\0\x80\x7f")])
    service = world.service()
    request = world.request(service.view().certificate, patient())
    refusal = opened(service.open(world.call(request.encode())), request.digest)["refusal"]
    assert refusal["reasons"][0]["code"] == "inference_failed"


def test_what_is_only_looked_up_does_not_count(world: World) -> None:
    """Metadata is no answer of the model: the agreement's number of requests is of those alone."""
    service = world.service()
    world.granted = 0
    looked = world.request(service.view().certificate, {}, id="04" * 16, method="GET", path="/v2/models/serve")
    try:
        answer = opened(service.open(world.call(looked.encode())), looked.digest)
        asked = world.request(service.view().certificate, patient(), id="05" * 16)
        refusal = opened(service.open(world.call(asked.encode())), asked.digest)["refusal"]
    finally:
        world.granted = 10**6
    assert "receipt" in answer
    assert refusal["reasons"][0]["code"] == "quota_exhausted"


def test_a_renewed_certificate_replaces_the_old_one(model: Path) -> None:
    """Requests may name the older one until it is over; then the client, asking anew, is served under the newer."""
    world = World(load(model))
    service = world.service()
    old = service.view().certificate
    now = int(time.time())
    service.certify(world.certificate(not_after=format_time(now + 500)))
    assert service.view().certificate.digest != old.digest
    request = world.request(old, patient())
    assert "outputs" in opened(service.open(world.call(request.encode())), request.digest)
    world.skipped = 61
    late = world.request(old, patient(), id="03" * 16, time=format_time(now + 61))
    refusal = opened(service.open(world.call(late.encode())), late.digest)["refusal"]
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
