"""Receipts: what a lying service signs, and what is altered later."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perunml.api.service import InferenceReceipt
from perunml.client.receipts import verify_receipt
from perunml.testing.service import RUN, World, load, pin_of
from perunml.wire.digests import digest
from perunml.wire.dsse import Envelope
from perunml.wire.errors import IntegrityError, PerunError
from perunml.wire.identity import SigningKey
from perunml.wire.timestamps import format_time
from serving.between import ask, lying, predicted

pytestmark = pytest.mark.torch


LIES: dict[str, dict[str, Any]] = {
    "request": {"request": digest(b"x")},
    "response": {"response": digest(b"x")},
    "party": {"party": "other"},
    "id": {"id": "ff" * 16},
    "manager": {"manager": SigningKey.generate().public.text},
    "agreement": {"agreement": digest(b"x")},
    "job": {"job": "other"},
    "run": {"run": "ef" * 16},
    "model": {"model": digest(b"x")},
    "simulated": {"simulated": False},
    "verdict": {"verdict": digest(b"x")},
    "certificate": {"certificate": digest(b"x")},
    "time": {"time": "2026-01-01T00:00:00Z"},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_receipt_that_lies_is_refused(model: Path, lie: str) -> None:
    """A certified service that signs a receipt about something else than this exchange convinces no client."""
    world = World(load(model))

    def change(body: dict[str, Any]) -> dict[str, Any]:
        payload = json.loads(Envelope.from_json(body).payload)
        told = {name: value for name, value in payload.items() if name not in ("apiVersion", "kind")} | LIES[lie]
        return InferenceReceipt(**told).envelope(world.signer).as_json()

    with world.gateway(lying(world, change)), pytest.raises(IntegrityError) as refused:
        ask(world)
    assert refused.value.code == "receipt_mismatch"


@pytest.mark.parametrize(
    "change",
    [
        lambda body: {},
        lambda body: None,
        lambda body: [body],
        lambda body: body | {"more": 1},
        lambda body: body | {"signatures": []},
    ],
    ids=range(5),
)
def test_an_answer_of_another_form_is_refused(model: Path, change: Callable[[Any], Any]) -> None:
    """Sealed by the right service, and still not an answer."""
    world = World(load(model))
    with world.gateway(lying(world, change)), pytest.raises(PerunError) as refused:
        ask(world)
    assert refused.value.code in ("malformed", "bad_signature")


def test_a_receipt_by_another_key_is_refused(model: Path) -> None:
    """The receipt must be signed by the session key that the certificate names."""
    world = World(load(model))

    def change(body: dict[str, Any]) -> dict[str, Any]:
        payload = json.loads(Envelope.from_json(body).payload)
        told = {name: value for name, value in payload.items() if name not in ("apiVersion", "kind")}
        return InferenceReceipt(**told).envelope(SigningKey.generate()).as_json()

    with world.gateway(lying(world, change)), pytest.raises(IntegrityError) as refused:
        ask(world)
    assert refused.value.code == "bad_signature"


def test_an_altered_receipt_is_refused(world: World) -> None:
    """Each part of a kept receipt, exchanged for another genuine one, is noticed offline."""
    found = predicted(world)
    one = found.receipt
    _, two = ask(world, inputs={"features": [[0.5] * 30]})
    pin = pin_of(world.manager)
    verify_receipt(one, pin, answer=found.answer)
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
        verify_receipt(one.model_copy(update={"head": one.head + b" "}), pin, answer=found.answer)
    with pytest.raises(IntegrityError):
        verify_receipt(one, pin, answer=found.answer[:-1] + b"0")
    with pytest.raises(IntegrityError):
        verify_receipt(one, pin_of(SigningKey.generate()))


def test_a_certificate_that_names_another_manager_than_its_signer_is_refused(world: World) -> None:
    """Offline too, the name inside and the key that signed must be the same."""
    _, file = ask(world)
    other = SigningKey.generate().public.text
    certificate = world.certificate(manager=other)
    payload = json.loads(file.receipt.payload)
    told = {name: value for name, value in payload.items() if name not in ("apiVersion", "kind")}
    receipt = InferenceReceipt(**(told | {"manager": other, "certificate": certificate.digest})).envelope(world.signer)
    with pytest.raises(IntegrityError) as refused:
        verify_receipt(file.model_copy(update={"certificate": certificate, "receipt": receipt}), pin_of(world.manager))
    assert refused.value.code == "receipt_mismatch"


def test_a_receipt_from_outside_the_certificate_s_time_is_refused(world: World) -> None:
    """A session key that signs on after its certificate ended makes no receipts."""
    _, file = ask(world)
    now = int(time.time())
    over = world.certificate(not_before=format_time(now - 100), not_after=format_time(now - 50))
    body = json.loads(file.receipt.payload) | {"certificate": over.digest}
    late = InferenceReceipt(**{k: v for k, v in body.items() if k not in ("apiVersion", "kind")}).envelope(world.signer)
    with pytest.raises(IntegrityError) as refused:
        verify_receipt(file.model_copy(update={"certificate": over, "receipt": late}), pin_of(world.manager))
    assert refused.value.code == "receipt_mismatch"
    assert RUN in file.receipt.payload.decode()
