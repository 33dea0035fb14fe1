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
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
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
_PARTIAL = (ExtensionOID.ISSUING_DISTRIBUTION_POINT, ExtensionOID.DELTA_CRL_INDICATOR)
"""What makes a list one of some certificates, or of what changed: RFC 5280 demands that it be critical, and here it is refused
either way."""
RSA_BITS = 4096
"""Of AMD's authorities, neither more nor less: a host could send a larger key, which only takes longer."""
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
def key_of(certificate: x509.Certificate) -> CertificatePublicKeyTypes:
    """Its public key, made once: OpenSSL takes a tenth of a verification to make it."""
    return certificate.public_key()


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
            expected = " to ".join(map(format_time, _validity(certificate)))
            found.append(Reason(CERTIFICATE_EXPIRED, f"{name} is not valid at this time", expected, format_time(now)))
    return tuple(found)


def in_force(certificate: x509.Certificate, now: int) -> bool:
    """Whether `now` (seconds since 1970) is in its time; both ends belong to it."""
    begin, end = _validity(certificate)
    return begin <= now <= end


@lru_cache(maxsize=CACHED)
def _validity(certificate: x509.Certificate) -> tuple[int, int]:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return int(begin.timestamp()), int(end.timestamp())


@lru_cache(maxsize=CACHED)
def issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer`'s key signed the certificate, and its name is the one that it is issued under."""
    if certificate.issuer != issuer.subject or not isinstance(certificate.signature_hash_algorithm, hashes.SHA384):
        return False
    return _signed(
        issuer, certificate.signature, certificate.tbs_certificate_bytes, certificate.signature_algorithm_parameters
    )


def _signed(issuer: x509.Certificate, signature: bytes, signed: bytes, parameters: object) -> bool:
    key = key_of(issuer)
    try:
        if on_p384(key):
            assert isinstance(key, ec.EllipticCurvePublicKey)
            key.verify(signature, signed, ec.ECDSA(hashes.SHA384()))
            return True
        # only PSS: PKCS #1 v1.5 is nobody's here, so it is nobody's to forge
        if isinstance(key, rsa.RSAPublicKey) and key.key_size == RSA_BITS and isinstance(parameters, padding.PSS):
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


@lru_cache(maxsize=CACHED)
def _unfit(certificate: x509.Certificate, depth: int) -> str | None:
    """Why it may not stand at `depth` of a chain (0: the one whose key signs evidence)."""
    key = certificate.public_key()
    if not on_p384(key) and (depth == 0 or not isinstance(key, rsa.RSAPublicKey) or key.key_size != RSA_BITS):
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
    """One that was read; the same bytes give the same one again, so its signature is checked once.

    issued, until  seconds since 1970; None where it names no end, and then it is never in force
    number         its own, or 0
    """

    crl: x509.CertificateRevocationList
    issued: int
    until: int | None
    number: int


@lru_cache(maxsize=64)
def read_crl(der: bytes) -> RevocationList:
    """Raises `EvidenceRefusal` (non_canonical)."""
    try:
        if len(der) > MAX_CRL:
            raise ValueError("too long")
        found = x509.load_der_x509_crl(der)
        if any(
            each.critical or each.oid in _PARTIAL for each in found.extensions if each.oid != ExtensionOID.CRL_NUMBER
        ):
            raise ValueError("tells of some certificates only")
        until = found.next_update_utc
        numbers = [each.value.crl_number for each in found.extensions if isinstance(each.value, x509.CRLNumber)]
        issuer, parameters = found.issuer.rfc4514_string(), found.signature_algorithm_parameters
        del issuer, parameters  # looked at here, so that nothing is refused later without a code
        since = int(found.last_update_utc.timestamp())
        return RevocationList(found, since, int(until.timestamp()) if until else None, numbers[0] if numbers else 0)
    except UNREADABLE:
        raise refuse(NON_CANONICAL, "a revocation list cannot be read, or tells of some certificates only") from None


@dataclass(frozen=True, slots=True)
class Revocation:
    """What an issuer's lists tell of a certificate.

    revoked  one of them names it; a list that is past its time still revokes, and never clears
    newest   name (by the issuer's certificate), number (0 where it has none) and time of the newest list in force; None where
             there is no such list
    """

    revoked: bool
    newest: tuple[str, int, int] | None


def revocation(
    certificate: x509.Certificate, issuer: x509.Certificate, lists: Sequence[RevocationList], now: int
) -> Revocation:
    """What the lists (of whichever issuers) tell of a certificate at `now` (seconds since 1970)."""
    own = [one for one in lists if _of(one, issuer) and one.issued <= now]
    hit = any(one.crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None for one in own)
    fresh = [(one.number, one.issued) for one in own if one.until is not None and now <= one.until]
    if not fresh:
        return Revocation(hit, None)
    number, issued_at = max(fresh)
    return Revocation(hit, (f"crl:{fingerprint(issuer)}", number, issued_at))


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
