"""Attestation keys, EKs and their certificates: K1–K5, K11, K12, K19, Q18, Q21."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from perunml.evidence.tpm.algorithms import ECDSA, RSASSA
from perunml.evidence.tpm.ek import EkIdentity, verify_ek
from perunml.evidence.tpm.keys import check_ak
from perunml.evidence.tpm.template import check_ek_template
from perunml.testing.ca import END, START, DevelopmentCa
from perunml.testing.faults import flip
from perunml.testing.forge import EK_KINDS, ForgedTpm, default_ca
from perunml.testing.structures import AK_ATTRIBUTES, EK_ATTRIBUTES, EK_POLICY, public_area, sized
from perunml.wire.errors import EvidenceRefusal

NOW = int(dt.datetime(2027, 1, 1, tzinfo=dt.UTC).timestamp())


def refused(call: Any, *args: Any, **kwargs: Any) -> list[str]:
    with pytest.raises(EvidenceRefusal) as caught:
        call(*args, **kwargs)
    return [reason.code for reason in caught.value.reasons]


def verified(tpm: ForgedTpm, **changes: Any) -> EkIdentity:
    given = {**tpm.enrolment(), "vendor_roots": [], "simulated_roots": [tpm.ca.root], "now": NOW} | changes
    return verify_ek(
        given["ek_certificate"],
        given["ek_chain"],
        given["ek_public"],
        vendor_roots=given["vendor_roots"],
        simulated_roots=given["simulated_roots"],
        now=given["now"],
    )


# the attestation key


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa", "rsapss"])
def test_an_honest_attestation_key_is_accepted(kind: str) -> None:
    """Q32: its name is its hash and the digest of its public area."""
    tpm = ForgedTpm(ak=kind)
    assert check_ak(tpm.ak_public).name[:2] == b"\x00\x0b"


FLAGS = {
    "fixedTPM": 1 << 1,
    "fixedParent": 1 << 4,
    "sensitiveDataOrigin": 1 << 5,
    "restricted": 1 << 16,
    "sign": 1 << 18,
}


@pytest.mark.parametrize("flag", FLAGS)
def test_k4_an_attestation_key_without_a_flag_is_refused(flag: str) -> None:
    """K4: each flag by itself."""
    with pytest.raises(EvidenceRefusal) as caught:
        check_ak(_ak(AK_ATTRIBUTES & ~FLAGS[flag]))
    assert [(r.code, r.expected) for r in caught.value.reasons] == [("ak_attributes", flag)]


def test_k4_an_attestation_key_that_may_decrypt_is_refused() -> None:
    """K4: sign and decrypt together."""
    assert refused(check_ak, _ak(AK_ATTRIBUTES | 1 << 17)) == ["ak_attributes"]


def test_k4_every_wrong_flag_is_told() -> None:
    """A key with nothing right has a reason for each flag."""
    assert refused(check_ak, _ak(1 << 17)) == ["ak_attributes"] * 6


def test_reserved_attributes_are_refused() -> None:
    """Bits that the specification reserves are zero."""
    assert refused(check_ak, _ak(AK_ATTRIBUTES | 1 << 31)) == ["non_canonical"]


def test_q21_rsa_1024_is_refused() -> None:
    """Q21: a small modulus."""
    key = rsa.generate_private_key(65537, 1024)
    assert refused(check_ak, sized(public_area(key, attributes=AK_ATTRIBUTES, scheme=(RSASSA, "sha256")))) == [
        "weak_scheme"
    ]


@pytest.mark.parametrize("exponent", [1, 2, 3, 65539])
def test_q21_another_exponent_is_refused(exponent: int) -> None:
    """Q21: e is 65537 (0 in a public area stands for it)."""
    key = rsa.generate_private_key(65537, 2048)
    area = public_area(key, attributes=AK_ATTRIBUTES, scheme=(RSASSA, "sha256"), exponent=exponent)
    assert refused(check_ak, sized(area)) == ["weak_scheme"]


def test_a_key_without_a_scheme_of_its_own_is_refused() -> None:
    """Q18: the scheme is the key's, not the quote's to choose."""
    area = public_area(ec.generate_private_key(ec.SECP256R1()), attributes=AK_ATTRIBUTES)
    assert refused(check_ak, sized(area)) == ["weak_scheme"]


def test_a_point_off_its_curve_is_refused() -> None:
    """C9: an invalid curve point."""
    public = ForgedTpm().ak_public
    assert refused(check_ak, public[:-1] + bytes([public[-1] ^ 1])) == ["weak_scheme"]


def _ak(attributes: int) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return sized(public_area(key, attributes=attributes, scheme=(ECDSA, "sha256")))


# the EK and its certificate


@pytest.mark.parametrize("ek", EK_KINDS)
def test_an_honest_ek_is_accepted_and_names_the_machine(ek: str) -> None:
    """K19: every template of the TCG profile; the machine's name is the EK's digest; a simulated root makes it simulated, a vendor's does not."""
    tpm = ForgedTpm(ek=ek)
    assert verified(tpm).machine == tpm.machine
    assert verified(tpm).simulated
    assert not verified(tpm, vendor_roots=[tpm.ca.root], simulated_roots=[]).simulated


