"""Chains of NVIDIA's certificates: ECDSA on P-384 from the first to a root that is pinned, or given as a development root."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.parts import MAX_CERTIFICATE
from perunml.evidence.tee.codes import CERTIFICATE_CHAIN, CERTIFICATE_EXPIRED
from perunml.wire.errors import refuse
from perunml.wire.rules import Reason

T = TypeVar("T", bound=x509.ExtensionType)

UNDERSTOOD = frozenset(
    {
        x509.OID_BASIC_CONSTRAINTS,
        x509.OID_KEY_USAGE,
        x509.OID_EXTENDED_KEY_USAGE,
    }
)
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
"""Signatures of certificates over certificates that are remembered as good: a device's own, and the few above it."""


def read_certificate(der: bytes, what: str) -> x509.Certificate:
    """Raises `EvidenceRefusal` (non_canonical). The library reads most of a certificate only when it is asked for it: all that is
    looked at later is looked at here."""
    try:
        if len(der) > MAX_CERTIFICATE:
            raise ValueError("too long")
        found = x509.load_der_x509_certificate(der)
        read_whole(found)
    except UNREADABLE:
        raise refuse(NON_CANONICAL, f"{what} cannot be read as a certificate") from None
    return found


def read_whole(certificate: x509.Certificate) -> None:
    """Raises one of `UNREADABLE` where a part of it cannot be read."""
    for look in (
        lambda: certificate.issuer.rfc4514_string(),
        lambda: certificate.subject.rfc4514_string(),
        lambda: (certificate.not_valid_before_utc, certificate.not_valid_after_utc),
        lambda: [extension.oid for extension in certificate.extensions],
        certificate.public_key,
        lambda: certificate.signature_hash_algorithm,
    ):
        look()


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of its DER, in hex."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def trusted_by(chain: Sequence[x509.Certificate], roots: Mapping[str, str], simulated: Sequence[bytes]) -> bool | None:
    """Which kind of root the chain ends in: True for a development root, False for the vendor's, None for neither."""
    last = fingerprint(chain[-1])
    if last in roots:
        return False
    return True if last in {hashlib.sha256(root).hexdigest() for root in simulated} else None


def chain_reasons(chain: Sequence[x509.Certificate], what: str, now: int) -> tuple[Reason, ...]:
    """Every reason why the chain, the first certificate first, a self-signed root last, is not one at `now` (RFC 5280, 6.1).
    Whether its root is trusted is for `trusted_by`."""
    found = []
    for depth, certificate in enumerate(chain):
        issuer = chain[min(depth + 1, len(chain) - 1)]
        name = f"{what}, certificate {depth}"
        if why := _unfit(certificate, depth) or (None if issued(certificate, issuer) else "its issuer did not sign it"):
            found.append(Reason(CERTIFICATE_CHAIN, f"{name}: {why}", seen=_subject(certificate)))
        if not in_force(certificate, now):
            until = certificate.not_valid_after_utc.isoformat()
            found.append(
                Reason(CERTIFICATE_EXPIRED, f"{name} is not valid at this time", expected=until, seen=str(now))
            )
    return tuple(found)


def in_force(certificate: x509.Certificate, now: int) -> bool:
    """Whether `now` (seconds since 1970) is in its time; both ends belong to it."""
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return begin <= now <= end


@lru_cache(maxsize=CACHED)
def issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer`'s key, on P-384, signed the certificate, and its name is the one that it is issued under. Pure."""
    key = issuer.public_key()
    if certificate.issuer != issuer.subject or not on_p384(key):
        return False
    assert isinstance(key, ec.EllipticCurvePublicKey)
    if not isinstance(certificate.signature_hash_algorithm, hashes.SHA384):
        return False
    try:
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        return False
    return True


def on_p384(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)


def _unfit(certificate: x509.Certificate, depth: int) -> str | None:
    """Why it may not stand at `depth` of a chain (0: the one whose key signs evidence)."""
    if not on_p384(certificate.public_key()):
        return "its key is not on P-384"
    if unknown := [e.oid.dotted_string for e in certificate.extensions if e.critical and e.oid not in UNDERSTOOD]:
        return f"its critical extension {unknown[0]} is not known"
    basic, usage = extension(certificate, x509.BasicConstraints), extension(certificate, x509.KeyUsage)
    if depth == 0:
        if basic is not None and basic.ca:
            return "it is an authority's"
        return None if usage is not None and usage.digital_signature else "it is not for signatures"
    if basic is None or not basic.ca or usage is None or not usage.key_cert_sign:
        return "it is not an authority's"
    if basic.path_length is not None and basic.path_length < depth - 1:
        return "it may not have that many certificates below it"
    return None


def extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    """An extension's value, or None where it has none."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()
