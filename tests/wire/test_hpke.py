"""HPKE: opens for the right key, in the right context, and for nothing else."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import PerunError
from perunml.wire.hpke import MLKEM_PUBLIC, HpkePrivateKey, HpkePublicKey

KEY = HpkePrivateKey(bytes(range(96)))
RAW = unb64(KEY.public.text[5:])
INFO = {"label": "perunml/test", "manager": "m", "run": "r"}
SEALED = KEY.public.seal(b"secret", INFO)
ENCAPSULATED = 1088 + 32


def refused(code: str, act: Any, *args: Any) -> PerunError:
    with pytest.raises(PerunError) as caught:
        act(*args)
    assert caught.value.code == code
    return caught.value


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=200))
def test_what_is_sealed_opens(plaintext: bytes) -> None:
    """Any length, the same for bytes and bytearray; 1,136 bytes more; never the same ciphertext twice."""
    one, two = KEY.public.seal(plaintext, INFO), KEY.public.seal(bytearray(plaintext), INFO)
    assert KEY.open(one, INFO) == KEY.open(two, INFO) == plaintext
    assert len(one) == len(plaintext) + ENCAPSULATED + 16
    assert one != two


def test_a_key_survives_its_secret() -> None:
    """96 bytes: ML-KEM seed, X25519 scalar."""
    again = HpkePrivateKey(KEY.secret())
    assert again.public == KEY.public
    assert again.open(SEALED, INFO) == b"secret"
    assert len(HpkePrivateKey.generate().secret()) == 96


@pytest.mark.parametrize(
    "info",
    [{}, {**INFO, "run": "s"}, {**INFO, "label": "perunml/asset-key"}, {"label": "perunml/test", "manager": "m"}, {**INFO, "more": ""},
     {**INFO, "run": ["r"]}, {"label": "perunml/test", "manager": "mr", "run": ""}],
)  # fmt: skip
def test_s4_another_context_does_not_open(info: dict[str, Any]) -> None:
    """S4: each member of `info` is bound, and its place."""
    refused("unseal_failed", KEY.open, SEALED, info)


def test_c15_another_key_does_not_open() -> None:
    """C15: a relayed or replayed ciphertext is worth nothing to another session; neither is half of the key."""
    other = HpkePrivateKey.generate()
    halves = [
        HpkePrivateKey(KEY.secret()[:64] + other.secret()[64:]),
        HpkePrivateKey(other.secret()[:64] + KEY.secret()[64:]),
    ]
    for wrong in (other, *halves):
        error = refused("unseal_failed", wrong.open, SEALED, INFO)
        assert "secret" not in str(error)


def test_flipped_bits_do_not_open() -> None:
    """In the ML-KEM ciphertext, the X25519 share, the payload and the tag."""
    places = [*range(0, 1088, 97), *range(1088, ENCAPSULATED), *range(ENCAPSULATED, len(SEALED))]
    for at in places:
        changed = bytearray(SEALED)
        changed[at] ^= 0x10
        refused("unseal_failed", KEY.open, bytes(changed), INFO)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 1087, 1088, 1119, 1120, 1121, 1135, len(SEALED) - 1])
def test_truncated_ciphertexts_do_not_open(size: int) -> None:
    """At the borders of its parts; and with bytes to spare."""
    refused("unseal_failed", KEY.open, SEALED[:size], INFO)
    refused("unseal_failed", KEY.open, SEALED + bytes(size + 1), INFO)


SMALL = [
    bytes(32), b"\1" + bytes(31), (2**255 - 20).to_bytes(32, "little"), (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"), b"\xff" * 32,
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]  # fmt: skip


@pytest.mark.parametrize("point", SMALL)
def test_c9_an_x25519_half_of_small_order_is_refused(point: bytes) -> None:
    """C9: as a receiving key when it is read, and as a sender's share when it is opened."""
    refused("malformed", HpkePublicKey, "hpke:" + b64(RAW[:MLKEM_PUBLIC] + point))
    refused("unseal_failed", KEY.open, SEALED[:1088] + point + SEALED[ENCAPSULATED:], INFO)


def test_c9_an_ml_kem_half_that_is_no_key_is_refused() -> None:
    """C9: coefficients beyond the modulus (FIPS 203 section 7.2)."""
    refused("malformed", HpkePublicKey, "hpke:" + b64(b"\xff" * MLKEM_PUBLIC + RAW[MLKEM_PUBLIC:]))


@pytest.mark.parametrize(
    "text",
    ["", "hpke:", "hpke:AA", KEY.public.text[5:], "HPKE:" + KEY.public.text[5:], KEY.public.text[:-2], KEY.public.text + "AA",
     KEY.public.text + "=", KEY.public.text + "\n", "hpke:" + b64(RAW[:-1]), "hpke:" + b64(RAW + b"\0"), "ed25519:" + b64(bytes(32))],
)  # fmt: skip
def test_another_form_of_a_receiving_key_is_refused(text: str) -> None:
    """Lengths, prefixes, spellings."""
    refused("malformed", HpkePublicKey, text)


def test_names_and_secrets() -> None:
    """The id is short and stable; repr shows nothing else; a private key is not pickled or copied."""
    assert KEY.public.id.startswith("hpke-")
    assert len(KEY.public.id) == 21
    assert repr(KEY) == f"<HpkePrivateKey {KEY.public.id}>"
    assert str(KEY.public) == KEY.public.text
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            act(KEY)
    for size in (0, 95, 97):
        with pytest.raises(ValueError, match="96"):
            HpkePrivateKey(bytes(size))
