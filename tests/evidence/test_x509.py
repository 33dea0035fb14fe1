"""Chains of vendors' certificates and their revocation lists: an honest chain, then each property of it broken alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.evidence import x509 as ours
from perunml.testing.snp import rsa_key
from perunml.wire.errors import PerunError

START, END = dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.datetime(2034, 1, 1, tzinfo=dt.UTC)
NOW = int(dt.datetime(2026, 11, 1, tzinfo=dt.UTC).timestamp())
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\5\0")


@cache
def p384(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@cache
def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def small_rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def usage(*on: str) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
        "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: name in on for name in names})


@dataclass(frozen=True)
class Certificate:
    """One certificate's fields: what differs from an honest one is said."""

    name: str
    issuer: str
    key: Key
    signer: Key
    basic: x509.BasicConstraints | None = None
    usage: x509.KeyUsage | None = None
    more: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    hash: hashes.HashAlgorithm = field(default_factory=hashes.SHA384)
    pss: padding.PSS | None = field(default_factory=lambda: padding.PSS(padding.MGF1(hashes.SHA384()), 48))
    since: dt.datetime = START
    until: dt.datetime = END

    def made(self) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(self.name))
            .issuer_name(named(self.issuer))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.since)
            .not_valid_after(self.until)
        )
        for value in (self.basic, self.usage):
            builder = builder.add_extension(value, critical=True) if value is not None else builder
        for value, critical in self.more:
            builder = builder.add_extension(value, critical=critical)
        pss = self.pss if isinstance(self.signer, rsa.RSAPrivateKey) else None
        made = builder.sign(self.signer, self.hash, rsa_padding=pss)  # type: ignore[arg-type]  # each hash that is tried is one
        return ours.read_certificate(made.public_bytes(Encoding.DER))


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


CA, SIGNS = x509.BasicConstraints(ca=True, path_length=None), usage("key_cert_sign", "crl_sign")
LEAF = Certificate("leaf", "middle", p384("leaf"), p384("middle"))
MIDDLE = Certificate(
    "middle", "root", p384("middle"), p384("root"), x509.BasicConstraints(ca=True, path_length=0), SIGNS
)
ROOT = Certificate("root", "root", p384("root"), p384("root"), CA, SIGNS)


def codes(*certificates: Certificate, now: int = NOW) -> list[str]:
    return [reason.code for reason in ours.chain_reasons([each.made() for each in certificates], "a key", now)]


def test_an_honest_chain_is_one() -> None:
    """Of P-384 keys, of RSA-4096 with PSS, and with a leaf that says that it signs."""
    assert codes(LEAF, MIDDLE, ROOT) == []
    assert codes(replace(LEAF, usage=usage("digital_signature")), MIDDLE, ROOT) == []
    middle = replace(MIDDLE, key=rsa_key(1), signer=rsa_key(0))
    assert codes(replace(LEAF, signer=rsa_key(1)), middle, replace(ROOT, key=rsa_key(0), signer=rsa_key(0))) == []


