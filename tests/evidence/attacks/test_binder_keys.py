"""Attacks on the binder key of a TPM, when it is enrolled: a key of anywhere, that anybody may use, or that nobody certified."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from perunml.evidence.tpm.algorithms import ECDSA
from perunml.evidence.tpm.binder import binder_policy, verify_binder_key
from perunml.evidence.tpm.keys import (
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    USER_WITH_AUTH,
    check_ak,
    qualified_names,
)
from perunml.evidence.tpm.public import parse_public
from perunml.testing.forge import ForgedTpm, new_key, sign
from perunml.testing.structures import public_area, sized
from perunml.wire.errors import PerunError

GOOD = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | SIGN
MAGIC, CERTIFY, QUOTE = 0xFF544347, 0x8017, 0x8018
AK = new_key("p256")
AK_PUBLIC = sized(public_area(AK, attributes=0x50072, scheme=(ECDSA, "sha256")))
"""fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign."""


@cache
def binder() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def area(attributes: int = GOOD, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    policy = binder_policy({index: bytes(32) for index in range(8)})
    return sized(public_area(key or binder(), attributes=attributes, scheme=(ECDSA, "sha256"), policy=policy))


def certified(public: bytes, magic: int = MAGIC, kind: int = CERTIFY, more: bytes = b"") -> bytes:
    """TPMS_ATTEST of TPM2_Certify."""
    name = parse_public(public).name
    head = magic.to_bytes(4) + kind.to_bytes(2) + sized(qualified_names(check_ak(AK_PUBLIC), None)[0]) + sized(b"")
    return head + bytes(17 + 8) + sized(name) + sized(name) + more


def code(public: bytes, certify: bytes, key: Any = AK) -> str:
    try:
        verify_binder_key(public, certify, sign(key, ECDSA, "sha256", certify), check_ak(AK_PUBLIC))
    except PerunError as exc:
        return exc.code
    return ""


def test_a_key_that_the_attestation_key_certified() -> None:
    """ACCEPT."""
    assert code(area(), certified(area())) == ""


@pytest.mark.parametrize("flag", [FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN, SIGN])
def test_a_key_that_somebody_may_have_outside(flag: int) -> None:
    """It was made elsewhere, may leave, or signs nothing."""
    public = area(GOOD & ~flag)
    assert code(public, certified(public)) == "ak_attributes"


@pytest.mark.parametrize("flag", [USER_WITH_AUTH, RESTRICTED, DECRYPT])
def test_a_key_that_works_in_any_state(flag: int) -> None:
    """Its secret alone would do, whatever was booted; or it signs only what a TPM made."""
    public = area(GOOD | flag)
    assert code(public, certified(public)) == "ak_attributes"


def test_a_key_beside_anothers_certificate() -> None:
    """What was certified is a key of the TPM's; what is sent is one of the attacker's."""
    own = area(key=ec.generate_private_key(ec.SECP256R1()))
    assert code(own, certified(area())) == "binder_mismatch"


def test_a_certificate_of_another_attestation_key() -> None:
    """Another TPM certified its own key."""
    assert code(area(), certified(area()), new_key("p256")) == "quote_signature"


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"magic": 0x544347}, "binder_mismatch"),
        ({"kind": QUOTE}, "binder_mismatch"),
        ({"more": b"\0"}, "non_canonical"),
    ],
)
def test_a_structure_that_is_no_certificate(changed: dict[str, Any], wanted: str) -> None:
    """A quote, something that no TPM made, or with more behind it, signed by the attestation key."""
    assert code(area(), certified(area(), **changed)) == wanted


def test_no_part_of_a_certificate_panics() -> None:
    """Every truncation is refused in words."""
    whole = certified(area())
    assert all(code(area(), whole[:size]) in ("non_canonical", "binder_mismatch") for size in range(len(whole)))
    assert ForgedTpm().ak_public != AK_PUBLIC
