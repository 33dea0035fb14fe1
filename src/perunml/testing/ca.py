"""A development CA for EK certificates. A manager believes it only when it is told so with `--simulated-ek-root`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from perunml.evidence.tpm.ek import EK_USAGE
from perunml.evidence.tpm.names import MANUFACTURER, MODEL, VERSION

_EK_USAGE = x509.ObjectIdentifier(EK_USAGE)
_TPM = (MANUFACTURER, MODEL, VERSION)
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
END = dt.datetime(2099, 12, 31, tzinfo=dt.UTC)
_CertifiedKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class DevelopmentCa:
    """A root (signed with SHA-224, as old ones with SHA-1: it is known by its bytes) and an intermediate, made in memory.

    ca, path_length, may_sign, may_revoke  what the intermediate's (for path_length the root's) certificate allows it;
                               ca=None leaves basic constraints out
    """

    def __init__(
        self,
        name: str = "Perun development CA",
        *,
        ca: bool = True,
        path_length: int | None = None,
        may_sign: bool = True,
        may_revoke: bool = True,
    ) -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._issuer_key = ec.generate_private_key(ec.SECP256R1())
        root, issuer = _name(name + " root"), _name(name + " issuer")
        self._issuer_name = issuer
        self._root = _ca(root, root, self._root_key.public_key(), self._root_key, path_length=path_length, root=True)
        issuer_key = self._issuer_key.public_key()
        self._issuer = _ca(issuer, root, issuer_key, self._root_key, ca=ca, may_sign=may_sign, may_revoke=may_revoke)

    @property
    def root(self) -> bytes:
        """DER."""
        return self._root.public_bytes(Encoding.DER)

    @property
    def chain(self) -> list[bytes]:
        """DER, without the root."""
        return [self._issuer.public_bytes(Encoding.DER)]

    def certify(
        self,
        key: _CertifiedKey,
        *,
        usage: x509.ObjectIdentifier | None = _EK_USAGE,
        end: dt.datetime = END,
        critical: str = "",
        self_signed_by: ec.EllipticCurvePrivateKey | None = None,
        signed_with: hashes.SHA224 | hashes.SHA256 | None = None,
        ca: bool = False,
        tpm: tuple[str, str, str] | None = None,
        signing: bool | None = None,
        subject: str = "TPM",
        extension: tuple[str, bytes] | None = None,
        serial: int = 0,
    ) -> bytes:
        """An EK certificate in DER, or an attestation key's.

        critical   adds an unknown critical extension of that OID
        tpm        manufacturer (``id:…``), model and version in the alternative name
        signing    whether the key usage is for signing, or for encryption; None leaves it out
        extension  one more, by its OID
        """
        subject_name = _name(subject)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject_name)
            .issuer_name(subject_name if self_signed_by else self._issuer_name)
            .public_key(key)
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(START)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if critical:
            unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(critical), b"\x05\x00")
            builder = builder.add_extension(unknown, critical=True)
        if tpm is not None:
            told = [x509.NameAttribute(x509.ObjectIdentifier(oid), text) for oid, text in zip(_TPM, tpm, strict=True)]
            directory = x509.DirectoryName(x509.Name(told))
            builder = builder.add_extension(x509.SubjectAlternativeName([directory]), critical=True)
        if signing is not None:
            builder = builder.add_extension(_usage(signing=signing, enciphering=not signing), critical=True)
        if extension is not None:
            other = x509.UnrecognizedExtension(x509.ObjectIdentifier(extension[0]), extension[1])
            builder = builder.add_extension(other, critical=False)
        made = builder.sign(self_signed_by or self._issuer_key, signed_with or hashes.SHA256())
        return made.public_bytes(Encoding.DER)

    def revocations(
        self,
        serials: Sequence[int] = (),
        *,
        by_root: bool = False,
        since: dt.datetime = START,
        until: dt.datetime = END,
        forged: bool = False,
        partial: bool = False,
        weak: bool = False,
    ) -> bytes:
        """A revocation list in DER of the intermediate, or `by_root` of the root; `forged` by another key, `partial` (a
        critical extension says that it tells of some certificates only), signed with a `weak` hash."""
        issuer, key = (self._root, self._root_key) if by_root else (self._issuer, self._issuer_key)
        builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
        builder = builder.last_update(since).next_update(until)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
            builder = builder.add_revoked_certificate(entry)
        if partial:
            some = x509.IssuingDistributionPoint(None, None, True, False, None, False, False)
            builder = builder.add_extension(some, critical=True)
        signer = ec.generate_private_key(ec.SECP256R1()) if forged else key
        return builder.sign(signer, hashes.SHA224() if weak else hashes.SHA256()).public_bytes(Encoding.DER)

    @property
    def issuer_serial(self) -> int:
        """The intermediate's serial number."""
        return self._issuer.serial_number


def _usage(
    *, signing: bool = False, enciphering: bool = False, certs: bool = False, lists: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signing,
        content_commitment=False,
        key_encipherment=enciphering,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certs,
        crl_sign=lists,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _ca(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    ca: bool | None = True,
    path_length: int | None = None,
    may_sign: bool = True,
    may_revoke: bool = True,
    root: bool = False,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(_usage(certs=may_sign, lists=may_revoke), critical=True)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    return builder.sign(signer, hashes.SHA224() if root else hashes.SHA256())
