"""Certificates and revocation lists made to be taken for more than they are: each was or might have been let pass."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.judging import NOW
from evidence.test_certificates import (
    CA_TRUE,
    ECDSA_SHA256,
    EK_EXTENSION,
    KEY,
    LEAF,
    SPKI,
    VALID,
    certificate,
    extension,
    name,
    pem,
    tlv,
)
from perunml.evidence.tpm.certificate import parse_certificate, verify_signed
from perunml.evidence.tpm.chain import Trust, find_path, path_reasons
from perunml.evidence.tpm.crl import parse_crl, revocation
from perunml.evidence.tpm.ek import EK_USAGE
from perunml.wire.errors import EvidenceRefusal, PerunError

SIGN_CERTIFICATES = extension(15, b"\x03\x02\x02\x04")
"""A key usage of keyCertSign alone."""
AT = b"\x17\x0d200101000000Z"


def made(
    subject: bytes,
    issuer: bytes,
    extensions: bytes,
    *,
    by: ec.EllipticCurvePrivateKey = KEY,
    spki: bytes = SPKI,
    outer: bytes = ECDSA_SHA256,
) -> bytes:
    """A certificate of the key in `spki`, signed `by` another."""
    body = tlv(0x30, extensions)
    tbs = tlv(
        0x30, bytes.fromhex("a003020102"), tlv(2, b"\x01"), ECDSA_SHA256, issuer, VALID, subject, spki, tlv(0xA3, body)
    )
    return tlv(0x30, tbs, outer, tlv(3, b"\0", by.sign(tbs, ec.ECDSA(hashes.SHA256()))))


def spki_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def refusals(
    leaf: bytes, chain: Sequence[bytes] = (), lists: Sequence[bytes] = (), *, demand: bool = False
) -> list[str]:
    """The codes against the leaf under the root that `certificate()` is."""
    read, trust = parse_certificate(leaf), Trust(simulated=(certificate(),), demand=demand)
    return [r.code for r in path_reasons(find_path(read, chain, trust), read, EK_USAGE, trust, lists, NOW)]


def crl(serials: Sequence[bytes] = (), extensions: bytes = b"", *, by: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    """The root's list, in force."""
    entries = tlv(0x30, *[tlv(0x30, tlv(2, serial), AT) for serial in serials]) if serials else b""
    more = tlv(0xA0, tlv(0x30, extensions)) if extensions else b""
    until = b"\x18\x0f20991231235959Z"
    tbs = tlv(0x30, b"\x02\x01\x01", ECDSA_SHA256, name("root"), AT, until, entries, more)
    return tlv(0x30, tbs, ECDSA_SHA256, tlv(3, b"\0", by.sign(tbs, ec.ECDSA(hashes.SHA256()))))


