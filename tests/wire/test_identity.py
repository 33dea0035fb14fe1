"""Identities: published vectors, one encoding, and every key that is none refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import PerunError
from perunml.wire.identity import PublicKey, SigningKey
from perunml.wire.points import sound_ed25519, sound_x25519

ED, HSM = SigningKey.from_secret(bytes(range(32))), SigningKey(ec.derive_private_key(0xC0FFEE, ec.SECP384R1()))
BOTH = pytest.mark.parametrize("key", [ED, HSM], ids=["ed25519", "p384"])
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
"""Order of Ed25519's base point."""
P384_P = 2**384 - 2**128 - 2**96 + 2**32 - 1
P384_N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973

# RFC 8032 section 7.1, TEST 2
SEED = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
PUBLIC = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
SIGNATURE = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"


def le(number: int) -> bytes:
    return number.to_bytes(32, "little")


SMALL_ORDER = [
    le(0), le(1), le(P - 1),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]  # fmt: skip


def refused(code: str, act: Any, *args: Any) -> PerunError:
    with pytest.raises(PerunError) as caught:
        act(*args)
    assert caught.value.code == code
    return caught.value


def test_rfc_8032_vector() -> None:
    """Key text, signature and verification."""
    key = SigningKey.from_secret(bytes.fromhex(SEED))
    assert key.public == PublicKey("ed25519:" + b64(bytes.fromhex(PUBLIC)))
    assert key.sign(b"\x72").hex() == SIGNATURE
    key.public.verify(bytes.fromhex(SIGNATURE), b"\x72")


@BOTH
def test_a_key_survives_its_secret(key: SigningKey) -> None:
    """As it is kept sealed under a passphrase."""
    again = SigningKey.from_secret(key.secret())
    assert again.public == key.public
    key.public.verify(again.sign(b"m"), b"m")
    assert key.public.algorithm == key.public.text.partition(":")[0]
    assert str(key.public) == key.public.text


@BOTH
def test_q1_every_flipped_bit_of_a_signature_is_refused(key: SigningKey) -> None:
    """Q1-like: each bit; and of the message."""
    signature = key.sign(b"message")
    for bit in range(len(signature) * 8):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        refused("bad_signature", key.public.verify, bytes(changed), b"message")
    for message in (b"", b"messagf", b"message\0", b"messag"):
        refused("bad_signature", key.public.verify, signature, message)


@BOTH
def test_q20_a_signature_of_another_length_is_refused(key: SigningKey) -> None:
    """Q20: none, cut, padded, DER, the other algorithm's length."""
    signature = key.sign(b"m")
    for wrong in (
        b"",
        signature[:-1],
        signature + b"\0",
        b"\0" + signature,
        signature[:32],
        signature * 2,
        bytes(64),
        bytes(96),
    ):
        refused("bad_signature", key.public.verify, wrong, b"m")
    der = HSM._private.sign(b"m", ec.ECDSA(__import__("cryptography").hazmat.primitives.hashes.SHA384()))  # type: ignore[union-attr]  # the private half, to make DER
    refused("bad_signature", HSM.public.verify, der, b"m")


@BOTH
def test_another_key_did_not_sign(key: SigningKey) -> None:
    """The refusal names the key that was asked, and no secret."""
    other = SigningKey.generate(key.public.algorithm)
    error = refused("bad_signature", other.public.verify, key.sign(b"m"), b"m")
    assert other.public.text in str(error)


def test_q20_ed25519_s_beyond_the_order_is_refused() -> None:
    """Q20: S + L verifies under a careless library; RFC 8032 section 5.1.7 refuses it."""
    signature = ED.sign(b"m")
    s = int.from_bytes(signature[32:], "little")
    refused("bad_signature", ED.public.verify, signature[:32] + le(s + L), b"m")


def test_q20_ecdsa_r_and_s_out_of_range_are_refused() -> None:
    """Q20: zero, the order, beyond it."""
    signature = HSM.sign(b"m")
    r, s = signature[:48], signature[48:]
    for bad in (0, P384_N, P384_N + 1, 2**384 - 1):
        wrong = bad.to_bytes(48)
        refused("bad_signature", HSM.public.verify, wrong + s, b"m")
        refused("bad_signature", HSM.public.verify, r + wrong, b"m")


def test_ecdsa_s_has_a_twin_so_signatures_name_nothing() -> None:
    """(r, n - s) verifies by design of ECDSA and HSMs make either: so digests are taken over payloads, never signatures."""
    from perunml.wire.dsse import signed

    envelope = signed("Approval", {}, HSM)
    signature = envelope.signatures[0][1]
    twin = signature[:48] + (P384_N - int.from_bytes(signature[48:])).to_bytes(48)
    assert envelope.with_signature(HSM.public, twin).digest == envelope.digest


@pytest.mark.parametrize("raw", [point[:31] + bytes([point[31] | sign]) for point in SMALL_ORDER for sign in (0, 0x80)])
def test_c9_an_ed25519_key_of_small_order_is_refused(raw: bytes) -> None:
    """C9: under such a key anybody's signature verifies: for the neutral point R = 1, S = 0 does, for every message."""
    refused("malformed", PublicKey, "ed25519:" + b64(raw))


def test_c9_a_second_spelling_of_a_point_is_refused() -> None:
    """C9, P4: y + p is the same point under another name, so one key could count twice."""
    for y in range(19):
        refused("malformed", PublicKey, "ed25519:" + b64(le(P + y)))
    refused("malformed", PublicKey, "ed25519:" + b64(b"\xff" * 32))


