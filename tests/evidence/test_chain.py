"""Chains of TPMs' certificates: known roots, kinds of TPM, revocation, clouds' attestation keys: K1, K2, K11, K12, K13,
K15, K17."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import threading
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.judging import BINDING, NOW, codes, judged, policy_of
from perunml.evidence.judge import judge
from perunml.evidence.rules import TpmRules
from perunml.evidence.tpm.certificate import parse_certificate
from perunml.evidence.tpm.chain import MAX_CHAIN, Trust
from perunml.evidence.tpm.cloud import AK_USAGE, GCE_INSTANCE, CloudInstance, verify_ak_certificate
from perunml.evidence.tpm.crl import MAX_CRLS, MAX_GIVEN, parse_crl
from perunml.evidence.tpm.ek import EkIdentity, verify_ek
from perunml.evidence.tpm.public import parse_public
from perunml.evidence.tpm.roots import DISCRETE, FIRMWARE, KNOWN_ROOTS, MIXED, VIRTUAL, Root
from perunml.testing.ca import END, START, DevelopmentCa
from perunml.testing.faults import flip
from perunml.testing.forge import ForgedTpm, default_ca
from perunml.wire.errors import EvidenceRefusal

DAY = dt.timedelta(days=1)
AT = dt.datetime.fromtimestamp(NOW, dt.UTC)
INFINEON = ("id:49465800", "SLB 9672", "id:0F0A")


def refused(call: Any, *args: Any, **kwargs: Any) -> list[str]:
    with pytest.raises(EvidenceRefusal) as caught:
        call(*args, **kwargs)
    return [reason.code for reason in caught.value.reasons]


def known(ca: DevelopmentCa, kind: str, vendor: str = "Acme") -> Trust:
    """Trust in the CA's root by its fingerprint, as if it were a vendor's."""
    return Trust(known={parse_certificate(ca.root).fingerprint: Root(vendor, f"{vendor} root", kind)})


def verified(tpm: ForgedTpm, trust: Trust, **changes: Any) -> EkIdentity:
    given = {**tpm.enrolment(), "revocations": [], "now": NOW} | changes
    return verify_ek(
        given["ek_certificate"],
        given["ek_chain"],
        given["ek_public"],
        now=given["now"],
        trust=trust,
        revocations=given["revocations"],
    )


# roots known by fingerprint


def test_k2_a_root_that_the_host_sends_is_believed_for_its_fingerprint_alone() -> None:
    """K2: the very certificate of the table; another one of the same name and another key is not."""
    tpm, impostor = ForgedTpm(ca=DevelopmentCa("Acme")), ForgedTpm(ca=DevelopmentCa("Acme"))
    trust = known(tpm.ca, DISCRETE)
    found = verified(tpm, trust, ek_chain=[*tpm.ca.chain, tpm.ca.root])
    assert (found.vendor, found.kind, found.simulated, found.machine) == ("Acme", DISCRETE, False, tpm.machine)
    assert refused(verified, tpm, trust) == ["ek_chain"]
    assert refused(verified, impostor, trust, ek_chain=[*impostor.ca.chain, impostor.ca.root]) == ["ek_chain"]
    mixed = [*impostor.ca.chain, impostor.ca.root, *tpm.ca.chain, tpm.ca.root]
    assert refused(verified, impostor, trust, ek_chain=mixed) == ["ek_chain"]


def test_the_table_holds_fingerprints_of_vendors_and_no_test_roots() -> None:
    """Invariant 7: 64 hex digits each, of a vendor's name and a kind; nothing in it is simulated."""
    assert len(KNOWN_ROOTS) > 50
    for fingerprint, root in KNOWN_ROOTS.items():
        assert bytes.fromhex(fingerprint).hex() == fingerprint
        assert len(fingerprint) == 64
        assert root.vendor
        assert root.kind in (DISCRETE, FIRMWARE, VIRTUAL, MIXED)
    vendors = {root.vendor for root in KNOWN_ROOTS.values()}
    assert {"Infineon", "STMicroelectronics", "Nuvoton", "Nationz", "NSING", "Intel", "AMD"} <= vendors
    assert {"Microsoft", "Microsoft Azure", "Google Cloud", "Alibaba Cloud"} <= vendors


