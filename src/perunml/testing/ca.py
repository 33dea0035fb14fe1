"""A development CA for EK certificates. A manager believes it only when it is told so with `--simulated-ek-root`."""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from perunml.evidence.tpm.ek import EK_USAGE

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
END = dt.datetime(2099, 12, 31, tzinfo=dt.UTC)
_CertifiedKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class DevelopmentCa:
    """A root (signed with SHA-224, as old ones with SHA-1: it is known by its bytes) and an intermediate, made in memory.

    ca, path_length, may_sign  what the intermediate's (for path_length the root's) certificate allows it;
                               ca=None leaves basic constraints out
    """

    def __init__(
        self,
        name: str = "Perun development CA",
        *,
        ca: bool = True,
        path_length: int | None = None,
        may_sign: bool = True,
    ) -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._issuer_key = ec.generate_private_key(ec.SECP256R1())
        root, issuer = _name(name + " root"), _name(name + " issuer")
        self._issuer_name = issuer
        self._root = _ca(root, root, self._root_key.public_key(), self._root_key, path_length=path_length, root=True)
        issuer_key = self._issuer_key.public_key()
        self._issuer = _ca(issuer, root, issuer_key, self._root_key, ca=ca, may_sign=may_sign)

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
        usage: x509.ObjectIdentifier | None = EK_USAGE,
        end: dt.datetime = END,
        critical: str = "",
        self_signed_by: ec.EllipticCurvePrivateKey | None = None,
        signed_with: hashes.SHA224 | hashes.SHA256 | None = None,
        ca: bool = False,
    ) -> bytes:
        """An EK certificate in DER; `critical` adds an unknown critical extension of that OID."""
        subject = _name("TPM")
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed_by else self._issuer_name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(START)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if critical:
            unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(critical), b"\x05\x00")
            builder = builder.add_extension(unknown, critical=True)
        made = builder.sign(self_signed_by or self._issuer_key, signed_with or hashes.SHA256())
        return made.public_bytes(Encoding.DER)


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
    root: bool = False,
) -> x509.Certificate:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=may_sign,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(usage, critical=True)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    return builder.sign(signer, hashes.SHA224() if root else hashes.SHA256())