def test_k1_a_self_signed_certificate_is_refused() -> None:
    """K1: an EK certificate that vouches for itself."""
    tpm = ForgedTpm()
    own = default_ca().certify(tpm._ek.public_key(), self_signed_by=tpm._ek)  # type: ignore[arg-type]
    assert refused(verified, tpm, ek_certificate=own) == ["ek_chain"]


def test_k2_an_unknown_ca_is_refused() -> None:
    """K2: a CA that the manager was not given, with the same names as one that it was."""
    tpm = ForgedTpm(ca=DevelopmentCa())
    assert refused(verified, tpm, simulated_roots=[DevelopmentCa().root]) == ["ek_chain"]


def test_k2_without_roots_nothing_is_accepted() -> None:
    """No roots given means that no machine is believed, not that all are."""
    assert refused(verified, ForgedTpm(), simulated_roots=[]) == ["ek_chain"]


def test_k2_the_chain_that_the_host_sends_is_no_root() -> None:
    """A host that sends its own root in the chain gains nothing."""
    tpm = ForgedTpm(ca=DevelopmentCa("evil"))
    chain = [*tpm.ca.chain, tpm.ca.root]
    assert refused(verified, tpm, ek_chain=chain, simulated_roots=[default_ca().root]) == ["ek_chain"]


def test_a_missing_intermediate_is_refused() -> None:
    """The chain is complete or it is none; nothing is fetched."""
    assert refused(verified, ForgedTpm(), ek_chain=[]) == ["ek_chain"]


def test_k3_a_certificate_of_another_ek_is_refused() -> None:
    """K3: the certified key is not the one that the credential would be made for."""
    tpm = ForgedTpm()
    assert refused(verified, tpm, ek_public=ForgedTpm().ek_public) == ["ek_mismatch"]


def test_k11_an_expired_certificate_is_refused() -> None:
    """K11: leaf, intermediate and root are looked at."""
    tpm = ForgedTpm()
    past = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert refused(verified, tpm, ek_certificate=tpm.ca.certify(tpm._ek.public_key(), end=past)) == ["ek_expired"]
    assert refused(verified, tpm, now=int((END + dt.timedelta(days=1)).timestamp())) == ["ek_expired"] * 3
    assert refused(verified, tpm, now=int((START - dt.timedelta(days=1)).timestamp())) == ["ek_expired"] * 3


@pytest.mark.parametrize(
    "usage", [None, x509.ObjectIdentifier("2.23.133.8.3"), x509.ObjectIdentifier("1.3.6.1.5.5.7.3.1")]
)
def test_k12_another_extended_key_usage_is_refused(usage: x509.ObjectIdentifier | None) -> None:
    """K12: none, an AK certificate's, a web server's."""
    tpm = ForgedTpm()
    certificate = tpm.ca.certify(tpm._ek.public_key(), usage=usage)
    assert refused(verified, tpm, ek_certificate=certificate) == ["ek_certificate"]


