"""X.509: the manager's TLS certificate, the hosts' CA, hosts' client certificates. Names carry no trust; keys do.

A machine's certificate says ``perunml:machine:<machine>``, a lease's ``perunml:lease:<lease>``, in a URI name.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from perunml.wire.codes import MALFORMED
from perunml.wire.digests import digest
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import refuse

YEARS = 20
"""The manager's own certificates are pinned by key; an end in sight would only break pins."""
BACKDATE = 300
"""Seconds by which a certificate's beginning lies before its making: hosts' clocks differ."""
_MACHINE = "perunml:machine:"
_LEASE = "perunml:lease:"


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What a client certificate says: a machine's (`machine`) or a lease's (`lease`); its key as text; its validity in
    seconds since the epoch."""

    machine: str
    lease: str
    key: str
    not_before: int
    not_after: int


def tls_certificate(key: ec.EllipticCurvePrivateKey, url: str, now: int) -> bytes:
    """The self-signed server certificate, PEM."""
    host = urlsplit(url).hostname or ""
    try:
        name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        name = x509.DNSName(host)
    builder = (
        _builder("perunml manager", "perunml manager", now, YEARS * 365 * 86400)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return builder.sign(key, SHA256()).public_bytes(serialization.Encoding.PEM)


def ca_certificate(key: ed25519.Ed25519PrivateKey, now: int) -> bytes:
    """The hosts' CA, self-signed, PEM."""
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        _builder("perunml hosts", "perunml hosts", now, YEARS * 365 * 86400)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return builder.sign(key, None).public_bytes(serialization.Encoding.PEM)


class Issuer:
    """Signs hosts' client certificates."""

    def __init__(self, key: ed25519.Ed25519PrivateKey) -> None:
        self._key = key
        self._template = (
            x509.CertificateBuilder()
            .subject_name(_name("perunml host"))
            .issuer_name(_name("perunml hosts"))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        )

    @property
    def spki(self) -> str:
        """``sha256:`` of the CA key's SubjectPublicKeyInfo."""
        return spki(self._key.public_key())

    def machine(self, machine: str, key: str, now: int, seconds: int) -> str:
        """PEM of a machine's certificate over its TLS `key` (ed25519:…). Raises `UsageError` (malformed)."""
        return self._issue(_MACHINE + machine, key, now, seconds)

    def lease(self, lease: str, key: str, now: int, seconds: int) -> str:
        """PEM of a lease's certificate over its session `key`."""
        return self._issue(_LEASE + lease, key, now, seconds)

    def _issue(self, uri: str, key: str, now: int, seconds: int) -> str:
        builder = (
            _dated(self._template, now, seconds)
            .public_key(ed25519_key(key))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
        )
        return builder.sign(self._key, None).public_bytes(serialization.Encoding.PEM).decode("ascii")


def read_client(der: bytes) -> ClientCertificate:
    """What a certificate says whose chain OpenSSL has checked. Raises `ValueError` for one that this manager's CA never made
    so."""
    certificate = x509.load_der_x509_certificate(der)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ValueError("not a host's certificate") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    key = certificate.public_key()
    if len(uris) != 1 or not isinstance(key, ed25519.Ed25519PublicKey):
        raise ValueError("not a host's certificate")
    uri = uris[0]
    machine = uri.removeprefix(_MACHINE) if uri.startswith(_MACHINE) else ""
    lease = uri.removeprefix(_LEASE) if uri.startswith(_LEASE) else ""
    if bool(machine) == bool(lease):
        raise ValueError("not a host's certificate")
    return ClientCertificate(
        machine,
        lease,
        "ed25519:" + b64(key.public_bytes_raw()),
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
    )


def ed25519_key(text: str) -> ed25519.Ed25519PublicKey:
    """The key of ``ed25519:…``. Raises `UsageError` (malformed) for any other kind."""
    algorithm, _, data = text.partition(":")
    if algorithm != "ed25519":
        raise refuse(MALFORMED, "a TLS or session key is Ed25519", expected="ed25519:…", seen=text[:80])
    try:
        return ed25519.Ed25519PublicKey.from_public_bytes(unb64(data, size=32))
    except ValueError:
        raise refuse(MALFORMED, "not a point of the curve", seen=text[:80]) from None


def spki(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> str:
    """``sha256:`` of a key's SubjectPublicKeyInfo."""
    return digest(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def _builder(subject: str, issuer: str, now: int, seconds: int) -> x509.CertificateBuilder:
    return _dated(x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name(issuer)), now, seconds)


def _dated(builder: x509.CertificateBuilder, now: int, seconds: int) -> x509.CertificateBuilder:
    begin = dt.datetime.fromtimestamp(now - BACKDATE, dt.UTC)
    end = dt.datetime.fromtimestamp(now + seconds, dt.UTC)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
