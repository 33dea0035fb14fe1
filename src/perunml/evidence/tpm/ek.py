"""The endorsement key: is its certificate a vendor's, is it of a standard template, which machine does it name?

Certificates come from the host, are chained to roots that were given to the manager, and nothing is ever fetched by an
address inside them. TCG EK Credential Profile for TPM Family 2.0, level 0, version 2.5.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, ObjectIdentifier

from perunml.evidence.codes import (
    EK_CERTIFICATE,
    EK_CHAIN,
    EK_EXPIRED,
    EK_MISMATCH,
    EK_TEMPLATE,
    NON_CANONICAL,
    WEAK_SCHEME,
)
from perunml.evidence.tpm.algorithms import AES, CFB
from perunml.evidence.tpm.keys import (
    ADMIN_WITH_POLICY,
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    USER_WITH_AUTH,
)
from perunml.evidence.tpm.public import PublicArea, parse_public
from perunml.wire.digests import digest
from perunml.wire.errors import error, refuse
from perunml.wire.rules import Reason

MAX_CERTIFICATE = 16 * 1024
"""Bytes; the largest EK certificates have 2 KiB."""
MAX_CHAIN = 8
"""Certificates between leaf and root; vendors have up to three."""
EK_USAGE = ObjectIdentifier("2.23.133.8.1")
"""tcg-kp-EKCertificate."""

POLICY_A_SHA256 = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
_POLICY_B_SHA256 = bytes.fromhex("ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0")
_POLICY_B_SHA384 = bytes.fromhex(
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)
_LOW = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT
_HIGH = _LOW | USER_WITH_AUTH
_STANDARD = {
    # (key, name hash): attributes and policy of templates L-1, L-2 and H-1 to H-3 (profile, annex B.3 and B.4)
    ("rsa2048", "sha256", 128): ((_LOW, POLICY_A_SHA256), (_HIGH, _POLICY_B_SHA256)),
    ("p256", "sha256", 128): ((_LOW, POLICY_A_SHA256), (_HIGH, _POLICY_B_SHA256)),
    ("p384", "sha384", 256): ((_HIGH, _POLICY_B_SHA384),),
}
_KNOWN_EXTENSIONS = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.CERTIFICATE_POLICIES,
}


@dataclass(frozen=True, slots=True)
class EkIdentity:
    """Who the machine is: `machine` is ``ek:sha256:`` of the EK's SubjectPublicKeyInfo (DER), `vendor` the issuer's
    name for people, `simulated` whether the chain ends at a root that stands for no vendor."""

    machine: str
    simulated: bool
    vendor: str


def check_ek_template(ek_public: bytes) -> PublicArea:
    """The EK in a TPM2B_PUBLIC. Raises `EvidenceRefusal` (ek_template) unless it is of a standard template, so that its
    credentials open only with the endorsement hierarchy's own policy."""
    public = parse_public(ek_public)
    key = public.curve or f"rsa{public.bits}"
    bits = public.symmetric[1] if public.symmetric else 0
    allowed = _STANDARD.get((key, public.name_hash, bits), ())
    if public.symmetric != (AES, bits, CFB) or public.scheme is not None:
        raise refuse(EK_TEMPLATE, "the EK's parameters are not of a standard template", seen=key)
    if (public.attributes, public.policy) not in allowed:
        raise refuse(
            EK_TEMPLATE,
            "the EK's attributes or policy are not of a standard template",
            expected="TCG EK Credential Profile L-1, L-2, H-1, H-2 or H-3",
            seen=f"{key}, attributes {public.attributes:08x}, policy {public.policy.hex()}",
        )
    return public


def ek_machine(ek_public: PublicArea) -> str:
    """``ek:sha256:…``: the machine's name."""
    spki = ek_public.key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "ek:" + digest(spki)


def verify_ek(
    certificate: bytes,
    chain: Sequence[bytes],
    ek_public: bytes,
    *,
    vendor_roots: Sequence[bytes],
    simulated_roots: Sequence[bytes],
    now: int,
) -> EkIdentity:
    """The machine whose EK this is. Certificates are DER (roots may be PEM), `now` is in seconds since 1970.

    Raises `EvidenceRefusal` with every reason found: ek_certificate, ek_chain, ek_expired, ek_mismatch, ek_template,
    weak_scheme, non_canonical.
    """
    public = check_ek_template(ek_public)
    if len(chain) > MAX_CHAIN:
        raise refuse(EK_CHAIN, "the chain is too long", expected=f"at most {MAX_CHAIN}", seen=str(len(chain)))
    leaf = _load(certificate)
    reasons = list(_leaf_reasons(leaf, public))
    roots = [(_load(root), False) for root in vendor_roots] + [(_load(root), True) for root in simulated_roots]
    path = _path(leaf, [_load(other) for other in chain], roots)
    if path is None:
        reasons.append(
            Reason(EK_CHAIN, "the EK certificate does not lead to a known root", seen=leaf.issuer.rfc4514_string())
        )
        raise error(reasons)
    certificates, simulated = path
    reasons.extend(_path_reasons(certificates, dt.datetime.fromtimestamp(now, dt.UTC)))
    if reasons:
        raise error(reasons)
    return EkIdentity(ek_machine(public), simulated, leaf.issuer.rfc4514_string())