def test_a_simulated_root_stays_simulated_though_a_vendors_roots_hold_it_too() -> None:
    """The lesser wins: a development CA named as both gives simulated machines."""
    ca = default_ca()
    found = verified(ForgedTpm(), replace(known(ca, DISCRETE), vendor=(ca.root,), simulated=(ca.root,)))
    assert found.simulated
    assert found.kind == "simulated"


def test_an_operators_root_that_the_table_knows_has_its_kind_and_another_one_none() -> None:
    """A manager's operator adds a root: whose it is, the table tells; else it is of no known kind."""
    tpm = ForgedTpm()
    found = verified(tpm, replace(known(tpm.ca, DISCRETE), vendor=(tpm.ca.root,)))
    assert (found.vendor, found.kind) == ("Acme", DISCRETE)
    assert verified(tpm, Trust(vendor=(tpm.ca.root,))).kind == "unknown"


# what the certificate tells


@pytest.mark.parametrize(
    ("told", "kind"),
    [("id:49465800", "discrete"), ("id:494E5443", "firmware"), ("id:4d534654", "unknown"), ("id:FFFFFFFF", "unknown")],
)
def test_a_mixed_roots_tpms_are_of_their_manufacturers_kind(told: str, kind: str) -> None:
    """A root that certifies several makers: the certificate's manufacturer decides, an unknown one is of no kind."""
    tpm = ForgedTpm()
    certificate = tpm.ca.certify(tpm._ek.public_key(), tpm=(told, "x", "y"))
    chain = [*tpm.ca.chain, tpm.ca.root]
    assert verified(tpm, known(tpm.ca, MIXED), ek_certificate=certificate, ek_chain=chain).kind == kind
    assert verified(tpm, known(tpm.ca, FIRMWARE), ek_certificate=certificate, ek_chain=chain).kind == "firmware"


def test_manufacturer_model_and_version_become_claims() -> None:
    """The alternative name's TCG attributes, critical, beside an empty subject's place."""
    tpm = ForgedTpm()
    certificate = tpm.ca.certify(tpm._ek.public_key(), tpm=INFINEON)
    claims = verified(tpm, Trust(simulated=(tpm.ca.root,)), ek_certificate=certificate).claims()
    assert claims["manufacturer"] == "Infineon"
    assert claims["model"] == "SLB 9672"
    assert claims["version"] == "id:0F0A"
    assert claims["kind"] == "simulated"


@pytest.mark.parametrize("kind", ["firmware", "virtual", "simulated", "unknown", ""])
def test_k13_a_tpm_that_is_no_chip_is_refused_where_a_discrete_one_is_asked_for(kind: str) -> None:
    """K13: by the kind that enrolment recorded; a machine enrolled before kinds were kept has none."""
    tpm = ForgedTpm()
    baseline = replace(tpm.baseline(), tpm=TpmRules(discrete=True))
    machine = replace(tpm.enrolled(), tpm={"kind": kind} if kind else {})
    found = judge(tpm.bundle(BINDING), machine=machine, policy=policy_of(baseline), binding=BINDING, now=NOW)
    assert codes(found) == ["tpm_kind"]


def test_k13_a_discrete_tpm_is_accepted_and_the_verdict_tells_which() -> None:
    """K13: a chip of its own, and claims of vendor and model."""
    tpm = ForgedTpm()
    baseline = replace(tpm.baseline(), tpm=TpmRules(discrete=True))
    machine = replace(tpm.enrolled(), tpm={"kind": "discrete", "vendor": "Infineon"})
    found = judge(tpm.bundle(BINDING), machine=machine, policy=policy_of(baseline), binding=BINDING, now=NOW)
    assert codes(found) == []
    assert found.appraisal.claims["tpm"] == {"kind": "discrete", "vendor": "Infineon"}
    assert codes(judged(tpm, tpm.bundle(BINDING))) == []  # nothing is asked


# usages