def under(issuer: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """An EK's certificate by an issuer's key."""
    return made(LEAF, issuer, EK_EXTENSION, by=key)


FORMS = {
    "a key usage in unused bits": certificate(extensions=CA_TRUE + extension(15, b"\x03\x02\x07\x84")),
    "an extended usage of nothing": certificate(extensions=CA_TRUE + extension(37, b"\x30\x00")),
    "a path length with a zero before": certificate(extensions=extension(19, bytes.fromhex("30070101ff02020001"))),
    "a padded object identifier": certificate(extensions=tlv(0x30, bytes.fromhex("0604551d8013"), tlv(4, b"\x30\x00"))),
    "a serial of no bytes": certificate(serial=b""),
    "a year 0000": certificate(valid=b"\x30\x20" + AT + b"\x18\x0f00000101000000Z"),
    "a fraction of a second": certificate(valid=b"\x30\x22" + AT + b"\x18\x1120490101000000.0Z"),
    "a time of no zone": certificate(valid=b"\x30\x1f" + AT + b"\x18\x0e20490101000000"),
    "an indefinite length": b"\x30\x80" + certificate()[4:] + b"\0\0",
    "a length of more bytes than it needs": b"\x30\x83\x00" + certificate()[2:],
    "another algorithm outside than inside": made(LEAF, name("root"), b"", outer=bytes.fromhex("300a06082a8648ce3d040303")),
    "RSASSA-PSS with parameters that are none": certificate(algorithm=tlv(0x30, bytes.fromhex("06092a864886f70d01010b"), b"\x30\x00")),
    "two certificates in one file": pem(certificate()) + pem(certificate(subject=LEAF)),
    "a second certificate behind the first": certificate() + certificate(subject=LEAF),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_others_read_otherwise_is_refused(form: str) -> None:
    """What a stricter reader refuses, or a laxer one takes for something else, is no certificate."""
    with pytest.raises(EvidenceRefusal) as caught:
        parse_certificate(FORMS[form])
    assert caught.value.code == "non_canonical"


@pytest.mark.parametrize(
    ("written", "listed"), [(b"\x00\x05", b"\x05"), (b"\x05", b"\x00\x05"), (b"\x00\xff", b"\xff")]
)
def test_k11_a_serial_written_longer_is_still_revoked(written: bytes, listed: bytes) -> None:
    """K11: an issuer's certificates and its list may come of two programs, and say one number in two ways."""
    leaf = certificate(serial=written, subject=LEAF, extensions=EK_EXTENSION)
    assert refusals(leaf, lists=[crl([listed])]) == ["ek_revoked"]
    assert refusals(leaf, lists=[crl([b"\x06"])]) == []


@pytest.mark.parametrize("arc", [27, 28], ids=["changes only", "some certificates only"])
def test_k11_a_partial_list_that_does_not_say_so_critically_vouches_for_nothing(arc: int) -> None:
    """K11: a list of changes does not tell what was revoked before."""
    leaf = certificate(subject=LEAF, extensions=EK_EXTENSION)
    narrow = extension(arc, b"\x02\x01\x01")
    assert refusals(leaf, lists=[crl()], demand=True) == []
    assert refusals(leaf, lists=[crl(extensions=narrow)], demand=True) == ["ek_revocation_unknown"]
    assert refusals(leaf, lists=[crl([b"\x01"], narrow)]) == ["ek_revoked"]


def test_k11_a_list_by_another_key_of_the_same_name_says_nothing() -> None:
    """K11: neither that it is revoked nor that it is not."""
    leaf = certificate(subject=LEAF, extensions=EK_EXTENSION)
    forged = crl([b"\x01"], by=ec.generate_private_key(ec.SECP256R1()))
    assert refusals(leaf, lists=[forged]) == []
    assert refusals(leaf, lists=[forged], demand=True) == ["ek_revocation_unknown"]


@pytest.mark.parametrize(
    ("curve", "code"), [(ec.SECP192R1, ["weak_scheme"]), (ec.SECP224R1, ["weak_scheme"]), (ec.SECP384R1, [])]
)
def test_an_issuer_with_a_small_curve_is_refused(curve: type[ec.EllipticCurve], code: list[str]) -> None:
    """As one with a small RSA key is."""
    key = ec.generate_private_key(curve())
    issuer = made(name("sub"), name("root"), CA_TRUE + SIGN_CERTIFICATES, spki=spki_of(key))
    assert refusals(under(name("sub"), key), [issuer]) == code


def test_a_small_key_in_the_ek_certificate_itself_is_refused() -> None:
    """An auditor has the certificate alone, and no template bounds its key."""
    small = ec.generate_private_key(ec.SECP192R1())
    assert refusals(made(LEAF, name("root"), EK_EXTENSION, spki=spki_of(small))) == ["weak_scheme"]


@pytest.mark.parametrize(
    ("extensions", "code"),
    [
        (CA_TRUE + SIGN_CERTIFICATES, []),
        (SIGN_CERTIFICATES, ["ek_chain"]),
        (EK_EXTENSION, ["ek_chain"]),
        (CA_TRUE + extension(15, b"\x03\x02\x01\x02"), ["ek_chain"]),
        (CA_TRUE + extension(37, tlv(0x30, bytes.fromhex("06082b06010505070301"))), ["ek_chain"]),
        (CA_TRUE + extension(30, b"\x30\x00"), ["ek_certificate"]),
        (CA_TRUE + extension(30, b"\x30\x00", critical=b"\x01\x01\xff"), ["ek_certificate"]),
        (CA_TRUE + extension(36, b"\x30\x00", critical=b"\x01\x01\xff"), ["ek_certificate"]),
    ],
    ids=["a CA", "no CA", "an EK", "for lists", "for web servers", "limited", "limited critically", "policies"],
)  # fmt: skip
def test_k2_who_may_not_issue_is_no_issuer(extensions: bytes, code: list[str]) -> None:
    """K2: signed by the root, and good for something else; a limit to names counts whether or not it is critical."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = made(name("sub"), name("root"), extensions, spki=spki_of(key))
    assert refusals(under(name("sub"), key), [issuer]) == code


def test_k2_a_root_of_the_same_name_with_another_key_is_no_root() -> None:
    """K2: nor does it help to send it, with others that sign one another in a ring."""
    key = ec.generate_private_key(ec.SECP256R1())
    same, ring = (
        made(subject, name("root"), CA_TRUE, by=key, spki=spki_of(key)) for subject in (name("root"), name("ring"))
    )
    back = made(name("root"), name("ring"), CA_TRUE, by=key, spki=spki_of(key))
    assert refusals(under(name("root"), key), [same, ring, back]) == ["ek_chain"]


def test_a_curve_with_a_generator_of_the_attackers_own_is_no_key() -> None:
    """Explicit parameters under which somebody else's point is one's own key, an RSA exponent of 1, a point at infinity."""
    p = 2**256 - 2**224 + 2**192 + 2**96 - 1
    n = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    b = bytes.fromhex("5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b")
    point = SPKI[-65:]
    field = tlv(0x30, bytes.fromhex("06072a8648ce3d0101"), tlv(2, b"\0" + p.to_bytes(32)))
    curve = tlv(0x30, tlv(4, (p - 3).to_bytes(32)), tlv(4, b))
    parameters = tlv(
        0x30, b"\x02\x01\x01", field, curve, tlv(4, point), tlv(2, b"\0" + n.to_bytes(32)), b"\x02\x01\x01"
    )
    ecc = bytes.fromhex("06072a8648ce3d0201")
    own = tlv(0x30, tlv(0x30, ecc, parameters), tlv(3, b"\0" + point))
    infinite = tlv(0x30, SPKI[2:-68], tlv(3, b"\0\0"))
    modulus = tlv(2, b"\0" + b"\xff" * 256)
    one = tlv(0x30, bytes.fromhex("300d06092a864886f70d0101010500"), tlv(3, b"\0", tlv(0x30, modulus, b"\x02\x01\x01")))
    for spki in (own, infinite, one, SPKI[:24] + b"\x07" + SPKI[25:], SPKI[:-1] + bytes([SPKI[-1] ^ 1])):
        assert parse_certificate(made(LEAF, name("root"), b"", spki=spki)).key() is None


def test_signatures_of_zeros_or_in_another_encoding_verify_nothing() -> None:
    """ECDSA with r and s of 0, negative, in BER, with something after."""
    good = KEY.sign(b"m", ec.ECDSA(hashes.SHA256()))
    odd = ["", "3000", "3006020100020100", "3006020101020100", "30060201ff0201ff", "30800201010201010000"]
    others = [good + b"\0", b"\x30\x81" + good[1:], *map(bytes.fromhex, odd)]
    algorithm = "1.2.840.10045.4.3.2"
    assert verify_signed(algorithm, good, b"m", KEY.public_key())
    assert not any(verify_signed(algorithm, signature, b"m", KEY.public_key()) for signature in others)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([certificate(), crl([b"\x05"])]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
)
def test_hostile_bytes_raise_nothing_but_refusals(honest: bytes, changes: list[tuple[int, int]]) -> None:
    """Bytes exchanged anywhere: a certificate whose key can be asked for, a list that can be asked, or a refusal."""
    data = bytearray(honest)
    for at, byte in changes:
        data[at % len(data)] = byte
    try:
        read = parse_certificate(bytes(data))
        assert read.name
        list(path_reasons(find_path(read, [bytes(data)], Trust()), read, EK_USAGE, Trust(), [], NOW))
    except PerunError:
        pass
    try:
        listed = parse_crl(bytes(data))
    except PerunError:
        return
    root = parse_certificate(certificate())
    assert revocation(root, root, [listed], NOW) in ("unknown", "good", "revoked")
