"""EKs of the TCG's templates, and credentials that only their TPMs open: K5, K19."""

from __future__ import annotations

import hashlib
import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from evidence.test_keys import refused
from perunml.evidence.tpm.algorithms import ECDSA
from perunml.evidence.tpm.credential import make_credential
from perunml.evidence.tpm.keys import check_ak
from perunml.evidence.tpm.template import POLICY_A_SHA256, POLICY_B, check_ek_template
from perunml.testing.forge import EK_KINDS, ForgedTpm, new_key
from perunml.testing.structures import AK_ATTRIBUTES, EK_ATTRIBUTES, EK_POLICY, public_area, sized


@pytest.mark.parametrize("policy", [bytes(32), b""])
def test_k19_another_policy_is_refused(policy: bytes) -> None:
    """K19: an EK whose policy is not the endorsement hierarchy's own could be used by anyone."""
    area = public_area(ec.generate_private_key(ec.SECP256R1()), attributes=EK_ATTRIBUTES, policy=policy, storage=True)
    assert refused(check_ek_template, sized(area)) == ["ek_template"]


@pytest.mark.parametrize("bit", [1, 4, 5, 7, 16, 17, 18])
def test_k19_other_attributes_are_refused(bit: int) -> None:
    """K19: each attribute that the template fixes."""
    area = public_area(
        ec.generate_private_key(ec.SECP256R1()), attributes=EK_ATTRIBUTES ^ 1 << bit, policy=EK_POLICY, storage=True
    )
    assert refused(check_ek_template, sized(area)) == ["ek_template"]


@pytest.mark.parametrize(
    ("ek", "name_hash", "aes"), [("p384", "sha256", 128), ("p256", "sha384", 256), ("p521", "sha384", 256)]
)
def test_k19_parameters_of_another_template_are_refused(ek: str, name_hash: str, aes: int) -> None:
    """K19: key, name hash and AES belong together."""
    area = public_area(
        new_key(ek), attributes=EK_ATTRIBUTES, policy=bytes(48 if name_hash == "sha384" else 32), storage=True,
        aes=aes, name_hash=name_hash,
    )  # fmt: skip
    assert refused(check_ek_template, sized(area)) == ["ek_template"]


@pytest.mark.parametrize("hash_name", ["sha256", "sha384", "sha512"])
def test_k19_the_templates_policies_are_what_the_profile_computes(hash_name: str) -> None:
    """K19: policy A is PolicySecret(endorsement), B is PolicyOR of it and PolicyAuthorizeNV of the policy index."""

    def extend(policy: bytes, *parts: bytes) -> bytes:
        return hashlib.new(hash_name, policy + b"".join(parts)).digest()

    size = len(hashlib.new(hash_name).digest())
    number = {"sha256": 1, "sha384": 2, "sha512": 3}[hash_name]
    algorithm = (0x000A + number).to_bytes(2)
    policy_a = extend(extend(bytes(size), (0x151).to_bytes(4), (0x4000000B).to_bytes(4)))
    index = (0x01C07F00 + number).to_bytes(4) + algorithm + (0x220F1008).to_bytes(4)
    index += sized(policy_a) + (size + 2).to_bytes(2)
    policy_c = extend(bytes(size), (0x192).to_bytes(4), algorithm, hashlib.new(hash_name, index).digest())
    assert POLICY_B[hash_name] == extend(bytes(size), (0x171).to_bytes(4), policy_a, policy_c)
    if hash_name == "sha256":
        assert policy_a == POLICY_A_SHA256 == EK_POLICY


def test_q18_an_attestation_key_on_p521_is_refused() -> None:
    """Q18: the curve is for EKs alone."""
    area = public_area(new_key("p521"), attributes=AK_ATTRIBUTES, scheme=(ECDSA, "sha512"))
    assert refused(check_ak, sized(area)) == ["weak_scheme"]


def test_k19_a_signing_key_is_no_ek() -> None:
    """An attestation key offered as an EK."""
    assert refused(check_ek_template, ForgedTpm().ak_public) == ["ek_template"]


# credentials


@pytest.mark.parametrize("ek", EK_KINDS)
def test_a_credential_opens_for_its_machine_alone(ek: str) -> None:
    """K5: the TPM with this EK and this key tells the secret; one with another key or EK does not."""
    tpm, other = ForgedTpm(ek=ek), ForgedTpm(ek=ek)
    secret = secrets.token_bytes(32)
    name = check_ak(tpm.ak_public).name
    assert tpm.activate(*make_credential(tpm.ek_public, name, secret)) == secret
    with pytest.raises(ValueError, match="INTEGRITY"):
        tpm.activate(*make_credential(tpm.ek_public, check_ak(other.ak_public).name, secret))
    with pytest.raises(ValueError, match=r".*"):
        other.activate(*make_credential(tpm.ek_public, name, secret))


def test_credentials_differ_each_time() -> None:
    """The seed is fresh, so nothing about a secret shows in two credentials for it."""
    tpm = ForgedTpm()
    name = check_ak(tpm.ak_public).name
    first, second = (make_credential(tpm.ek_public, name, b"x" * 32) for _ in range(2))
    assert first[0] != second[0]
    assert first[1] != second[1]


@pytest.mark.parametrize("size", [0, 33])
def test_a_secret_of_a_wrong_size_is_a_callers_bug(size: int) -> None:
    """A credential holds 1 to 32 bytes."""
    tpm = ForgedTpm()
    with pytest.raises(ValueError, match="32"):
        make_credential(tpm.ek_public, check_ak(tpm.ak_public).name, bytes(size))


def test_k19_no_credential_is_made_for_a_non_standard_ek() -> None:
    """K19: the check stands before the credential, not only at the certificate."""
    assert refused(make_credential, ForgedTpm().ak_public, b"\0\x0b" + bytes(32), b"x") == ["ek_template"]