def test_k12_a_certificate_for_signing_is_no_eks() -> None:
    """K12: a cloud certifies attestation keys with the EKs' extended key usage."""
    tpm = ForgedTpm()
    certificate = tpm.ca.certify(tpm._ek.public_key(), signing=True)
    assert refused(verified, tpm, Trust(simulated=(tpm.ca.root,)), ek_certificate=certificate) == ["ek_certificate"]
    certificate = tpm.ca.certify(tpm._ek.public_key(), signing=False)
    assert verified(tpm, Trust(simulated=(tpm.ca.root,)), ek_certificate=certificate)


def test_k12_a_missing_extended_usage_is_excused_only_where_the_certificate_names_a_tpm() -> None:
    """K12: and is for encryption; a certificate that says neither is refused."""
    tpm, trust = ForgedTpm(), Trust(simulated=(default_ca().root,))
    key = tpm._ek.public_key()
    good = tpm.ca.certify(key, usage=None, tpm=INFINEON, signing=False)
    assert verified(tpm, trust, ek_certificate=good).manufacturer == "Infineon"
    for bad in (
        tpm.ca.certify(key, usage=None, signing=False),
        tpm.ca.certify(key, usage=None, tpm=INFINEON),
        tpm.ca.certify(key, usage=None, tpm=("", "", ""), signing=False),
    ):
        assert refused(verified, tpm, trust, ek_certificate=bad) == ["ek_certificate"]


def _issuer(ca: DevelopmentCa, **changes: Any) -> tuple[bytes, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]:
    """Another intermediate under the CA's root."""
    key = changes.pop("key", None) or ec.generate_private_key(ec.SECP256R1())
    usages = changes.pop("usages", None)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another issuer")]))
        .issuer_name(x509.load_der_x509_certificate(ca.root).subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if usages:
        usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier(oid) for oid in usages])
        builder = builder.add_extension(usage, critical=False)
    return builder.sign(ca._root_key, hashes.SHA256()).public_bytes(Encoding.DER), key


def _under(issuer: bytes, signer: Any, key: Any, extension: x509.ExtensionType | None = None) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.load_der_x509_certificate(issuer).subject)
        .public_key(key)
        .serial_number(9)
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.23.133.8.1")]), critical=False)
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(("usages", "good"), [(["2.23.133.8.1"], True), (["2.23.133.8.3"], False), (None, True)])
def test_k12_an_issuer_that_is_limited_to_another_use_issues_no_eks(usages: list[str] | None, good: bool) -> None:
    """K12: an issuer of attestation keys' certificates vouches for no EK."""
    ca, tpm = DevelopmentCa(), ForgedTpm()
    issuer, signer = _issuer(ca, usages=usages)
    certificate = _under(issuer, signer, tpm._ek.public_key())
    trust = Trust(simulated=(ca.root,))
    if good:
        assert verified(tpm, trust, ek_certificate=certificate, ek_chain=[issuer]).machine == tpm.machine
    else:
        assert refused(verified, tpm, trust, ek_certificate=certificate, ek_chain=[issuer]) == ["ek_chain"]


def test_an_issuer_with_a_small_key_is_refused() -> None:
    """K2: RSA-1024 signs nothing that is believed."""
    ca, tpm = DevelopmentCa(), ForgedTpm()
    issuer, signer = _issuer(ca, key=rsa.generate_private_key(65537, 1024))
    certificate = _under(issuer, signer, tpm._ek.public_key())
    trust = Trust(simulated=(ca.root,))
    assert refused(verified, tpm, trust, ek_certificate=certificate, ek_chain=[issuer]) == ["weak_scheme"]