BROKEN = [
    ("the leaf is an authority", {"basic": CA}, {}, {}),
    ("the leaf may not sign", {"usage": usage("key_agreement")}, {}, {}),
    ("the leaf's curve", {"key": p256()}, {}, {}),
    ("an RSA leaf", {"key": rsa_key(0)}, {}, {}),
    ("an unknown critical extension", {"more": ((UNKNOWN, True),)}, {}, {}),
    ("one of an authority's", {}, {"more": ((UNKNOWN, True),)}, {}),
    ("no authority", {}, {"basic": None}, {}),
    ("denied authority", {}, {"basic": x509.BasicConstraints(ca=False, path_length=None)}, {}),
    ("an authority without a use", {}, {"usage": None}, {}),
    ("an authority that signs lists only", {}, {"usage": usage("crl_sign")}, {}),
    ("the root may have no authority below it", {}, {}, {"basic": x509.BasicConstraints(ca=True, path_length=0)}),
    ("the leaf is signed by another key", {"signer": p384("other")}, {}, {}),
    ("the middle is signed by another key", {}, {"signer": p384("other")}, {}),
    ("the root is not self-signed", {}, {}, {"signer": p384("other")}),
    ("the leaf is issued under another name", {"issuer": "other"}, {}, {}),
    ("SHA-256", {"hash": hashes.SHA256()}, {}, {}),
    ("SHA-512", {"hash": hashes.SHA512()}, {}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("leaf", "middle", "root"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_each_property_is_needed(leaf: dict[str, object], middle: dict[str, object], root: dict[str, object]) -> None:
    """T7, T13: each broken alone."""
    changed = (replace(one, **how) for one, how in ((LEAF, leaf), (MIDDLE, middle), (ROOT, root)))  # type: ignore[arg-type]  # fields by name
    found = codes(*changed)
    assert found
    assert set(found) == {"certificate_chain"}


def test_extensions_that_change_nothing_may_be_there() -> None:
    """Unknown ones that are not critical, as the vendors' own."""
    assert codes(replace(LEAF, more=((UNKNOWN, False),)), replace(MIDDLE, more=((UNKNOWN, False),)), ROOT) == []


RSA_ROOT = replace(ROOT, key=rsa_key(0), signer=rsa_key(0))
RSA_MIDDLE = replace(MIDDLE, signer=rsa_key(0))
PADDINGS = [
    ("PKCS #1 v1.5", {"pss": None}),
    ("salt of 32", {"pss": padding.PSS(padding.MGF1(hashes.SHA384()), 32)}),
    ("mask with SHA-256", {"pss": padding.PSS(padding.MGF1(hashes.SHA256()), 48)}),
    ("SHA-256", {"hash": hashes.SHA256(), "pss": padding.PSS(padding.MGF1(hashes.SHA256()), 32)}),
]


@pytest.mark.parametrize("how", [case[1] for case in PADDINGS], ids=[case[0] for case in PADDINGS])
def test_rsa_is_pss_with_sha384_alone(how: dict[str, object]) -> None:
    """Other paddings and parameters, though the key is right."""
    assert codes(LEAF, RSA_MIDDLE, RSA_ROOT) == []
    assert codes(LEAF, replace(RSA_MIDDLE, **how), RSA_ROOT) == ["certificate_chain"]  # type: ignore[arg-type]  # fields by name


def test_a_small_rsa_key_is_refused() -> None:
    """2048 bits, of a root that is one in all else."""
    middle, root = replace(MIDDLE, signer=small_rsa()), replace(ROOT, key=small_rsa(), signer=small_rsa())
    assert codes(LEAF, middle, root) == ["certificate_chain"] * 2


def test_each_certificates_time_is_looked_at() -> None:
    """T6: before and after; the ends themselves belong to it."""
    ends = (int(START.timestamp()), int(END.timestamp()))
    for now in ends:
        assert codes(LEAF, MIDDLE, ROOT, now=now) == []
    for now in (ends[0] - 1, ends[1] + 1):
        assert codes(LEAF, MIDDLE, ROOT, now=now) == ["certificate_expired"] * 3
    past = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    for at in range(3):
        chain = [LEAF, MIDDLE, ROOT]
        chain[at] = replace(chain[at], until=past)
        assert codes(*chain) == ["certificate_expired"]


def test_all_reasons_are_told() -> None:
    """What is wrong and what is past, of each certificate."""
    past = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    found = codes(replace(LEAF, basic=CA, until=past), replace(MIDDLE, signer=p384("other")), ROOT)
    assert found == ["certificate_chain", "certificate_expired", "certificate_chain"]


def test_swapped_authorities_are_no_chain() -> None:
    """T13: the root in the middle, the middle at the end."""
    assert "certificate_chain" in codes(LEAF, ROOT, MIDDLE)


def test_t7_a_root_is_trusted_by_its_bytes() -> None:
    """T7: not by its name, nor by its key alone; a development root only where it was given."""
    root, again = ROOT.made(), ROOT.made()
    pinned = {ours.fingerprint(root): "ours"}
    assert ours.trusted_by(root, pinned, ()) is False
    assert ours.trusted_by(again, pinned, ()) is None
    assert ours.trusted_by(again, pinned, (again.public_bytes(Encoding.DER),)) is True
    assert ours.trusted_by(root, {}, ()) is None


def listed(
    serials: Sequence[int] = (),
    *,
    key: Key | None = None,
    issuer: str = "root",
    since: dt.datetime = START,
    until: dt.datetime = END,
    number: int | None = 1,
    more: Sequence[tuple[x509.ExtensionType, bool]] = (),
    algorithm: hashes.HashAlgorithm | None = None,
) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(named(issuer)).last_update(since).next_update(until)
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for value, critical in more:
        builder = builder.add_extension(value, critical=critical)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
        builder = builder.add_revoked_certificate(entry)
    made = builder.sign(key or p384("root"), algorithm or hashes.SHA384())  # type: ignore[arg-type]  # each hash that is tried is one
    return made.public_bytes(Encoding.DER)


def told(*lists: bytes, root: Certificate = ROOT, middle: x509.Certificate | None = None) -> ours.Revocation:
    return ours.revocation(middle or MIDDLE.made(), root.made(), [ours.read_crl(each) for each in lists], NOW)


def test_a_list_in_force_clears() -> None:
    """Of the issuer; the newest of several by its number, then by its time."""
    later = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert not told(listed()).revoked
    found = told(listed(number=4), listed(number=9, since=later), listed(number=None)).newest
    assert found is not None
    assert found[0].startswith("crl:")
    assert found[1:] == (9, int(later.timestamp()))


def test_a_revoked_certificate_is_said() -> None:
    """Also by a list that is past its time, or older than another that does not name it."""
    middle = MIDDLE.made()
    revoking = {"serials": [7, middle.serial_number]}
    past = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    assert told(listed(**revoking), middle=middle).revoked  # type: ignore[arg-type]  # the serials by name
    assert told(listed(**revoking, until=past, number=1), listed(number=2), middle=middle).revoked  # type: ignore[arg-type]  # as above
    assert not told(listed([7]), middle=middle).revoked


NO_LISTS = [
    ("past its time", {"until": dt.datetime(2025, 1, 1, tzinfo=dt.UTC)}),
    ("not yet issued", {"since": dt.datetime(2027, 1, 1, tzinfo=dt.UTC)}),
    ("signed by another key", {"key": p384("other")}),
    ("of another issuer", {"issuer": "other"}),
    ("with SHA-256", {"algorithm": hashes.SHA256()}),
]


@pytest.mark.parametrize("how", [case[1] for case in NO_LISTS], ids=[case[0] for case in NO_LISTS])
def test_t6_a_list_that_is_none_clears_nobody(how: dict[str, object]) -> None:
    """T6: and what names the certificate in a list that its issuer did not sign revokes nobody."""
    middle = MIDDLE.made()
    assert told(listed(**how), middle=middle) == ours.Revocation(revoked=False, newest=None)  # type: ignore[arg-type]  # by name
    if "until" not in how:
        assert not told(listed([middle.serial_number], **how), middle=middle).revoked  # type: ignore[arg-type]  # by name


def test_t6_an_issuer_that_may_sign_no_lists_clears_nobody() -> None:
    """T6: its key usage lacks it."""
    assert told(listed(), root=replace(ROOT, usage=usage("key_cert_sign"))).newest is None


PARTIAL = [
    ("an unknown critical extension", UNKNOWN, True),
    ("what changed since another", x509.DeltaCRLIndicator(1), True),
    ("a part, not marked critical", x509.DeltaCRLIndicator(1), False),
    (
        "authorities alone",
        x509.IssuingDistributionPoint(
            full_name=None, relative_name=None, only_contains_user_certs=False, only_contains_ca_certs=True,
            only_some_reasons=None, indirect_crl=False, only_contains_attribute_certs=False,
        ),
        False,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("value", "critical"), [case[1:] for case in PARTIAL], ids=[case[0] for case in PARTIAL])
def test_a_list_of_some_certificates_is_refused(value: x509.ExtensionType, critical: bool) -> None:
    """Who is not in it may be revoked all the same."""
    with pytest.raises(PerunError) as caught:
        ours.read_crl(listed(more=[(value, critical)]))
    assert caught.value.code == "non_canonical"


@cache
def honest() -> tuple[bytes, bytes, x509.Certificate, x509.Certificate]:
    # ending with a one: of a signature that ends with a zero, DER can call that bit unused, which changes nothing
    leaf = next(der for der in iter(lambda: LEAF.made().public_bytes(Encoding.DER), b"") if der[-1] & 1)
    return leaf, next(der for der in iter(listed, b"") if der[-1] & 1), MIDDLE.made(), ROOT.made()


def believed(certificate: bytes, crl: bytes) -> tuple[bool, bool]:
    """Whether each is read and its issuer signed it; what is refused is refused in words."""
    _, _, middle, root = honest()
    found = []
    for check in (
        lambda: ours.issued(ours.read_certificate(certificate), middle),
        lambda: ours.revocation(middle, root, [ours.read_crl(crl)], NOW).newest is not None,
    ):
        with suppress(PerunError):
            found.append(check())
            continue
        found.append(False)
    return found[0], found[1]


@given(st.integers(0, 10_000), st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_a_changed_certificate_or_list_is_refused_in_words(place: int, change: int) -> None:
    """The readers are total, and no changed byte is believed: not read, or its issuer did not sign it."""
    changed = []
    for der in honest()[:2]:
        wrong = bytearray(der)
        wrong[place % len(der)] ^= change
        changed.append(bytes(wrong))
    assert believed(*honest()[:2]) == (True, True)
    assert believed(changed[0], changed[1]) == (False, False)


@pytest.mark.parametrize("read", [ours.read_certificate, ours.read_crl])
def test_what_is_too_long_is_not_read(read: object) -> None:
    """Bounded: nor what is empty, nor what has bytes behind it."""
    for der in (
        b"",
        b"\x30\x80",
        bytes(2 * 1024 * 1024),
        LEAF.made().public_bytes(Encoding.DER) + b"\0",
        listed() + b"\0",
    ):
        with pytest.raises(PerunError):
            read(der)  # type: ignore[operator]  # one of the two readers
