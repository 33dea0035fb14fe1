"""Chains of vendors' certificates, from the key that signs evidence to a self-signed root (RFC 5280, 6.1, as far as chains of a
fixed and known shape need it): AMD's RSASSA-PSS and NVIDIA's ECDSA on P-384, both with SHA-384.

Certificates come from the host or from collateral; nothing is ever fetched by an address inside one.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID

from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.parts import MAX_CERTIFICATE
from perunml.evidence.tee.codes import CERTIFICATE_CHAIN, CERTIFICATE_EXPIRED, CERTIFICATE_REVOKED
from perunml.wire.errors import refuse
from perunml.wire.rules import Reason
from perunml.wire.timestamps import format_time

T = TypeVar("T", bound=x509.ExtensionType)

UNDERSTOOD = frozenset({x509.OID_BASIC_CONSTRAINTS, x509.OID_KEY_USAGE, x509.OID_EXTENDED_KEY_USAGE})
"""Extensions that may be critical (RFC 5280, 4.2): what is marked so and not known is refused."""
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)
"""What the library raises for a certificate, or a part of it, that is none."""
CACHED = 4096
"""Certificates that are kept read, and signatures that are remembered as good: a fleet's, and the few above them."""
MAX_CRL = 1024 * 1024
"""Bytes of a revocation list."""
RSA_BITS = 4096
SALT = 48
"""Bytes of RSASSA-PSS's salt: SHA-384's."""


@lru_cache(maxsize=CACHED)
def read_certificate(der: bytes, what: str = "a certificate") -> x509.Certificate:
    """Raises `EvidenceRefusal` (non_canonical)."""
    try:
        if len(der) > MAX_CERTIFICATE:
            raise ValueError("too long")
        with warnings.catch_warnings():
            # AMD numbers some certificates 0, which RFC 5280 does not allow and which changes nothing here
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            found = x509.load_der_x509_certificate(der)
            _read_whole(found)
    except UNREADABLE:
        raise refuse(NON_CANONICAL, f"{what} cannot be read as a certificate") from None
    return found


def _read_whole(certificate: x509.Certificate) -> None:
    """The library reads most of a certificate only when it is asked for it: all that is looked at later is looked at here."""
    for look in (
        lambda: certificate.issuer.rfc4514_string(),
        lambda: certificate.subject.rfc4514_string(),
        lambda: (certificate.not_valid_before_utc, certificate.not_valid_after_utc),
        lambda: list(certificate.extensions),
        certificate.public_key,
        lambda: (certificate.signature_hash_algorithm, certificate.signature_algorithm_parameters),
    ):
        look()


@lru_cache(maxsize=CACHED)
def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of its DER, in hex."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def trusted_by(root: x509.Certificate, roots: Mapping[str, str], simulated: Sequence[bytes]) -> bool | None:
    """Which kind of root it is: False for one of the vendor's (fingerprint -> name), True for a development root, None for
    neither."""
    found = fingerprint(root)
    if found in roots:
        return False
    return True if found in {hashlib.sha256(each).hexdigest() for each in simulated} else None


def chain_reasons(chain: Sequence[x509.Certificate], what: str, now: int) -> tuple[Reason, ...]:
    """Every reason why the chain, the leaf first and a self-signed root last, is not one at `now` (seconds since 1970). Whether
    its root is trusted is for `trusted_by`."""
    found = []
    for depth, certificate in enumerate(chain):
        issuer = chain[min(depth + 1, len(chain) - 1)]
        name = f"{what}, certificate {depth}"
        if why := _unfit(certificate, depth) or (None if issued(certificate, issuer) else "its issuer did not sign it"):
            found.append(Reason(CERTIFICATE_CHAIN, f"{name}: {why}", seen=certificate.subject.rfc4514_string()))
        if not in_force(certificate, now):
            begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
            expected = f"{format_time(int(begin))} to {format_time(int(end))}"
            found.append(Reason(CERTIFICATE_EXPIRED, f"{name} is not valid at this time", expected, format_time(now)))
    return tuple(found)


def in_force(certificate: x509.Certificate, now: int) -> bool:
    """Whether `now` (seconds since 1970) is in its time; both ends belong to it."""
    return certificate.not_valid_before_utc.timestamp() <= now <= certificate.not_valid_after_utc.timestamp()


