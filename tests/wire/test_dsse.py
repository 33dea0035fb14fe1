"""DSSE envelopes: what is signed is what is read, as its own kind, by keys that may."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.wire.canonical import canonical
from perunml.wire.digests import digest
from perunml.wire.dsse import MAX_SIGNATURES, Envelope, pae, payload_type, signed, unsigned
from perunml.wire.encoding import b64
from perunml.wire.errors import IntegrityError, PerunError, UsageError
from perunml.wire.identity import SigningKey

ANNA, BORIS = (SigningKey.from_secret(bytes([i]) * 32) for i in (1, 2))
HSM = SigningKey(ec.derive_private_key(0xC0FFEE, ec.SECP384R1()))
BODY = {"party": "st-vitus", "expires": 1800000000}


def refused(code: str, act: Any, *args: Any) -> None:
    with pytest.raises(PerunError) as caught:
        act(*args)
    assert caught.value.code == code


def test_pae_as_the_specification_has_it() -> None:
    """DSSE protocol v1.0.2's example, and lengths in bytes."""
    assert (
        pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("", b"") == b"DSSEv1 0  0 "
    assert pae("a", b"b 1 c") != pae("a 5 b", b"1 c")


def test_the_specifications_example_verifies() -> None:
    """DSSE protocol v1.0.2 signs with P-256, which we do not read; the same text with ours."""
    envelope = unsigned("Approval", BODY)
    made = envelope.with_signature(
        ANNA.public, ANNA.sign(pae("application/vnd.perunml.approval+json", envelope.payload))
    )
    assert made.open("Approval", [ANNA.public])["party"] == "st-vitus"


@pytest.mark.parametrize("key", [ANNA, HSM], ids=["ed25519", "p384"])
def test_an_envelope_reads_back(key: SigningKey) -> None:
    """Through its bytes; its digest is the payload's alone."""
    made = signed("Approval", BODY, key)
    back = Envelope.decode(made.encode())
    assert back == made
    assert back.open("Approval", [key.public]) == {"apiVersion": "perunml/v1", "kind": "Approval", **BODY}
    assert back.digest == digest(canonical({"apiVersion": "perunml/v1", "kind": "Approval", **BODY}))


def test_several_sign_one_document() -> None:
    """The digest stays; who signed is told; signing again replaces."""
    made = signed("Approval", BODY, ANNA)
    both = made.with_signature(BORIS.public, BORIS.sign(made.signing_bytes()))
    assert both.digest == made.digest
    assert both.verify("Approval", [ANNA.public, BORIS.public]) == {ANNA.public, BORIS.public}
    assert both.verify("Approval", [BORIS.public, HSM.public]) == {BORIS.public}
    again = both.with_signature(ANNA.public, ANNA.sign(made.signing_bytes()))
    assert len(again.signatures) == 2


def test_a_signature_that_does_not_verify_is_not_attached() -> None:
    """Made elsewhere, over other bytes or by another key."""
    envelope = unsigned("Approval", BODY)
    refused("bad_signature", envelope.with_signature, ANNA.public, BORIS.sign(envelope.signing_bytes()))
    refused("bad_signature", envelope.with_signature, ANNA.public, ANNA.sign(envelope.payload))


def test_p5_a_signature_does_not_fit_another_document() -> None:
    """P5: an approval of one digest, put on another."""
    one, other = signed("Approval", BODY, ANNA), unsigned("Approval", {**BODY, "party": "acme"})
    refused("bad_signature", replace(other, signatures=one.signatures).open, "Approval", [ANNA.public])


def test_nothing_signed_is_read_as_another_kind() -> None:
    """By its type, by its payload, and when the two disagree although the signature is good."""
    made = signed("Approval", BODY, ANNA)
    refused("wrong_payload_type", made.open, "Suspension", [ANNA.public])
    moved = replace(made, payload_type=payload_type("Suspension"))
    refused("bad_signature", moved.open, "Suspension", [ANNA.public])
    mixed = Envelope(payload_type("Suspension"), made.payload)
    mixed = mixed.with_signature(ANNA.public, ANNA.sign(mixed.signing_bytes()))
    refused("wrong_payload_type", mixed.open, "Suspension", [ANNA.public])
    disguised = Envelope(payload_type("Suspension"), made.payload)
    disguised = disguised.with_signature(ANNA.public, ANNA.sign(disguised.signing_bytes()))
    refused("wrong_payload_type", disguised.open, "Approval", [ANNA.public])
    for body in (b"[]", b'{"kind":"Approval"}', b'{"apiVersion":"perunml/v2","kind":"Approval"}'):
        refused("wrong_payload_type", Envelope(payload_type("Approval"), body).unverified, "Approval")


def test_unsigned_and_strangers_signatures_are_refused() -> None:
    """No signature, none that counts, no key that may sign."""
    made = signed("Approval", BODY, BORIS)
    refused("bad_signature", unsigned("Approval", BODY).open, "Approval", [ANNA.public])
    refused("bad_signature", made.open, "Approval", [ANNA.public])
    refused("bad_signature", made.open, "Approval", [])


def test_one_bad_signature_among_ours_refuses_all() -> None:
    """A signature that claims a key we ask for must verify; a stranger's false one counts for nothing."""
    made = signed("Approval", BODY, ANNA)
    false = replace(made, signatures=(*made.signatures, (BORIS.public.text, bytes(64))))
    refused("bad_signature", false.open, "Approval", [ANNA.public, BORIS.public])
    assert false.verify("Approval", [ANNA.public]) == {ANNA.public}


def test_every_flipped_byte_of_the_payload_is_refused() -> None:
    """And of the signature."""
    made = signed("Approval", BODY, ANNA)
    for at in range(len(made.payload)):
        payload = bytearray(made.payload)
        payload[at] ^= 1
        refused("bad_signature", replace(made, payload=bytes(payload)).open, "Approval", [ANNA.public])
    for at in range(64):
        signature = bytearray(made.signatures[0][1])
        signature[at] ^= 1
        refused(
            "bad_signature",
            replace(made, signatures=((ANNA.public.text, bytes(signature)),)).open,
            "Approval",
            [ANNA.public],
        )


@pytest.mark.parametrize(
    "payload",
    [b'{"kind":"Approval","apiVersion":"perunml/v1"}', b'{"apiVersion":"perunml/v1","kind":"Approval"} ', b"x", b""],
)
def test_p9_a_signed_payload_that_is_not_canonical_is_refused(payload: bytes) -> None:
    """P9: even when the signature is good."""
    made = Envelope(payload_type("Approval"), payload)
    made = made.with_signature(ANNA.public, ANNA.sign(made.signing_bytes()))
    refused("malformed", made.open, "Approval", [ANNA.public])


SIG = {"keyid": ANNA.public.text, "sig": "AAAA"}
GOOD: dict[str, Any] = {"payloadType": "a", "payload": "AAAA", "signatures": [SIG]}


@pytest.mark.parametrize(
    "data",
    [
        None, [], "x", {}, {**GOOD, "more": 1}, {k: v for k, v in GOOD.items() if k != "signatures"}, {**GOOD, "payloadType": 5},
        {**GOOD, "payloadType": "é"}, {**GOOD, "payload": None}, {**GOOD, "payload": "AA=="}, {**GOOD, "payload": "AAA+"},
        {**GOOD, "signatures": None}, {**GOOD, "signatures": {}.keys}, {**GOOD, "signatures": "x"}, {**GOOD, "signatures": [None]},
        {**GOOD, "signatures": [{}]}, {**GOOD, "signatures": [{**SIG, "more": 1}]}, {**GOOD, "signatures": [{**SIG, "keyid": 5}]},
        {**GOOD, "signatures": [{**SIG, "sig": 5}]}, {**GOOD, "signatures": [SIG, SIG]},
        {**GOOD, "signatures": [{"keyid": str(i), "sig": "AAAA"} for i in range(MAX_SIGNATURES + 1)]},
    ],
)  # fmt: skip
def test_an_envelope_of_another_form_is_refused(data: Any) -> None:
    """P4 among them: one key twice."""
    refused("malformed", Envelope.from_json, data)


def test_p4_one_key_under_two_spellings_counts_once() -> None:
    """P4: a keyid in another spelling is a stranger's."""
    made = signed("Approval", BODY, ANNA)
    twice = replace(made, signatures=(*made.signatures, (ANNA.public.text + "=", made.signatures[0][1])))
    assert twice.verify("Approval", [ANNA.public]) == {ANNA.public}


def test_what_cannot_be_read_back_is_not_signed() -> None:
    """NaN, great integers, lone surrogates, floats that are written as great integers."""
    for value in (float("nan"), 2**53, 1e16, "\ud800", float("inf"), b"x"):
        with pytest.raises(UsageError) as caught:
            signed("Approval", {"value": value}, ANNA)
        assert caught.value.code == "malformed"
    for name in ("kind", "apiVersion"):
        with pytest.raises(ValueError, match="envelope"):
            unsigned("Approval", {name: "x"})


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["payloadType", "payload", "signatures", "x"]), st.recursive(
    st.none() | st.integers(-5, 5) | st.text(alphabet="Aa-_=", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["keyid", "sig"]), inner, max_size=2),
)))  # fmt: skip
def test_nonsense_never_crashes(data: dict[str, Any]) -> None:
    """A value or the coded refusal; what is read has no signature that verifies."""
    try:
        made = Envelope.from_json(data)
    except UsageError:
        return
    with pytest.raises((IntegrityError, UsageError)):
        made.open("Approval", [ANNA.public])
    assert made.as_json() == data
    assert b64(made.payload) == data["payload"]
