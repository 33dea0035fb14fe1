"""Receipts: what ran, signed by the manager, recorded in its ledger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger import naive
from perunml.ledger.checkpoint import open_checkpoint, sign_checkpoint
from perunml.ledger.entries import Entry, entry_hash, leaf_data
from perunml.ledger.receipts import MAX_SENTENCES, Ran, Receipt, open_receipt, sign_receipt, verify_recorded
from perunml.wire.digests import digest
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import IntegrityError, PerunError
from perunml.wire.identity import SigningKey

MANAGER = SigningKey.from_secret(bytes(range(32)))
LEAVES = [leaf_data(Entry("finish", 1_800_000_000 + i, digest(b"a"), "run", {"i": i}), bytes(32)) for i in range(9)]
RECEIPT = Receipt(
    manager=MANAGER.public.text,
    agreement=digest(b"a"),
    job="train",
    run="0123456789abcdef" * 2,
    inputs={"scans": digest(b"scans")},
    code=digest(b"code"),
    host=Ran("ek:sha256:00", "simulated", "measured", True),
    parameters={"epochs": 5, "rate": 0.5},
    outputs={"model": digest(b"model")},
    entry_index=4,
    entry_hash=entry_hash(LEAVES[4]),
    time=1_800_000_004,
    sentences=("This machine was simulated.",),
)


def refused(code: str, act: object, *args: object) -> None:
    with pytest.raises(IntegrityError) as caught:
        act(*args)  # type: ignore[operator]  # any callable under test
    assert caught.value.code == code


def test_a_receipt_reads_back() -> None:
    """Through its envelope's bytes; a service's has no code."""
    assert open_receipt(Envelope.decode(sign_receipt(RECEIPT, MANAGER).encode()), MANAGER.public) == RECEIPT
    served = replace(RECEIPT, code="", outputs={}, sentences=())
    assert open_receipt(sign_receipt(served, MANAGER), MANAGER.public) == served


def test_a_receipt_is_recorded_in_the_ledger() -> None:
    """P16: with the proof it passes; with another proof, another index or another entry it is refused."""
    checkpoint = open_checkpoint(sign_checkpoint(9, naive.mth(LEAVES), MANAGER), MANAGER.public)
    proof = naive.path(4, LEAVES)
    verify_recorded(RECEIPT, checkpoint, proof)
    refused("bad_inclusion_proof", verify_recorded, RECEIPT, checkpoint, proof[:-1])
    refused("bad_inclusion_proof", verify_recorded, RECEIPT, checkpoint, naive.path(5, LEAVES))
    refused("bad_inclusion_proof", verify_recorded, replace(RECEIPT, entry_index=5), checkpoint, proof)
    refused("bad_inclusion_proof", verify_recorded, replace(RECEIPT, entry_index=9), checkpoint, proof)
    other = replace(RECEIPT, entry_hash=entry_hash(b"never happened"))
    refused("bad_inclusion_proof", verify_recorded, other, checkpoint, proof)


def test_another_managers_receipt_is_refused() -> None:
    """Signed by another; signed by ours but naming another; of another kind."""
    other = SigningKey.generate()
    theirs = sign_receipt(replace(RECEIPT, manager=other.public.text), other)
    refused("bad_signature", open_receipt, theirs, MANAGER.public)
    false = signed("Receipt", {**RECEIPT.as_json(), "manager": other.public.text}, MANAGER)
    refused("bad_receipt", open_receipt, false, MANAGER.public)
    refused("wrong_payload_type", open_receipt, signed("Approval", RECEIPT.as_json(), MANAGER), MANAGER.public)
    with pytest.raises(ValueError, match="names"):
        sign_receipt(RECEIPT, other)


def test_an_altered_receipt_is_refused() -> None:
    """One byte of the signed payload, at each tenth place."""
    envelope = sign_receipt(RECEIPT, MANAGER)
    for at in range(0, len(envelope.payload), 10):
        payload = bytearray(envelope.payload)
        payload[at] ^= 1
        refused("bad_signature", open_receipt, replace(envelope, payload=bytes(payload)), MANAGER.public)


HOST = RECEIPT.as_json()["host"]


@pytest.mark.parametrize(
    "change",
    [
        {"manager": "me"}, {"agreement": ""}, {"job": 1}, {"run": "short"}, {"run": "G" * 32}, {"run": None},
        {"inputs": []}, {"inputs": {"a": "b"}}, {"inputs": {"a": None}}, {"code": None}, {"code": "sha256:00"},
        {"host": None}, {"host": {}}, {"host": {**HOST, "simulated": 0}}, {"host": {**HOST, "simulated": None}},
        {"host": {**HOST, "more": 1}}, {"host": {**HOST, "machine": 1}}, {"parameters": []}, {"outputs": {"m": 1}},
        {"entry": {}}, {"entry": {"index": -1, "hash": digest(b"")}}, {"entry": {"index": True, "hash": digest(b"")}},
        {"entry": {"index": 1, "hash": ""}}, {"entry": {"index": 2**53, "hash": digest(b"")}}, {"time": 5},
        {"sentences": "text"}, {"sentences": [1]}, {"sentences": [""] * (MAX_SENTENCES + 1)}, {"sentences": None},
        {"more": 1},
    ],
)  # fmt: skip
def test_an_ill_formed_receipt_is_refused(change: dict[str, Any]) -> None:
    """Even when its manager signed it."""
    body = {**RECEIPT.as_json(), **change}
    refused("bad_receipt", Receipt.from_json, body)
    try:
        envelope = signed("Receipt", body, MANAGER)
    except PerunError:
        return  # has no canonical form at all
    refused("bad_receipt", open_receipt, envelope, MANAGER.public)


@pytest.mark.parametrize("name", sorted(RECEIPT.as_json()))
def test_a_missing_member_is_refused(name: str) -> None:
    """Missing is not empty."""
    data = RECEIPT.as_json()
    del data[name]
    refused("bad_receipt", Receipt.from_json, data)
