"""A development PKI in the shape of NVIDIA's: device roots, manifest roots, OCSP responders. Believed only where its root is given
as a simulated one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = 1_800_000_000
"""2027-01-15: the time at which what is forged here is valid unless a test says otherwise."""
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
END = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
Hash = hashes.SHA256 | hashes.SHA384


def moment(seconds: int) -> dt.datetime:
    """A time as certificates have it."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


@dataclass(frozen=True, slots=True)
class Holder:
    """A certificate, its key, and whoever issued it (None: itself)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    issuer: Holder | None = None

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def chain(self) -> list[Holder]:
        """From this one to its root."""
        return [self, *(self.issuer.chain() if self.issuer is not None else [])]


def certify(
    common: str,
    issuer: Holder | None,
    *,
    ca: bool = True,
    path_length: int | None = None,
    serial_number: str = "",
    start: dt.datetime = START,
    end: dt.datetime = END,
    extensions: Sequence[x509.ExtensionType] = (),
    critical: Sequence[x509.ExtensionType] = (),
    curve: ec.EllipticCurve | None = None,
    signed_with: Hash | None = None,
    signing: bool | None = None,
    signed_by: ec.EllipticCurvePrivateKey | None = None,
    usage: bool = True,
) -> Holder:
    """A certificate under `issuer`, or a root.

    signing    whether its key usage is for signatures; what an authority's is not, and any other's is, where None
    signed_by  another key than the issuer's: a forgery
    usage      whether it has a key usage at all
    """
    key = ec.generate_private_key(curve or ec.SECP384R1())
    subject = _name(common, serial_number)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if usage:
        builder = builder.add_extension(_usage(signing=not ca if signing is None else signing, certs=ca), critical=True)
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    for listed, mark in ((extensions, False), (critical, True)):
        for extension in listed:
            builder = builder.add_extension(extension, critical=mark)
    signer = signed_by or (issuer.key if issuer is not None else key)
    return Holder(builder.sign(signer, signed_with or hashes.SHA384()), key, issuer)


def responder(issuer: Holder, *, end: dt.datetime = END, delegated: bool = True) -> Holder:
    """An OCSP responder that `issuer` names, or, not `delegated`, a certificate of another use."""
    usage = [ExtendedKeyUsageOID.OCSP_SIGNING if delegated else ExtendedKeyUsageOID.CLIENT_AUTH]
    return certify("OCSP responder", issuer, ca=False, end=end, extensions=[x509.ExtendedKeyUsage(usage)])


def answer(
    subject: Holder,
    *,
    by: Holder | None = None,
    made: int = NOW - 3600,
    until: int | None = NOW + 86400,
    revoked: x509.ReasonFlags | None = None,
    unknown: bool = False,
    forged: bool = False,
    by_name: bool = False,
    named_with: hashes.HashAlgorithm | None = None,
    signed_with: Hash | None = None,
) -> bytes:
    """What a responder (`by`; a fresh one of the issuer where None) says of a certificate, in DER. `forged`: the issuer's own, with
    a signature that does not verify; `by_name`: the responder is told by its name; `named_with`: the hash of what names the
    certificate."""
    assert subject.issuer is not None
    signer = subject.issuer if forged else by or responder(subject.issuer)
    status = ocsp.OCSPCertStatus.REVOKED if revoked is not None else ocsp.OCSPCertStatus.GOOD
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=subject.certificate,
        issuer=subject.issuer.certificate,
        algorithm=named_with or hashes.SHA384(),
        cert_status=ocsp.OCSPCertStatus.UNKNOWN if unknown else status,
        this_update=moment(made),
        next_update=moment(until) if until is not None else None,
        revocation_time=moment(made) if revoked is not None else None,
        revocation_reason=revoked,
    )
    told = ocsp.OCSPResponderEncoding.NAME if by_name else ocsp.OCSPResponderEncoding.HASH
    builder = builder.responder_id(told, signer.certificate)
    if signer is not subject.issuer:
        builder = builder.certificates([signer.certificate])
    signed = builder.sign(signer.key, signed_with or hashes.SHA384()).public_bytes(Encoding.DER)
    return signed[:-1] + bytes((signed[-1] ^ 1,)) if forged else signed


def _name(common: str, serial_number: str) -> x509.Name:
    parts = [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "XX"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Perun development"),
        x509.NameAttribute(NameOID.COMMON_NAME, common),
    ]
    if serial_number:
        parts.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial_number))
    return x509.Name(parts)


def _usage(*, signing: bool, certs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signing,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certs,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
