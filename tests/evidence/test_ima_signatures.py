"""File signatures in an IMA log, and the keys that may make them (I18, I19)."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import replace
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from evidence.judging import NOW
from perunml.evidence.baseline import Baseline
from perunml.evidence.ima.appraise import appraise_log
from perunml.evidence.rules import ImaRules
from perunml.testing.forge import ForgedTpm
from perunml.testing.imalog import buffer_line

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
HASHES = {"sha256": (4, hashes.SHA256()), "sha384": (5, hashes.SHA384()), "sha512": (6, hashes.SHA512())}


@cache
def key(kind: str, number: int = 0) -> Key:
    if kind == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 1024 if kind == "weak" else 2048)


@cache
def certificate(kind: str, number: int = 0, identifier: bytes = b"") -> bytes:
    """As it is loaded into the kernel's keyring; `identifier` in place of the usual one."""
    made, name = key(kind, number), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "files")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(made.public_key())
    builder = builder.serial_number(1).not_valid_before(start).not_valid_after(start + datetime.timedelta(3650))
    if identifier:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(identifier), critical=False)
    return builder.sign(made, hashes.SHA256()).public_bytes(Encoding.DER)


def identifier_of(kind: str, number: int = 0) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(key(kind, number).public_key()).digest


def signature(
    content: bytes,
    kind: str = "rsa",
    number: int = 0,
    *,
    algorithm: str = "sha256",
    version: int = 2,
    key_id: bytes = b"",
    type_: int = 3,
) -> bytes:
    """signature_v2_hdr and the signature, as evmctl makes it."""
    made, (code, hash_) = key(kind, number), HASHES[algorithm]
    digest = hashlib.new(algorithm, content).digest()
    if version == 3:
        digest = hashlib.new(algorithm, bytes([type_, code]) + digest).digest()
    if isinstance(made, rsa.RSAPrivateKey):
        raw = made.sign(digest, padding.PKCS1v15(), Prehashed(hash_))
    else:
        raw = made.sign(digest, ec.ECDSA(Prehashed(hash_)))
    key_id = key_id or identifier_of(kind, number)[-4:]
    return bytes([type_, version, code]) + key_id + len(raw).to_bytes(2) + raw


def told(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def spki(kind: str, number: int = 0) -> str:
    return told(key(kind, number).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def agreed(tpm: ForgedTpm, kind: str = "rsa", cert: bytes = b"") -> Baseline:
    """The key may sign files, and its certificate may enter a keyring."""
    rules = ImaRules(keys=frozenset([spki(kind)]), keyrings=frozenset([told(cert or certificate(kind))]))
    return replace(tpm.baseline(), ima=rules)


def refused(tpm: ForgedTpm, baseline: Baseline) -> list[str]:
    pcrs = {"sha256": dict(enumerate(tpm.pcrs["sha256"]))}
    return [reason.code for reason in appraise_log(tpm.ima_log, 0, pcrs, baseline.at(NOW)).reasons]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("algorithm", list(HASHES))
@pytest.mark.parametrize("kind", ["rsa", "ec"])
@pytest.mark.parametrize("template", ["ima-sig", "ima-sigv2", "ima-modsig"])
def test_a_signed_file_stands_for_a_listed_one(template: str, kind: str, algorithm: str, version: int) -> None:
    """By an agreed key that the log shows entering .ima, in every form and strong hash."""
    tpm = ForgedTpm(template=template)
    baseline = agreed(tpm, kind)
    tpm.log(buffer_line(b".ima", certificate(kind)))
    made = signature(b"x", kind, algorithm=algorithm, version=version)
    tpm.measure("/usr/bin/signed", b"x", algorithm=algorithm, more=[made])
    assert refused(tpm, baseline) == []


def test_a_key_is_found_by_its_certificates_identifier() -> None:
    """Signers may take the last four bytes of what the certificate says."""
    tpm = ForgedTpm(template="ima-sig")
    cert = certificate("rsa", 0, b"another identifier!!")
    tpm.log(buffer_line(b".ima", cert))
    tpm.measure("/usr/bin/signed", b"x", more=[signature(b"x", key_id=b"er!!")])
    tpm.measure("/usr/bin/also", b"x", more=[signature(b"x")])
    assert refused(tpm, agreed(tpm, "rsa", cert)) == []
    tpm.measure("/usr/bin/wrong", b"x", more=[signature(b"x", key_id=b"none")])
    assert refused(tpm, agreed(tpm, "rsa", cert)) == ["ima_signature"]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (b"", "not_in_policy"),
        (b"\3\2\4", "ima_signature"),
        (signature(b"y"), "ima_signature"),
        (signature(b"x", "ec"), "ima_signature"),
        (signature(b"x", number=1), "ima_signature"),
        (signature(b"x", type_=6), "ima_signature"),
        (signature(b"x", version=1), "ima_signature"),
        (signature(b"x", algorithm="sha512"), "ima_signature"),
        (signature(b"x") + b"\0", "ima_signature"),
        (signature(b"x")[:-1], "ima_signature"),
        (signature(b"x")[:7] + b"\0\1" + signature(b"x")[9:], "ima_signature"),
        (signature(b"x")[:2] + b"\2" + signature(b"x")[3:], "ima_signature"),
    ],
    ids=[
        "none",
        "cut",
        "other file",
        "other kind",
        "other key",
        "verity",
        "v1",
        "other hash",
        "long",
        "short",
        "other length",
        "sha1",
    ],
)
def test_i18_a_signature_by_no_agreed_key_is_refused(more: bytes, code: str) -> None:
    """I18: unsigned, of another file, by another key, or of another form."""
    tpm = ForgedTpm(template="ima-sig")
    baseline = agreed(tpm)
    tpm.log(buffer_line(b".ima", certificate("rsa")))
    tpm.measure("/usr/bin/signed", b"x", more=[more])
    assert refused(tpm, baseline) == [code]