def test_k12_an_unknown_critical_extension_is_refused() -> None:
    """K12: what must be understood and is not."""
    tpm = ForgedTpm()
    certificate = tpm.ca.certify(tpm._ek.public_key(), critical="1.2.3.4")
    assert refused(verified, tpm, ek_certificate=certificate) == ["ek_certificate"]


def test_a_leaf_may_not_issue() -> None:
    """An EK's certificate, signed by another EK's, is refused: a leaf is no CA."""
    ca, key = DevelopmentCa(), ec.generate_private_key(ec.SECP256R1())
    other = ForgedTpm(ca=ca)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "TPM")])
    issued = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "evil")]))
        .issuer_name(name)
        .public_key(other._ek.public_key())
        .serial_number(1)
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.23.133.8.1")]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    chain = [ca.certify(key.public_key()), *ca.chain]
    assert refused(verified, other, ek_certificate=issued, ek_chain=chain) == ["ek_chain"]


def test_certificates_that_issue_one_another_cost_no_time() -> None:
    """D1: eight certificates of one name and key each issue all others; each is looked at once."""
    key = ec.generate_private_key(ec.SECP256R1())
    chain = [default_ca().certify(key.public_key(), self_signed_by=key) for _ in range(8)]
    tpm = ForgedTpm()
    own = default_ca().certify(tpm._ek.public_key(), self_signed_by=key)
    assert refused(verified, tpm, ek_certificate=own, ek_chain=chain) == ["ek_chain"]
    assert refused(verified, tpm, ek_certificate=own, ek_chain=[*chain, *chain]) == ["ek_chain"]


@pytest.mark.parametrize("junk", [b"", b"0", b"-----BEGIN CERTIFICATE-----", bytes(20_000)])
def test_what_is_no_certificate_is_refused(junk: bytes) -> None:
    """D8: junk in place of certificates."""
    tpm = ForgedTpm()
    assert refused(verified, tpm, ek_certificate=junk) == ["non_canonical"]
    assert refused(verified, tpm, ek_chain=[junk]) == ["non_canonical"]


# certificates that may not be what they are used for


@pytest.mark.parametrize("fault", [{"ca": False}, {"ca": None}, {"path_length": 0}, {"may_sign": False}], ids=str)
def test_an_issuer_must_be_allowed_to_issue(fault: dict[str, Any]) -> None:
    """K12: an intermediate that is no CA, may not sign, or is one too many for its root."""
    assert refused(verified, ForgedTpm(ca=DevelopmentCa(**fault))) == ["ek_chain"]


def test_a_chain_just_short_enough_is_accepted() -> None:
    """A root that allows one intermediate, whose own signature is of a weak hash and proves nothing anyway."""
    tpm = ForgedTpm(ca=DevelopmentCa(path_length=1))
    assert verified(tpm).machine == tpm.machine


def test_an_oversized_certificate_is_refused_unread() -> None:
    """D4: a good certificate behind 20 KB of blank lines."""
    tpm = ForgedTpm()
    pem = x509.load_der_x509_certificate(tpm.enrolment()["ek_certificate"]).public_bytes(Encoding.PEM)
    assert verified(tpm, ek_certificate=b"\n" + pem)
    assert refused(verified, tpm, ek_certificate=b"\n" * 20_000 + pem) == ["non_canonical"]


def test_k19_an_ek_with_a_scheme_of_its_own_is_refused() -> None:
    """K19: a storage key has none."""
    key = ec.generate_private_key(ec.SECP256R1())
    area = public_area(key, attributes=EK_ATTRIBUTES, policy=EK_POLICY, storage=True, scheme=(ECDSA, "sha256"))
    assert refused(check_ek_template, sized(area)) == ["ek_template"]


def test_an_issuer_that_is_itself_the_root_needs_no_more() -> None:
    """A manager may be given the issuer: the chain ends at the first certificate that it was given."""
    tpm = ForgedTpm()
    assert verified(tpm, ek_chain=[], simulated_roots=tpm.ca.chain).simulated