def test_k15_no_address_in_a_certificate_is_ever_asked() -> None:
    """K15: issuer, OCSP and revocation addresses at a listener of ours; it sees nobody, accepted or refused."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    seen: list[object] = []

    def accept() -> None:
        with contextlib.suppress(TimeoutError):
            seen.append(listener.accept())

    url = f"http://127.0.0.1:{listener.getsockname()[1]}/ca.crt"
    where = x509.UniformResourceIdentifier(url)
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, where),
            x509.AccessDescription(
                AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("file:///etc/passwd")
            ),
        ]
    )
    points = x509.CRLDistributionPoints([x509.DistributionPoint([where], None, None, None)])
    ca, tpm = DevelopmentCa(), ForgedTpm()
    issuer, signer = _issuer(ca)
    thread = threading.Thread(target=accept)
    thread.start()
    for extension in (access, points):
        certificate = _under(issuer, signer, tpm._ek.public_key(), extension)
        for demand in (False, True):
            trust = Trust(simulated=(ca.root,), demand=demand)
            assert refused(verified, tpm, trust, ek_certificate=certificate, ek_chain=[])[0] == "ek_chain"
        assert verified(tpm, Trust(simulated=(ca.root,)), ek_certificate=certificate, ek_chain=[issuer])
    thread.join()
    listener.close()
    assert seen == []


# revocation


def test_k11_a_revoked_certificate_is_refused() -> None:
    """K11: leaf or intermediate, by a list of the host's or of the operator's."""
    tpm = ForgedTpm()
    certificate = tpm.ca.certify(tpm._ek.public_key(), serial=4711)
    by_issuer, by_root = tpm.ca.revocations([1, 4711]), tpm.ca.revocations([tpm.ca.issuer_serial], by_root=True)
    trust = Trust(simulated=(tpm.ca.root,))
    for lists in (by_issuer, by_root):
        assert refused(verified, tpm, trust, ek_certificate=certificate, revocations=[lists]) == ["ek_revoked"]
        assert refused(verified, tpm, replace(trust, revocations=(lists,)), ek_certificate=certificate) == [
            "ek_revoked"
        ]
    assert verified(tpm, trust, ek_certificate=certificate, revocations=[tpm.ca.revocations([1])])


def test_k11_where_lists_are_demanded_each_issuer_needs_one_in_force() -> None:
    """K11: none, one issuer's alone, an old one, a future one, another key's: refused; both in force: accepted."""
    tpm = ForgedTpm()
    trust = Trust(simulated=(tpm.ca.root,), demand=True)
    good = [tpm.ca.revocations(), tpm.ca.revocations(by_root=True)]
    assert verified(tpm, trust, revocations=good).machine == tpm.machine
    assert refused(verified, tpm, trust) == ["ek_revocation_unknown"] * 2
    for bad in (
        tpm.ca.revocations(until=AT - DAY),
        tpm.ca.revocations(since=AT + DAY),
        tpm.ca.revocations(forged=True),
        tpm.ca.revocations(partial=True),
        tpm.ca.revocations(weak=True),
        DevelopmentCa().revocations(),
    ):
        assert refused(verified, tpm, trust, revocations=[bad, good[1]]) == ["ek_revocation_unknown"]


def test_k11_an_old_list_still_revokes_and_a_forged_one_does_not() -> None:
    """K11: what was revoked stays so; another one's list is worth nothing, either way."""
    tpm = ForgedTpm()
    certificate = tpm.ca.certify(tpm._ek.public_key(), serial=4711)
    trust = Trust(simulated=(tpm.ca.root,))
    old, forged = tpm.ca.revocations([4711], until=AT - DAY), tpm.ca.revocations([4711], forged=True)
    assert refused(verified, tpm, trust, ek_certificate=certificate, revocations=[old]) == ["ek_revoked"]
    assert verified(tpm, trust, ek_certificate=certificate, revocations=[forged])


def test_k11_an_issuer_that_may_not_sign_lists_says_nothing_about_revocation() -> None:
    """K11: its list neither revokes nor vouches."""
    ca = DevelopmentCa(may_revoke=False)
    tpm = ForgedTpm(ca=ca)
    certificate = ca.certify(tpm._ek.public_key(), serial=4711)
    trust, lists = Trust(simulated=(ca.root,)), [ca.revocations([4711]), ca.revocations(by_root=True)]
    assert verified(tpm, trust, ek_certificate=certificate, revocations=lists)
    demanding = replace(trust, demand=True)
    found = refused(verified, tpm, demanding, ek_certificate=certificate, revocations=lists)
    assert found == ["ek_revocation_unknown"]


