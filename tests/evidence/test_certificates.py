"""Certificates built byte by byte: the oddities that are let pass (docs/decisions/0017), and forms that are refused."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from evidence.judging import NOW
from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.pem import MAX_FILE, split
from perunml.evidence.tpm.certificate import Certificate, parse_certificate
from perunml.evidence.tpm.chain import Trust, find_path, path_reasons
from perunml.evidence.tpm.crl import parse_crl, revocation
from perunml.evidence.tpm.ek import EK_USAGE, verify_ek_certificate
from perunml.evidence.tpm.names import same_name
from perunml.testing.ca import DevelopmentCa
from perunml.wire.errors import EvidenceRefusal

KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
VALID = b"\x30\x1e\x17\x0d200101000000Z\x17\x0d490101000000Z"


def tlv(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes(2 if len(body) > 255 else 1)
    return bytes([tag, 0x80 | len(size)]) + size + body


def attribute(arc: int, text: str, string: int = 0x13) -> bytes:
    return tlv(0x30, bytes([6, 3, 0x55, 4, arc]), tlv(string, text.encode()))


def name(common: str, string: int = 0x13) -> bytes:
    return tlv(0x30, tlv(0x31, attribute(3, common, string)))


def extension(arc: int, value: bytes, *, critical: bytes = b"") -> bytes:
    return tlv(0x30, bytes([6, 3, 0x55, 0x1D, arc]), critical, tlv(4, value))


CA_TRUE = extension(19, bytes.fromhex("30030101ff"))
EK_EXTENSION = extension(37, tlv(0x30, bytes.fromhex("060567810508") + b"\x01"))


def certificate(
    *,
    serial: bytes = b"\x01",
    algorithm: bytes = ECDSA_SHA256,
    issuer: bytes = name("root"),
    subject: bytes = name("root"),
    extensions: bytes = CA_TRUE,
    valid: bytes = VALID,
) -> bytes:
    """A certificate by `KEY` for `KEY`, of exactly these parts."""
    tbs = tlv(
        0x30, bytes.fromhex("a003020102"), tlv(2, serial), algorithm, issuer, valid, subject, SPKI,
        tlv(0xA3, tlv(0x30, extensions)),
    )  # fmt: skip
    return tlv(0x30, tbs, algorithm, tlv(3, b"\0", KEY.sign(tbs, ec.ECDSA(hashes.SHA256()))))


def good(leaf: bytes, root: bytes | None = None) -> Certificate:
    """The certificate, its chain without any fault."""
    made, trust = parse_certificate(leaf), Trust(simulated=(root or certificate(),))
    assert list(path_reasons(find_path(made, [], trust), made, EK_USAGE, trust, [], NOW)) == []
    return made


LEAF = name("leaf")


@pytest.mark.parametrize("serial", [b"\x80\x01", b"\x00", b"\x7f" * 30])
def test_an_odd_serial_is_let_pass_and_can_be_revoked(serial: bytes) -> None:
    """Negative, zero, too long: it is compared as it is written."""
    made = good(certificate(serial=serial, subject=LEAF, extensions=EK_EXTENSION))
    assert made.quirks == ("serial",)
    root = parse_certificate(certificate())
    entry = tlv(0x30, tlv(2, serial), b"\x17\x0d200101000000Z")
    tbs = tlv(0x30, b"\x02\x01\x01", ECDSA_SHA256, name("root"), b"\x17\x0d200101000000Z", tlv(0x30, entry))
    listed = parse_crl(tlv(0x30, tbs, ECDSA_SHA256, tlv(3, b"\0", KEY.sign(tbs, ec.ECDSA(hashes.SHA256())))))
    assert revocation(made, root, [listed], NOW) == "revoked"


def test_names_with_members_out_of_order_are_let_pass() -> None:
    """A SET whose members DER would order otherwise."""
    odd = tlv(0x30, tlv(0x31, attribute(10, "Zed"), attribute(3, "root"), attribute(6, "TW")))
    assert good(certificate(issuer=odd, subject=LEAF), certificate(issuer=odd, subject=odd)).name == "CN=leaf"


def test_names_in_other_string_types_are_the_same_and_other_texts_are_not() -> None:
    """PrintableString and UTF8String; upper and lower case stay two."""
    assert good(certificate(issuer=name("root", 0x0C), subject=LEAF))
    assert same_name(name("root"), name("root", 0x0C))
    assert not same_name(name("root"), name("Root"))


def test_null_parameters_of_ecdsa_are_let_pass_and_others_are_not() -> None:
    """One vendor's root writes NULL; anything else could change what is verified."""
    with_null = bytes.fromhex("300c06082a8648ce3d0403020500")
    assert good(certificate(algorithm=with_null, subject=LEAF))
    for parameters in (b"\x02\x01\x01", b"\x05\x01\x00", b"\x05\x00\x05\x00"):
        with pytest.raises(EvidenceRefusal):
            parse_certificate(certificate(algorithm=tlv(0x30, ECDSA_SHA256[2:], parameters)))