def test_a_root_may_be_given_as_pem() -> None:
    """Roots come from files, which are often PEM."""
    tpm = ForgedTpm()
    pem = x509.load_der_x509_certificate(tpm.ca.root).public_bytes(Encoding.PEM)
    assert verified(tpm, simulated_roots=[pem]).machine == tpm.machine


def test_a_cas_certificate_is_no_eks() -> None:
    """K12: a leaf that could itself issue."""
    tpm = ForgedTpm()
    assert refused(verified, tpm, ek_certificate=tpm.ca.certify(tpm._ek.public_key(), ca=True)) == ["ek_certificate"]


def test_a_certificate_of_another_kind_of_key_is_refused() -> None:
    """K3: Ed25519, which no TPM's EK is."""
    tpm = ForgedTpm()
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    assert refused(verified, tpm, ek_certificate=tpm.ca.certify(key)) == ["ek_certificate"]


def test_a_certificate_signed_with_a_weak_hash_is_refused() -> None:
    """K2: SHA-224 is the weakest that can still be made here; SHA-1 does not even verify."""
    tpm = ForgedTpm()
    weak = tpm.ca.certify(tpm._ek.public_key(), signed_with=hashes.SHA224())
    assert refused(verified, tpm, ek_certificate=weak) == ["weak_scheme"]


def test_a_chain_that_is_too_long_is_refused() -> None:
    """D4: bounded before it is looked at."""
    tpm = ForgedTpm()
    assert refused(verified, tpm, ek_chain=tpm.ca.chain * 9) == ["ek_chain"]


def test_a_certificate_whose_extensions_do_not_parse_is_refused() -> None:
    """K12: the same extension twice."""
    tpm = ForgedTpm()
    certificate = tpm.enrolment()["ek_certificate"]
    usage = bytes.fromhex("0603551d25")  # the object identifier of extended key usage
    assert usage in certificate
    broken = certificate.replace(usage, bytes.fromhex("0603551d13"))  # basic constraints a second time
    assert refused(verified, tpm, ek_certificate=broken) == ["non_canonical"]
    assert refused(verified, tpm, ek_chain=[broken]) == ["non_canonical"]


def test_a_certificate_of_a_key_that_is_not_read_is_refused() -> None:
    """K3: a curve that no TPM has."""
    tpm = ForgedTpm()
    der = tpm.enrolment()["ek_certificate"]
    curve, other = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030105")
    assert curve in der
    assert "ek_certificate" in refused(verified, tpm, ek_certificate=der.replace(curve, other))


def test_every_bit_flip_of_a_certificate_is_refused() -> None:
    """K2, D9: none is accepted, and none makes another exception than a coded one. (The count of unused bits in the
    signature's BIT STRING is left out: it is no part of what is signed, and the library overlooks it.)"""
    tpm = ForgedTpm()
    enrolment = tpm.enrolment()
    for name, der in (("ek_certificate", enrolment["ek_certificate"]), ("ek_chain", enrolment["ek_chain"][0])):
        unused = len(der) - len(x509.load_der_x509_certificate(der).signature) - 1
        for bit in range(len(der) * 8):
            if bit // 8 != unused:
                changed = flip(der, bit)
                assert refused(verified, tpm, **{name: changed if name == "ek_certificate" else [changed]})


def test_k4_a_signing_key_with_symmetric_parameters_is_refused() -> None:
    """K4: only parents and EKs have them."""
    key = ec.generate_private_key(ec.SECP256R1())
    area = public_area(key, attributes=AK_ATTRIBUTES, scheme=(ECDSA, "sha256"), storage=True)
    assert refused(check_ak, sized(area)) == ["ak_attributes"]


@pytest.mark.parametrize("scheme", [0x001A, 0x001C, 0x0014, 0x0016, 0x0019])
def test_q18_a_key_of_another_scheme_is_refused(scheme: int) -> None:
    """Q18: ECDAA, Schnorr, an RSA scheme or ECDH on an ECC key."""
    area = public_area(ec.generate_private_key(ec.SECP256R1()), attributes=AK_ATTRIBUTES, scheme=(scheme, "sha256"))
    assert refused(check_ak, sized(area)) == ["weak_scheme"]