def _load(data: bytes) -> x509.Certificate:
    if len(data) > MAX_CERTIFICATE:
        raise refuse(
            NON_CANONICAL, "a certificate is too large", expected=f"{MAX_CERTIFICATE} bytes", seen=f"{len(data)}"
        )
    try:
        pem = data.lstrip().startswith(b"-----BEGIN")
        made = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
        # the library reads lazily: whatever will be looked at is read here, once, so that nothing raises later
        _ = (made.subject, made.issuer, made.extensions, made.signature_hash_algorithm)
        _ = (made.not_valid_before_utc, made.not_valid_after_utc)
    except Exception:  # the library has many, some of no common class, and the bytes are the attacker's
        raise refuse(NON_CANONICAL, "not an X.509 certificate that can be read") from None
    return made


def _path(
    leaf: x509.Certificate, others: list[x509.Certificate], roots: list[tuple[x509.Certificate, bool]]
) -> tuple[list[x509.Certificate], bool] | None:
    """From the leaf up to a root, by signature; the first that fits wins, vendors' roots first."""

    tried: list[x509.Certificate] = []  # each once: certificates that issue one another must not cost factorial time

    def climb(path: list[x509.Certificate]) -> tuple[list[x509.Certificate], bool] | None:
        for root, simulated in roots:
            if _issued(path[-1], root):
                return [*path, root], simulated
        for other in others:
            if other not in tried and _issued(path[-1], other):
                tried.append(other)
                if found := climb([*path, other]):
                    return found
        return None

    return climb([leaf])


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if certificate.issuer != issuer.subject or certificate == issuer:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _leaf_reasons(leaf: x509.Certificate, public: PublicArea) -> Iterator[Reason]:
    try:
        key = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        yield Reason(EK_CERTIFICATE, "the EK certificate's key is not RSA or ECC")
    elif key.public_numbers() != public.key().public_numbers():
        yield Reason(EK_MISMATCH, "the EK certificate is for another key")
    extensions = {e.oid: e.value for e in leaf.extensions}
    usage = extensions.get(ExtensionOID.EXTENDED_KEY_USAGE)
    if not isinstance(usage, x509.ExtendedKeyUsage) or EK_USAGE not in usage:
        yield Reason(EK_CERTIFICATE, "not certified for use as an EK", expected="tcg-kp-EKCertificate (2.23.133.8.1)")
    basic = extensions.get(ExtensionOID.BASIC_CONSTRAINTS)
    if isinstance(basic, x509.BasicConstraints) and basic.ca:
        yield Reason(EK_CERTIFICATE, "the EK certificate is a CA's")


def _path_reasons(path: list[x509.Certificate], now: dt.datetime) -> Iterator[Reason]:
    for depth, certificate in enumerate(path):
        name = certificate.subject.rfc4514_string() or "the EK certificate"
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            yield Reason(
                EK_EXPIRED,
                f"not valid at this time: {name}",
                expected=f"{certificate.not_valid_before_utc} to {certificate.not_valid_after_utc}",
                seen=str(now),
            )
        signed_by = certificate.signature_hash_algorithm
        # the root's own signature proves nothing: it is known by its bytes
        if depth + 1 < len(path) and (signed_by is None or signed_by.digest_size < 32):
            yield Reason(WEAK_SCHEME, f"a weak hash signs {name}", expected="SHA-256 or stronger")
        for extension in certificate.extensions:
            if extension.critical and extension.oid not in _KNOWN_EXTENSIONS:
                yield Reason(EK_CERTIFICATE, f"unknown critical extension: {name}", seen=extension.oid.dotted_string)
        if depth:
            yield from _issuer_reasons(certificate, depth, name)


def _issuer_reasons(certificate: x509.Certificate, depth: int, name: str) -> Iterator[Reason]:
    extensions = {e.oid: e.value for e in certificate.extensions}
    basic = extensions.get(ExtensionOID.BASIC_CONSTRAINTS)
    if not isinstance(basic, x509.BasicConstraints) or not basic.ca:
        yield Reason(EK_CHAIN, f"not a CA: {name}")
    elif basic.path_length is not None and depth - 1 > basic.path_length:
        yield Reason(EK_CHAIN, f"may not issue so long a chain: {name}", expected=str(basic.path_length))
    usage = extensions.get(ExtensionOID.KEY_USAGE)
    if isinstance(usage, x509.KeyUsage) and not usage.key_cert_sign:
        yield Reason(EK_CHAIN, f"may not sign certificates: {name}")