def test_i18_a_key_of_1024_bits_signs_nothing() -> None:
    """I18: even where the parties name it."""
    tpm = ForgedTpm(template="ima-sig")
    tpm.log(buffer_line(b".ima", certificate("weak")))
    tpm.measure("/usr/bin/signed", b"x", more=[signature(b"x", "weak")])
    assert refused(tpm, agreed(tpm, "weak")) == ["ima_signature"]


def test_a_signature_counts_only_where_keys_are_agreed() -> None:
    """Without `keys` a signature is nothing; a listed file needs none, and a wrong one does not harm it."""
    tpm = ForgedTpm(template="ima-sig", files={"/usr/bin/listed": b"x"})
    baseline = replace(agreed(tpm), ima=ImaRules(keyrings=frozenset([told(certificate("rsa"))])))
    tpm.log(buffer_line(b".ima", certificate("rsa")))
    tpm.measure("/usr/bin/listed", b"x", more=[b"junk"])
    assert refused(tpm, baseline) == []
    tpm.measure("/usr/bin/signed", b"x", more=[signature(b"x")])
    assert refused(tpm, baseline) == ["not_in_policy"]


def test_i19_a_key_without_a_measured_line_signs_nothing() -> None:
    """I19: not before its line, not from another keyring, not in a line after the file's."""
    for ring in (None, b".builtin_trusted_keys", b".evm"):
        tpm = ForgedTpm(template="ima-sig")
        if ring is not None:
            tpm.log(buffer_line(ring, certificate("rsa")))
        tpm.measure("/usr/bin/signed", b"x", more=[signature(b"x")])
        tpm.log(buffer_line(b".ima", certificate("rsa")))
        assert refused(tpm, agreed(tpm)) == ["ima_signature"]


@pytest.mark.parametrize("ring", [b".ima", b"_ima", b".builtin_trusted_keys", b".blacklist", b".machine"])
def test_i19_a_key_that_is_not_agreed_may_enter_no_keyring(ring: bytes) -> None:
    """I19: one that is agreed may."""
    tpm = ForgedTpm()
    tpm.log(buffer_line(ring, certificate("rsa")))
    assert refused(tpm, tpm.baseline()) == ["ima_keyring"]
    assert refused(tpm, agreed(tpm)) == []
    tpm.log(buffer_line(ring, certificate("rsa", 1)))
    assert refused(tpm, agreed(tpm)) == ["ima_keyring"]


def test_an_agreed_key_under_another_name_enters_no_keyring() -> None:
    """`keyrings` excuses keys alone: the same content as a command line for kexec is not agreed."""
    tpm = ForgedTpm()
    tpm.log(buffer_line(b"kexec-cmdline", certificate("rsa")))
    assert refused(tpm, agreed(tpm)) == ["not_in_policy"]


def test_a_certificate_with_an_extension_twice_signs_nothing() -> None:
    """Agreed, and of no form that can be read: no key, and no exception."""
    plain = certificate("rsa", 0, b"another identifier!!")
    extension = plain[plain.index(b"\x30\x1d\x06\x03\x55\x1d\x0e") :][:31]
    assert plain.count(extension) == 1
    parts = plain.split(extension)
    # the lengths of what stands around it: certificate, body, [3], list of extensions
    doubled = bytearray(parts[0] + extension * 2 + parts[1])
    for at, width in ((2, 2), (6, 2), (len(parts[0]) - 3, 1), (len(parts[0]) - 1, 1)):
        doubled[at : at + width] = (int.from_bytes(doubled[at : at + width]) + len(extension)).to_bytes(width)
    with pytest.raises(x509.DuplicateExtension):
        _ = x509.load_der_x509_certificate(bytes(doubled)).extensions
    tpm = ForgedTpm(template="ima-sig")
    tpm.log(buffer_line(b".ima", bytes(doubled)))
    tpm.measure("/usr/bin/signed", b"x", more=[signature(b"x")])
    assert refused(tpm, agreed(tpm, "rsa", bytes(doubled))) == ["ima_signature"]


def test_what_enters_a_keyring_and_is_no_certificate_signs_nothing() -> None:
    """An agreed buffer that does not read as one: no key, and no exception."""
    tpm = ForgedTpm(template="ima-sig")
    tpm.log(buffer_line(b".ima", b"junk"))
    tpm.measure("/usr/bin/signed", b"x", more=[signature(b"x")])
    assert refused(tpm, agreed(tpm, "rsa", b"junk")) == ["ima_signature"]
