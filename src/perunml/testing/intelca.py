"""Development certificates in the shape of Intel's: a root, a PCK CA, a TCB signing certificate, PCK certificates with the SGX
extension, revocation lists. Verification believes them only where their root is passed as a simulated one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
END = dt.datetime(2049, 12, 31, tzinfo=dt.UTC)
SGX_EXTENSION = "1.2.840.113741.1.13.1"
"""Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, 1.3.5."""
ROOT_NAME, PCK_NAME, TCB_NAME = "Intel SGX Root CA", "Intel SGX PCK Platform CA", "Intel SGX TCB Signing"
_Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Pck:
    """A platform's provisioning certification key, as its certificate tells it."""

    key: _Key
    certificate: x509.Certificate
    chain: bytes
    """PEM: the certificate, its CA, the root."""


class IntelCa:
    """A root by Intel's own name, made in memory, and what it certifies.

    start, end   validity of the certificates
    """

    def __init__(self, *, start: dt.datetime = START, end: dt.datetime = END) -> None:
        self._start, self._end = start, end
        self._root_key, self._pck_key, self._tcb_key = (new_key() for _ in range(3))
        self._root = self._certify(ROOT_NAME, self._root_key, ROOT_NAME, self._root_key, ca=1)
        self._pck_ca = self._certify(PCK_NAME, self._pck_key, ROOT_NAME, self._root_key, ca=0)
        self._tcb = self._certify(TCB_NAME, self._tcb_key, ROOT_NAME, self._root_key)

    @property
    def root(self) -> bytes:
        """DER."""
        return self._root.public_bytes(Encoding.DER)

    @property
    def tcb_chain(self) -> str:
        """PEM: TCB signing, root."""
        return _pem(self._tcb, self._root)

    @property
    def pck_ca_chain(self) -> str:
        """PEM: PCK CA, root."""
        return _pem(self._pck_ca, self._root)

    @property
    def serials(self) -> dict[str, int]:
        """Serial numbers by name, of what the root certifies."""
        return {"pck_ca": self._pck_ca.serial_number, "tcb": self._tcb.serial_number}

    def sign_tcb(self, document: bytes) -> str:
        """The TCB signing key's signature, r ‖ s in hex, as Intel's API hands it out."""
        return sign(self._tcb_key, document).hex()

    def pck(self, extension: bytes, *, end: dt.datetime | None = None) -> Pck:
        """A PCK certificate with the SGX extension of this content (DER)."""
        key = new_key()
        made = self._certify(
            "Intel SGX PCK Certificate", key, PCK_NAME, self._pck_key, end=end, extension=(SGX_EXTENSION, extension)
        )
        return Pck(key, made, _pem(made, self._pck_ca, self._root).encode())

    def revocations(
        self,
        serials: Sequence[int] = (),
        *,
        by_root: bool = False,
        since: dt.datetime,
        until: dt.datetime,
        forged: bool = False,
    ) -> bytes:
        """A revocation list (DER) of the PCK CA, or `by_root`; `forged` by another key."""
        name, key = (ROOT_NAME, self._root_key) if by_root else (PCK_NAME, self._pck_key)
        builder = x509.CertificateRevocationListBuilder().issuer_name(_name(name)).last_update(since).next_update(until)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
            builder = builder.add_revoked_certificate(entry)
        builder = builder.add_extension(x509.CRLNumber(1), critical=False)
        builder = builder.add_extension(_authority(key), critical=False)
        return builder.sign(new_key() if forged else key, hashes.SHA256()).public_bytes(Encoding.DER)

    def _certify(
        self,
        subject: str,
        key: _Key,
        issuer: str,
        signer: _Key,
        *,
        ca: int | None = None,
        end: dt.datetime | None = None,
        extension: tuple[str, bytes] | None = None,
    ) -> x509.Certificate:
        """`ca`: the path length of a CA, None for what is none."""
        constraints = x509.BasicConstraints(ca=ca is not None, path_length=ca)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._start)
            .not_valid_after(end or self._end)
            .add_extension(constraints, critical=True)
            .add_extension(_usage(ca=ca is not None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_authority(signer), critical=False)
        )
        if extension is not None:
            oid, value = extension
            builder = builder.add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False
            )
        return builder.sign(signer, hashes.SHA256())


def sgx_extension(
    *,
    fmspc: bytes,
    ppid: bytes,
    cpu_svn: bytes,
    pce_svn: int,
    pce_id: bytes = bytes(2),
    sgx_type: int = 1,
    instance: bytes | None = None,
    configuration: tuple[bool, bool, bool] | None = None,
    more: tuple[str, bytes] | None = None,
) -> bytes:
    """The SGX extension's content (DER). `instance` is the platform instance id; `configuration` says whether the platform is
    dynamic, keeps cached keys, and runs with SMT; `more` is one member more by its OID, which no
    certificate of Intel's has."""
    parts = [*((number, _integer(svn)) for number, svn in enumerate(cpu_svn, 1)), (17, _integer(pce_svn))]
    tcb = _sequence(*(_member(f"2.{number}", value) for number, value in parts), _member("2.18", _octets(cpu_svn)))
    members = [
        _member("1", _octets(ppid)),
        _member("2", tcb),
        _member("3", _octets(pce_id)),
        _member("4", _octets(fmspc)),
        _member("5", _tlv(0x0A, bytes([sgx_type]))),
    ]
    if instance is not None:
        members.append(_member("6", _octets(instance)))
    if configuration is not None:
        flags = (_tlv(0x01, b"\xff" if flag else b"\0") for flag in configuration)
        members.append(_member("7", _sequence(*(_member(f"7.{n}", flag) for n, flag in enumerate(flags, 1)))))
    if more is not None:
        members.append(_sequence(_oid(more[0]), _octets(more[1])))
    return _sequence(*members)


def new_key() -> _Key:
    """P-256, as everything in Intel's scheme."""
    return ec.generate_private_key(ec.SECP256R1())


def sign(key: _Key, data: bytes) -> bytes:
    """ECDSA with SHA-256: r ‖ s, 64 bytes."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def point(key: _Key) -> bytes:
    """x ‖ y, 64 bytes."""
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32) + numbers.y.to_bytes(32)


def _name(common: str) -> x509.Name:
    texts = (
        (NameOID.COMMON_NAME, common),
        (NameOID.ORGANIZATION_NAME, "Intel Corporation"),
        (NameOID.LOCALITY_NAME, "Santa Clara"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.COUNTRY_NAME, "US"),
    )
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in texts])


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=not ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(key: _Key) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _pem(*certificates: x509.Certificate) -> str:
    return "".join(made.public_bytes(Encoding.PEM).decode() for made in certificates)


def _tlv(tag: int, value: bytes) -> bytes:
    size = len(value)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2)
    return bytes([tag]) + length + value


def _sequence(*members: bytes) -> bytes:
    return _tlv(0x30, b"".join(members))


def _octets(value: bytes) -> bytes:
    return _tlv(0x04, value)


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1))


def _member(suffix: str, value: bytes) -> bytes:
    return _sequence(_oid(f"{SGX_EXTENSION}.{suffix}"), value)


def _oid(text: str) -> bytes:
    first, second, *rest = map(int, text.split("."))
    body = bytearray([first * 40 + second])
    for arc in rest:
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        body += bytes(reversed(groups))
    return _tlv(0x06, bytes(body))
