"""Real certificates of TPM vendors: each one is read, or refused for a reason that is written here."""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Iterator
from functools import cache

import pytest
from cryptography import x509

from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.tpm.certificate import Certificate, parse_certificate, verify_signed
from perunml.evidence.tpm.chain import Trust, find_path, path_reasons
from perunml.evidence.tpm.ek import EK_USAGE, verify_ek_certificate
from perunml.evidence.tpm.names import readable, same_name
from perunml.evidence.tpm.roots import KNOWN_ROOTS
from perunml.wire.errors import EvidenceRefusal, PerunError

pytestmark = needs_vectors

EK = FOLDER / "tpm-ek"
NOW = 1_793_000_000
"""2026-10-26."""
ATTRIBUTE_CERTIFICATES = {
    f"google__go-attestation/{name}.cer"
    for name in (
        *("Intel_nuc1", "Intel_nuc_pc", "Intel_nuc_pc2", "Intel_pc1", "Intel_pc2", "Intel_pc3", "Intel_pc4"),
        *("Intel_pc5", "lenovo", "plat_cert1", "plat_cert2", "plat_cert3"),
    )
}
"""Platform certificates: attribute certificates (RFC 5755), which certify no key."""
LEAVES = {
    # file: (vendor, kind, manufacturer, model), or why it is refused as an EK's certificate
    "google_go_tpm_tools_uca_tpm_ecc_enc_cert_pem_9fdd7997.der": ("Google Cloud", "virtual", "Google", "vTPM"),
    "google_go_tpm_tools_uca_tpm_rsa_enc_cert_pem_af614aee.der": ("Google Cloud", "virtual", "Google", "vTPM"),
    "google_go_tpm_tools_uca_tpm_ecc_sign_cert_pem_9c49baf0.der": "signing key",
    "google_go_tpm_tools_uca_tpm_rsa_sign_cert_pem_d2ec0b0a.der": "signing key",
    "immune_gmbh_guard_oss_apisrv_pkg_check_inteltsc_test_go_e54a9d6e.der": (
        *("Infineon", "discrete", "Infineon", "SLB 9665"),
    ),
    "keylime_keylime_test_test_cert_utils_py_73ffb9ae.der": (
        *("STMicroelectronics", "discrete", "STMicroelectronics", "ST33HTPHAHB4"),
    ),
    "keylime_keylime_test_test_cert_utils_py_85f38843.der": (
        *("STMicroelectronics", "discrete", "STMicroelectronics", "ST33HTPHAHB4"),
    ),
    "keylime_keylime_test_test_registrar_agent_cert_compliance_py_933cdb17.der": (
        *("Nuvoton", "discrete", "Nuvoton", "NPCT75x"),
    ),
    "keylime_test_cert_utils_nuvoton.der": "a CA's",
    # attestation keys of clouds (K17): certified for signing, and two of their issuers are not in the folder
    "openpcc_openpcc_attestation_attest_testdata_azure_ak_certificates_txt_26e261ab.der": "not certified for use as an EK",
    "openpcc_openpcc_attestation_attest_testdata_azure_ak_certificates_txt_2f0e27c7.der": "not certified for use as an EK",
    "openpcc_openpcc_attestation_attest_testdata_gce_ak_certificates_txt_81153acf.der": "not certified for use as an EK",
}
ORPHANS = {
    # issuers that lead to no root of the table, and why
    "CN=EK CA": "a test CA of IBM's",
    "CN=EK EC CA": "a test CA of IBM's",
}


def blobs() -> Iterator[tuple[str, bytes]]:
    """(file, DER) of every certificate in the folder."""
    for path in sorted(EK.rglob("*")):
        if not path.is_file() or path.suffix in (".json", ".yaml") or path.name == "LICENSE":
            continue
        data = path.read_bytes()
        found = re.findall(rb"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----(.*?)-----END", data, re.S)
        for der in map(base64.b64decode, found) if found else [data]:
            yield str(path.relative_to(EK)), der


@cache
def corpus() -> tuple[tuple[str, Certificate], ...]:
    found: dict[bytes, tuple[str, Certificate]] = {}
    for name, der in blobs():
        if name not in ATTRIBUTE_CERTIFICATES:
            certificate = parse_certificate(der)
            found.setdefault(certificate.raw, (name, certificate))
    return tuple(found.values())


def ancestors(leaf: Certificate) -> list[bytes]:
    """What a host would send along: the issuers, up to eight."""
    found: list[bytes] = []
    current = leaf
    while len(found) < 8 and current.issuer != current.subject:
        issuers = [
            other
            for _, other in corpus()
            if other != current
            and same_name(other.subject, current.issuer)
            and verify_signed(current.algorithm, current.signature, current.tbs, other.key())
        ]
        if not issuers:
            break
        current = issuers[0]
        found.append(current.raw)
    return found


def test_every_certificate_of_the_folder_is_read_or_refused_for_a_written_reason() -> None:
    """Every file: read, with a key that can be used; or one of the attribute certificates."""
    count = 0
    for name, der in blobs():
        count += 1
        if name in ATTRIBUTE_CERTIFICATES:
            with pytest.raises(EvidenceRefusal, match="attribute certificate"):
                parse_certificate(der)
        else:
            assert parse_certificate(der).key() is not None, name
    assert count > 240
    assert len(corpus()) > 230