def test_k2_an_issuer_of_another_name_with_the_same_key_is_not_the_issuer() -> None:
    """K2: names and keys both lead upwards."""
    ca, tpm = DevelopmentCa(), ForgedTpm()
    key = ec.generate_private_key(ec.SECP256R1())
    issuer, _ = _issuer(ca, key=key)
    other = x509.load_der_x509_certificate(ca.certify(key.public_key(), ca=True, usage=None, subject="somebody else"))
    certificate = _under(other.public_bytes(Encoding.DER), key, tpm._ek.public_key())
    trust = Trust(simulated=(ca.root,))
    assert refused(verified, tpm, trust, ek_certificate=certificate, ek_chain=[issuer]) == ["ek_chain"]


def test_d4_a_revocation_list_past_the_bound_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """D4: a good one, of more bytes than are read."""
    good = default_ca().revocations([1])
    monkeypatch.setattr("perunml.evidence.tpm.crl.MAX_CRL", len(good) - 1)
    parse_crl.cache_clear()
    assert refused(parse_crl, good) == ["non_canonical"]
    parse_crl.cache_clear()


def test_two_signature_algorithms_are_refused() -> None:
    """K2: the one outside, which is not signed, says what the one inside says."""
    good = default_ca().chain[0]
    inner, outer = (
        good.find(b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03"),
        good.rfind(b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03"),
    )
    assert 0 < inner < outer
    changed = bytearray(good)
    changed[outer + 9] ^= 1
    assert refused(parse_certificate, bytes(changed)) == ["non_canonical"]


@pytest.mark.parametrize("junk", [b"", b"0", bytes(1000)])
def test_junk_instead_of_a_revocation_list_is_refused(junk: bytes) -> None:
    """D8: and so are more of them than a host can need."""
    tpm, trust = ForgedTpm(), Trust(simulated=(default_ca().root,))
    assert refused(verified, tpm, trust, revocations=[junk]) == ["non_canonical"]
    many = [tpm.ca.revocations()] * (MAX_CRLS + 1)
    assert refused(verified, tpm, trust, revocations=many) == ["ek_chain"]
    assert refused(verified, tpm, trust, revocations=[bytes(MAX_GIVEN // 2 + 1)] * 2) == ["ek_chain"]


def test_every_truncation_and_bit_flip_of_a_revocation_list_is_refused_or_not_the_issuers() -> None:
    """D8: no other exception; a flipped list never makes a good one."""
    ca = default_ca()
    good, issuer = ca.revocations([5]), parse_certificate(ca.chain[0])
    assert parse_crl(good).by(issuer)
    for size in range(len(good)):
        with pytest.raises(EvidenceRefusal):
            parse_crl(good[:size])
    for bit in range(0, len(good) * 8, 3):
        with contextlib.suppress(EvidenceRefusal):
            assert not parse_crl(flip(good, bit)).by(issuer)


# certificates' form


def test_padding_after_a_certificate_is_let_pass_and_other_bytes_are_not() -> None:
    """NV indices are longer than what they hold: zeros or ones follow; anything else does not belong there."""
    tpm = ForgedTpm()
    certificate = tpm.enrolment()["ek_certificate"]
    trust = Trust(simulated=(tpm.ca.root,))
    for padding in (b"\0", b"\xff" * 500, b"\n", b"\r\n"):
        assert verified(tpm, trust, ek_certificate=certificate + padding)
        assert parse_certificate(certificate + padding).raw == certificate
    for junk in (b"x", b"\0\xff", b"\0x", certificate):
        assert refused(verified, tpm, trust, ek_certificate=certificate + junk) == ["non_canonical"]


def test_every_bit_flip_of_a_certificate_is_refused() -> None:
    """K2: nothing in it is outside of its signature but the padding."""
    tpm = ForgedTpm()
    certificate, trust = tpm.enrolment()["ek_certificate"], Trust(simulated=(tpm.ca.root,))
    for bit in range(len(certificate) * 8):
        assert refused(verified, tpm, trust, ek_certificate=flip(certificate, bit))


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_junk_in_a_certificate_never_crashes(data: st.DataObject) -> None:
    """D8: a piece of it replaced by anything."""
    sample = data.draw(st.sampled_from([default_ca().root, *default_ca().chain, SAMPLE]))
    start, piece = data.draw(st.integers(0, len(sample))), data.draw(st.binary(max_size=40))
    for junk in (piece, sample[:start] + piece, sample[:start] + piece + sample[start + len(piece) :]):
        with contextlib.suppress(EvidenceRefusal):
            parse_certificate(junk)


SAMPLE = default_ca().certify(ec.generate_private_key(ec.SECP256R1()).public_key(), tpm=INFINEON, signing=False)


def test_a_chain_of_too_many_certificates_is_refused_unread() -> None:
    """D1: more than any vendor's."""
    tpm = ForgedTpm()
    chain = [b"junk"] * (MAX_CHAIN + 1)
    assert refused(verified, tpm, Trust(simulated=(tpm.ca.root,)), ek_chain=chain) == ["ek_chain"]


# attestation keys' certificates of clouds (K17)

_GCE = bytes.fromhex("0c017a" + "020105" + "0c0170" + "02022b67")
GCE_EXTENSION = bytes([0x30, len(_GCE)]) + _GCE
"""Zone z, project p, instance 11111."""


def cloud(tpm: ForgedTpm, **changes: Any) -> CloudInstance:
    how = {"kind": VIRTUAL, "expected": "", "key": None, "subject": "TPM", "usage": None, "signing": True} | changes
    vendor = how.get("vendor", "Google Cloud" if how["subject"] == "TPM" else "Microsoft Azure")
    extension = (GCE_INSTANCE, GCE_EXTENSION) if how["subject"] == "TPM" else None
    usage = x509.ObjectIdentifier(how["usage"]) if how["usage"] else None
    certificate = tpm.ca.certify(
        how["key"] or tpm._ak.public_key(),
        usage=usage,
        extension=extension,
        signing=how["signing"],
        subject=how["subject"],
    )
    return verify_ak_certificate(
        certificate,
        [*tpm.ca.chain, tpm.ca.root],
        parse_public(tpm.ak_public),
        trust=known(tpm.ca, how["kind"], vendor),
        now=NOW,
        expected=how["expected"],
    )


def test_k17_an_attestation_keys_certificate_names_its_instance() -> None:
    """K17: Google's by an extension, Azure's by its subject."""
    tpm = ForgedTpm()
    assert cloud(tpm).name == cloud(tpm, expected="gce:p/z/11111").name == "gce:p/z/11111"
    azure = {"subject": "66f962d2e762.ConfidentialVM.Azure.windows.net", "usage": AK_USAGE}
    assert cloud(tpm, **azure).name == "azure:66f962d2e762"


@pytest.mark.parametrize(
    "fault",
    [
        {"expected": "gce:p/z/22222"},
        {"expected": "azure:11111"},
        {"key": ec.generate_private_key(ec.SECP256R1()).public_key()},
        {"signing": False},
        {"kind": DISCRETE},
        {"vendor": "Alibaba Cloud"},
        {"vendor": "Microsoft Azure"},
        {"vendor": "Google Cloud", "subject": "66f962d2e762.ConfidentialVM.Azure.windows.net", "usage": AK_USAGE},
        {"subject": "web.example.org"},
        {"subject": "66f962d2e762.ConfidentialVM.Azure.windows.net"},
        {"subject": "x.y.ConfidentialVM.Azure.windows.net", "usage": AK_USAGE},
    ],
    ids=[
        "other instance",
        "other cloud",
        "other key",
        "not signing",
        "no cloud",
        "some cloud's root",
        "another cloud's root",
        "the other way round",
        "no instance",
        "no usage",
        "subdomain",
    ],
)
def test_k17_a_certificate_of_another_instance_or_key_is_refused(fault: dict[str, Any]) -> None:
    """K17: each way in which it is not this machine's."""
    assert "ak_certificate" in refused(cloud, ForgedTpm(), **fault)


def test_k17_an_unknown_clouds_certificate_is_refused() -> None:
    """K17: the chain ends at a root that is known."""
    tpm = ForgedTpm()
    certificate = tpm.ca.certify(
        tpm._ak.public_key(), usage=None, extension=(GCE_INSTANCE, GCE_EXTENSION), signing=True
    )
    ak = parse_public(tpm.ak_public)
    assert refused(verify_ak_certificate, certificate, tpm.ca.chain, ak, trust=Trust(), now=NOW) == ["ek_chain"]