@lru_cache(maxsize=CACHED)
def issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer`'s key signed the certificate, and its name is the one that it is issued under."""
    if certificate.issuer != issuer.subject or not isinstance(certificate.signature_hash_algorithm, hashes.SHA384):
        return False
    return _signed(
        issuer, certificate.signature, certificate.tbs_certificate_bytes, certificate.signature_algorithm_parameters
    )


def _signed(issuer: x509.Certificate, signature: bytes, signed: bytes, parameters: object) -> bool:
    key = issuer.public_key()
    try:
        if on_p384(key):
            assert isinstance(key, ec.EllipticCurvePublicKey)
            key.verify(signature, signed, ec.ECDSA(hashes.SHA384()))
            return True
        # only PSS: PKCS #1 v1.5 is nobody's here, so it is nobody's to forge
        if isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_BITS and isinstance(parameters, padding.PSS):
            key.verify(signature, signed, padding.PSS(padding.MGF1(hashes.SHA384()), SALT), hashes.SHA384())
            return True
    except (InvalidSignature, ValueError):
        pass
    return False


def on_p384(key: object) -> bool:
    """Whether it is a public key on P-384."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)


def extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    """An extension's value, or None where it has none."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _unfit(certificate: x509.Certificate, depth: int) -> str | None:
    """Why it may not stand at `depth` of a chain (0: the one whose key signs evidence)."""
    key = certificate.public_key()
    if not on_p384(key) and (depth == 0 or not isinstance(key, rsa.RSAPublicKey) or key.key_size < RSA_BITS):
        return "its key is not of an accepted kind"
    if unknown := [e.oid.dotted_string for e in certificate.extensions if e.critical and e.oid not in UNDERSTOOD]:
        return f"its critical extension {unknown[0]} is not known"
    basic, usage = extension(certificate, x509.BasicConstraints), extension(certificate, x509.KeyUsage)
    if depth == 0:
        if basic is not None and basic.ca:
            return "it is an authority's"
        # AMD's leaves say nothing of their use; what says something says this
        return None if usage is None or usage.digital_signature else "it is not for signatures"
    if basic is None or not basic.ca or usage is None or not usage.key_cert_sign:
        return "it is not an authority's"
    if basic.path_length is not None and basic.path_length < depth - 1:
        return "it may not have that many certificates below it"
    return None


@dataclass(frozen=True, slots=True, eq=False)
class RevocationList:
    """One that was read; the same bytes give the same one again, so its signature is checked once."""

    crl: x509.CertificateRevocationList


@lru_cache(maxsize=64)
def read_crl(der: bytes) -> RevocationList:
    """Raises `EvidenceRefusal` (non_canonical)."""
    try:
        if len(der) > MAX_CRL:
            raise ValueError("too long")
        found = x509.load_der_x509_crl(der)
        if any(each.critical and each.oid != ExtensionOID.CRL_NUMBER for each in found.extensions):
            raise ValueError("tells of some certificates only")
    except (ValueError, TypeError, x509.DuplicateExtension):
        raise refuse(NON_CANONICAL, "a revocation list cannot be read, or tells of some certificates only") from None
    return RevocationList(found)


def revoked(
    certificate: x509.Certificate, issuer: x509.Certificate, lists: Sequence[RevocationList], now: int
) -> bool | None:
    """Whether the newest list of its issuer in force at `now` names the certificate; None where there is no such list. A list
    that is past its time still revokes, and never clears."""
    own = [one.crl for one in lists if _of(one, issuer) and one.crl.last_update_utc.timestamp() <= now]
    if any(crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None for crl in own):
        return True
    fresh = [crl for crl in own if crl.next_update_utc is not None and now <= crl.next_update_utc.timestamp()]
    return False if fresh else None


@lru_cache(maxsize=256)
def _of(one: RevocationList, issuer: x509.Certificate) -> bool:
    crl = one.crl
    if crl.issuer != issuer.subject or not isinstance(crl.signature_hash_algorithm, hashes.SHA384):
        return False
    usage = extension(issuer, x509.KeyUsage)
    parameters = crl.signature_algorithm_parameters
    return bool(usage and usage.crl_sign) and _signed(issuer, crl.signature, crl.tbs_certlist_bytes, parameters)


def revoked_reason(certificate: x509.Certificate, what: str) -> Reason:
    """The reason for a revoked certificate."""
    return Reason(CERTIFICATE_REVOKED, f"{what} was revoked by its issuer", seen=certificate.subject.rfc4514_string())