def test_what_a_library_reads_too_says_the_same() -> None:
    """Names, times, serial, constraints, usages, key and extensions, by another reader; it refuses some of ours whole."""
    compared = 0
    for name, ours in corpus():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                theirs = x509.load_der_x509_certificate(ours.raw)
                extensions = {e.oid.dotted_string: e for e in theirs.extensions}
                serial = theirs.serial_number
            except ValueError:
                continue
            assert theirs.public_key() == ours.key(), name
        compared += 1
        assert int.from_bytes(ours.serial) == serial
        assert ours.not_before == int(theirs.not_valid_before_utc.timestamp())
        assert ours.not_after == int(theirs.not_valid_after_utc.timestamp())
        assert theirs.tbs_certificate_bytes == ours.tbs
        assert theirs.signature == ours.signature
        assert theirs.signature_algorithm_oid.dotted_string == ours.algorithm
        assert set(extensions) == {oid for oid, _ in ours.extensions}
        assert {oid for oid, e in extensions.items() if e.critical} == set(ours.critical)
        basic = extensions.get("2.5.29.19")
        assert (basic and (basic.value.ca, basic.value.path_length)) == (basic and (ours.ca, ours.path_length))
        usages = extensions.get("2.5.29.37")
        assert (tuple(u.dotted_string for u in usages.value) if usages else ()) == ours.usages
        usage = extensions.get("2.5.29.15")
        if usage is not None:
            bits = [usage.value.digital_signature, usage.value.key_encipherment, usage.value.key_agreement]
            assert ours.usage is not None
            assert bits == [bool(ours.usage & 1 << bit) for bit in (7, 5, 3)]
            assert (usage.value.key_cert_sign, usage.value.crl_sign) == (bool(ours.usage & 4), bool(ours.usage & 2))
    assert compared > 220


def test_every_issuer_of_the_folder_leads_to_a_known_root() -> None:
    """All issuing certificates but test CAs: by a path without any fault, to a root known by its fingerprint."""
    checked = 0
    for name, certificate in corpus():
        if not certificate.ca or certificate.fingerprint in KNOWN_ROOTS:
            continue
        path = find_path(certificate, ancestors(certificate), Trust())
        reasons = list(path_reasons(path, certificate, EK_USAGE, Trust(), [], NOW))
        common = readable(certificate.subject).rpartition(", ")[2]
        assert bool(reasons) == (common in ORPHANS), (name, reasons)
        checked += 1
    assert checked > 150


def test_the_tables_roots_that_are_in_the_folder_are_cas() -> None:
    """A fingerprint stands for the certificate that it says."""
    found = {c.fingerprint: c for _, c in corpus() if c.fingerprint in KNOWN_ROOTS}
    assert len(found) == len(KNOWN_ROOTS) - 1  # Azure's virtual TPMs' root is not in the folder
    for fingerprint, certificate in found.items():
        assert certificate.ca
        words = KNOWN_ROOTS[fingerprint].name.split(" ")[0].removesuffix(",")
        assert words in readable(certificate.subject)


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_k2_a_vendors_ek_certificate_is_read_with_what_it_tells_or_refused(name: str) -> None:
    """K2, K12, K13: vendor by root, kind, manufacturer and model; signing keys and CAs are no EKs."""
    leaf = parse_certificate((EK / "ek-leaf" / name).read_bytes())
    expected = LEAVES[name]
    if isinstance(expected, str):
        with pytest.raises(EvidenceRefusal, match=re.escape(expected)):
            verify_ek_certificate(leaf.raw, ancestors(leaf), trust=Trust(), now=NOW)
    else:
        found = verify_ek_certificate(leaf.raw, ancestors(leaf), trust=Trust(), now=NOW)
        assert (found.vendor, found.kind, found.manufacturer, found.model) == expected
        assert found.version
        with pytest.raises(EvidenceRefusal) as caught:
            verify_ek_certificate(leaf.raw, ancestors(leaf), trust=Trust(known={}), now=NOW)
        assert caught.value.code == "ek_chain"


def test_every_leaf_of_the_folder_is_expected() -> None:
    """The corpus is not empty, and no file of it is left out."""
    assert {path.name for path in (EK / "ek-leaf").iterdir()} == set(LEAVES)


@pytest.mark.parametrize("kind", ["ecc", "rsa"])
def test_google_tells_eks_from_attestation_keys_by_key_usage_alone(kind: str) -> None:
    """K12: that CA writes no extended key usage at all (docs/decisions/0017)."""
    found = {name: c for name, c in corpus() if f"pca_tpm_{kind}" in name}
    assert len(found) == 2
    for name, leaf in found.items():
        if "enc" in name:
            identity = verify_ek_certificate(leaf.raw, ancestors(leaf), trust=Trust(), now=NOW)
            assert (identity.vendor, identity.kind) == ("Google Cloud", "virtual")
        else:
            with pytest.raises(EvidenceRefusal, match="signing key"):
                verify_ek_certificate(leaf.raw, ancestors(leaf), trust=Trust(), now=NOW)


QUIRKS = {"padding": 2, "serial": 0}


def test_the_oddities_that_are_let_pass_are_counted() -> None:
    """Newlines after the DER in two files; whoever adds vectors with other oddities learns of it here."""
    for quirk, count in QUIRKS.items():
        assert sum(quirk in c.quirks for _, c in corpus()) == count


def test_every_truncation_of_a_vendors_certificate_is_refused() -> None:
    """D8: no other exception, for certificates with every oddity."""
    odd = ["NuvotonTPMRootCA2112.pem", "AMD-fTPM-ECC-ICA-PHXFamily.crt", "pca_tpm_ecc_enc_cert.pem"]
    chosen = [c for name, c in corpus() if any(name.endswith(end) for end in odd)]
    assert len(chosen) == len(odd)
    for certificate in chosen:
        for size in range(len(certificate.raw)):
            with pytest.raises(PerunError):
                parse_certificate(certificate.raw[:size])