def test_an_explicit_false_is_let_pass() -> None:
    """A default that is written out."""
    made = good(certificate(subject=LEAF, extensions=extension(19, bytes.fromhex("3003010100"))))
    assert made.ca is False


REFUSED: dict[str, Callable[[], bytes]] = {
    "a version 4": lambda: certificate().replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020103"), 1),
    "an extension twice": lambda: certificate(extensions=CA_TRUE + CA_TRUE),
    "too many attributes": lambda: certificate(subject=tlv(0x30, tlv(0x31, *[attribute(3, "x")] * 33))),
    "a negative path length": lambda: certificate(extensions=extension(19, bytes.fromhex("30060101ff0201ff"))),
    "too many usages": lambda: certificate(extensions=extension(37, tlv(0x30, *[bytes.fromhex("06032a0304")] * 33))),
    "a key usage of no bits": lambda: certificate(extensions=extension(15, b"\x03\x01\x00")),
    "a BOOLEAN of 01": lambda: certificate(extensions=extension(19, bytes.fromhex("3003010101"))),
    "a local time": lambda: certificate(valid=VALID.replace(b"Z", b"+", 1)),
    "a 31st of February": lambda: certificate(valid=VALID.replace(b"200101", b"200231")),
    "something after the extensions": lambda: certificate(extensions=CA_TRUE + b"\x05\x00"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_other_forms_are_refused(fault: str) -> None:
    """Each by itself, in a certificate that is otherwise good."""
    with pytest.raises(EvidenceRefusal) as caught:
        parse_certificate(REFUSED[fault]())
    assert caught.value.code == "non_canonical"


def test_the_last_second_of_9999_is_a_time() -> None:
    """Roots that never end say so (RFC 5280, 4.1.2.5)."""
    valid = b"\x30\x20\x17\x0d200101000000Z\x18\x0f99991231235959Z"
    assert good(certificate(valid=valid, subject=LEAF)).not_after == 253_402_300_799


def pem(der: bytes, label: str = "CERTIFICATE") -> bytes:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n".encode()


def test_words_around_a_certificate_are_let_pass_and_two_are_not_one() -> None:
    """What `openssl x509 -text` writes; a bundle holds several, for whoever asks for several."""
    one, other = certificate(), certificate(subject=LEAF)
    assert parse_certificate(b"Certificate:\n    Data:\n" + pem(one) + b"and more words").raw == one
    with pytest.raises(EvidenceRefusal):
        parse_certificate(pem(one) + pem(other))
    assert split(b"# a bundle\n" + pem(one) + b"# and\n" + pem(other)) == [one, other]
    assert split(one) == [one]
    assert split(b"-----BEGIN X509 CRL-----") == []
    for junk in (b"-----BEGIN CERTIFICATE-----\nAAAA", b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----"):
        with pytest.raises(EvidenceRefusal):
            split(junk)
    with pytest.raises(EvidenceRefusal):
        split(pem(one) + bytes(MAX_FILE))


def test_a_revocation_list_may_be_pem() -> None:
    """As some vendors publish them."""
    ca = DevelopmentCa()
    assert parse_crl(pem(ca.revocations([7]), "X509 CRL")).serials == {b"\x07"}


@needs_vectors
@pytest.mark.parametrize(("file", "code"), [("ek_ecc384", ""), ("ek_rsa", ""), ("platform", "ek_certificate")])
def test_a_software_tpms_certificates_are_read(file: str, code: str) -> None:
    """K12: both EKs of a real swtpm; its platform's certificate is no EK's."""
    vm = FOLDER / "measured-vm"
    leaf = (vm / "A61" / f"{file}.crt.der").read_bytes()
    issuer, root = ((vm / "ca" / end).read_bytes() for end in ("issuercert.pem", "swtpm-localca-rootca-cert.pem"))
    trust, now = Trust(simulated=(root,)), parse_certificate(leaf).not_before + 60
    if code:
        with pytest.raises(EvidenceRefusal) as caught:
            verify_ek_certificate(leaf, [issuer], trust=trust, now=now)
        assert {reason.code for reason in caught.value.reasons} == {code}
    else:
        assert verify_ek_certificate(leaf, [issuer], trust=trust, now=now).claims()["model"] == "swtpm"
