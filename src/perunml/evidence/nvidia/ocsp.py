"""Finds what NVIDIA's OCSP responders say of a certificate (RFC 6960), in a dated set of their answers. Nobody is asked, so an
answer holds no nonce of ours: its own dates say how old it is, and the profile how old it may be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from perunml.evidence.x509 import UNREADABLE, extension, in_force, issued, on_p384, read_certificate
from perunml.wire.errors import EvidenceRefusal

MAX_ANSWER = 64 * 1024
"""Bytes of one response; NVIDIA's have some 1,500."""
CACHED = 4096
"""Answers whose signatures are remembered as good."""
CLOCK_SKEW = 300
"""Seconds by which a responder's clock may run ahead of ours."""
GOOD, REVOKED, UNKNOWN = "good", "revoked", "unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the newest authentic answer says of a certificate.

    subject  its name
    status   ``good``, ``revoked`` (on hold as well) or ``unknown``
    why      the reason of a revocation, or empty
    made     thisUpdate: seconds since 1970 at which it was known to be so
    until    nextUpdate, or None where newer information is to be had at any time
    """

    subject: str
    status: str
    why: str
    made: int
    until: int | None


@dataclass(frozen=True, slots=True)
class _Signed:
    answer: Answer
    responder: x509.Certificate | None


def newest_answer(
    certificate: x509.Certificate, issuer: x509.Certificate, responses: Sequence[bytes], now: int
) -> Answer | None:
    """The newest answer about `certificate` by its issuer or a responder that the issuer named, or None. What is no answer, is
    not signed by one of them, or comes from the future says nothing."""
    about = _by_serial(tuple(responses)).get(certificate.serial_number, ())
    found = [read for response in about if (read := _read(response, certificate, issuer)) is not None]
    usable = [
        one.answer
        for one in found
        if one.answer.made <= now + CLOCK_SKEW and (one.responder is None or in_force(one.responder, now))
    ]
    # of two that are equally new, the one that is not good
    return max(usable, key=lambda answer: (answer.made, answer.status != GOOD), default=None)


@lru_cache(maxsize=8)
def _by_serial(responses: tuple[bytes, ...]) -> dict[int, tuple[bytes, ...]]:
    """The answers by the serial number they are about: a fleet's set has thousands."""
    found: dict[int, tuple[bytes, ...]] = {}
    for data in responses:
        if (response := _response(data)) is not None:
            found[response.serial_number] = (*found.get(response.serial_number, ()), data)
    return found


def _response(data: bytes) -> ocsp.OCSPResponse | None:
    try:
        found = ocsp.load_der_ocsp_response(data) if len(data) <= MAX_ANSWER else None
        successful = found is not None and found.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
        return found if successful and found is not None and len(list(found.responses)) == 1 else None
    except ValueError:
        return None  # it is no answer; nothing follows from it


@lru_cache(maxsize=CACHED)
def _read(data: bytes, certificate: x509.Certificate, issuer: x509.Certificate) -> _Signed | None:
    """Pure: looks at no clock."""
    response = _response(data)
    try:
        if response is None or response.serial_number != certificate.serial_number or not _about(response, issuer):
            return None
        signed, responder = _signed_by(response, issuer)
    except (*UNREADABLE, EvidenceRefusal):
        return None  # a responder's certificate or an algorithm in it cannot be read
    if not signed:
        return None
    revoked = response.certificate_status is ocsp.OCSPCertStatus.REVOKED
    good = response.certificate_status is ocsp.OCSPCertStatus.GOOD
    reason = response.revocation_reason
    until = response.next_update_utc
    answer = Answer(
        subject=certificate.subject.rfc4514_string(),
        status=REVOKED if revoked else GOOD if good else UNKNOWN,
        why=reason.value if reason is not None else "",
        made=int(response.this_update_utc.timestamp()),
        until=int(until.timestamp()) if until is not None else None,
    )
    return _Signed(answer, responder)


def _about(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> bool:
    """Whether its CertID names this issuer (RFC 6960, 4.1.1)."""
    name = response.hash_algorithm.name
    if name not in ("sha1", "sha256", "sha384", "sha512"):
        return False
    wanted = (_digest(name, issuer.subject.public_bytes()), _digest(name, _key_bits(issuer)))
    return wanted == (response.issuer_name_hash, response.issuer_key_hash)


def _signed_by(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> tuple[bool, x509.Certificate | None]:
    """(whether it is signed by the issuer or one that the issuer made a responder, that one's certificate)."""
    if _is_responder(response, issuer) and _verifies(response, issuer):
        return True, None
    for listed in response.certificates:
        certificate = read_certificate(listed.public_bytes(Encoding.DER), "a responder's certificate")
        usage = extension(certificate, x509.ExtendedKeyUsage)
        delegated = usage is not None and ExtendedKeyUsageOID.OCSP_SIGNING in usage
        if delegated and _is_responder(response, certificate) and issued(certificate, issuer):
            return _verifies(response, certificate), certificate
    return False, None


def _is_responder(response: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    if not on_p384(certificate.public_key()):
        return False
    if response.responder_name is not None:
        return response.responder_name == certificate.subject
    return response.responder_key_hash == _digest("sha1", _key_bits(certificate))


def _verifies(response: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    key, algorithm = certificate.public_key(), response.signature_hash_algorithm
    if not on_p384(key) or not isinstance(algorithm, hashes.SHA384):
        return False
    assert isinstance(key, ec.EllipticCurvePublicKey)
    try:
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
    except (InvalidSignature, ValueError):
        return False
    return True


def _key_bits(certificate: x509.Certificate) -> bytes:
    """The BIT STRING of its public key, without tag, length and unused bits: of an EC key, its point."""
    return certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _digest(name: str, data: bytes) -> bytes:
    # SHA-1 only names a certificate here (RFC 6960 fixes it for responders' keys); what counts is signed with SHA-384
    return hashlib.new(name, data, usedforsecurity=False).digest()