def test_c9_points_off_the_curve_are_refused() -> None:
    """C9: half of all y are on no point; honest keys are all accepted."""
    assert 35 < sum(sound_ed25519(le(y)) for y in range(2, 102)) < 65
    assert all(SigningKey.from_secret(bytes([i]) * 32).public for i in range(100))
    refused("malformed", PublicKey, "ed25519:" + b64(le(2)))


def test_the_points_of_small_order_are_what_they_are_called() -> None:
    """Adding each y to itself on the Edwards curve three times gives the neutral point: the constants are right."""
    d = -121665 * pow(121666, -1, P) % P
    for raw in SMALL_ORDER:
        y = int.from_bytes(raw, "little")
        x2 = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
        for _ in range(3):  # x², y of the double: x3 = 2xy/(1+dx²y²), y3 = (y²+x²)/(1-dx²y²)
            k = d * x2 * y * y % P
            x2, y = 4 * x2 * y * y * pow(1 + k, -2, P) % P, (y * y + x2) * pow(1 - k, -1, P) % P
        assert (x2, y) == (0, 1)


def test_c9_p384_points_off_the_curve_are_refused() -> None:
    """C9: off the curve, uncompressed, hybrid, infinity, x beyond the field."""
    raw = unb64(HSM.public.text[5:])
    number = HSM._private.public_key().public_numbers()  # type: ignore[union-attr]  # its point, to spell it otherwise
    x, y = number.x.to_bytes(48), number.y.to_bytes(48)  # type: ignore[union-attr]  # an EC key's numbers
    off = next(i for i in range(1, 50) if not _on_p384(i))
    on = next(i for i in range(1, 50) if _on_p384(i))
    wrong = [
        b"\4" + x + y,
        b"\4" + x,
        b"\6" + x,
        b"\0" * 49,
        b"\0",
        b"\2" + off.to_bytes(48),
        raw[:-1],
        raw + b"\0",
        raw[1:],
    ]
    for bad in [*wrong, b"\2" + (P384_P + on).to_bytes(48)]:
        refused("malformed", PublicKey, "p384:" + b64(bad))
    assert PublicKey("p384:" + b64(b"\2" + on.to_bytes(48))).algorithm == "p384"


def _on_p384(x: int) -> bool:
    b = 0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF
    return pow(x**3 - 3 * x + b, (P384_P - 1) // 2, P384_P) == 1


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "ed25519", "ed25519:", "ed25519:AA", "Ed25519:" + ED.public.text[8:], " " + ED.public.text, ED.public.text + "=",
        ED.public.text + "\n", ED.public.text[:-1], ED.public.text + "A", "p384:" + ED.public.text[8:], "rsa:" + ED.public.text[8:],
        "ed25519:" + HSM.public.text[5:], "ed25519:+/" + ED.public.text[10:], ED.public.text[8:],
    ],
)  # fmt: skip
def test_another_form_of_a_key_is_refused(text: str) -> None:
    """Wrong lengths, other algorithms, other spellings."""
    refused("malformed", PublicKey, text)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["ed25519:", "p384:", ""]), st.binary(max_size=50) | st.binary(min_size=32, max_size=32))
def test_random_keys_never_crash(prefix: str, raw: bytes) -> None:
    """A key whose text reads back, or the coded refusal; a random signature never verifies."""
    try:
        key = PublicKey(prefix + b64(raw))
    except PerunError:
        return
    assert key.text == prefix + b64(raw)
    refused("bad_signature", key.verify, bytes(range(96 if prefix == "p384:" else 64)), b"m")


@BOTH
def test_no_secret_in_repr_or_pickle(key: SigningKey) -> None:
    """Nor in a copy; no attribute can be added."""
    assert repr(key) == f"<SigningKey {key.public.text}>"
    assert b64(key.secret()) not in repr(key)
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            act(key)
    with pytest.raises(AttributeError):
        key.label = "x"  # type: ignore[attr-defined]  # that it is refused is the point


def test_other_private_keys_are_callers_mistakes() -> None:
    """Other curves, other algorithms, other lengths."""
    with pytest.raises(ValueError, match="P-384"):
        SigningKey(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(ValueError, match="algorithm"):
        SigningKey.generate("rsa")
    for secret in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError):
            SigningKey.from_secret(secret)
    from cryptography.hazmat.primitives import serialization as ser
    from cryptography.hazmat.primitives.asymmetric import x25519

    der = x25519.X25519PrivateKey.generate().private_bytes(
        ser.Encoding.DER, ser.PrivateFormat.PKCS8, ser.NoEncryption()
    )
    with pytest.raises(ValueError, match="P-384"):
        SigningKey.from_secret(der)


def test_x25519_small_order() -> None:
    """RFC 7748 section 6.1: the five u of small order, their second spellings, and the high bit."""
    from cryptography.hazmat.primitives.asymmetric import x25519

    ours = x25519.X25519PrivateKey.generate()
    assert sound_x25519(ours.public_key().public_bytes_raw())
    small = [le(0), le(1), le(P - 1), le(P), le(P + 1)] + [
        bytes.fromhex(text)
        for text in (
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        )
    ]
    for raw in small:
        assert not sound_x25519(raw)
        with pytest.raises(ValueError):  # the library agrees: the shared secret would be zero
            ours.exchange(x25519.X25519PublicKey.from_public_bytes(raw))
    assert not sound_x25519(le(9 + 2**255))
    assert not sound_x25519(le(P + 9))
