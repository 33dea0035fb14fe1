"""The PCK certificate chain that a quote brings, read a second time beside dcap-qvl: whose platform, until when, by which issuer.
Signatures are dcap-qvl's business.

Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, 1.3.5: the SGX extension.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import NameOID

from perunml.evidence.pem import split
from perunml.evidence.tee.codes import CERTIFICATE_CHAIN
from perunml.wire.errors import PerunError, refuse
from perunml.wire.rules import printable

MAX_CHAIN = 4
"""Certificates: the platform's, its CA's, the root's, and one to spare."""
MAX_NAME = 64
_LINE = 64
"""Characters of a line in PEM (RFC 7468, 2)."""
KEPT = 512
"""Chains that are kept read: a platform's is the same in each of its quotes."""
UNREADABLE = (
    ValueError,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for certificates and lists that it cannot read."""
_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
_BASE = bytes.fromhex("060a2a864886f84d010d01")
"""Its OID in DER, with the length of its members' OIDs, which have one arc more."""
_PPID, _TCB, _FMSPC, _TYPE, _INSTANCE = 1, 2, 4, 5, 6
_SEQUENCE, _OCTETS, _INTEGER, _OID, _ENUMERATED = 0x30, 0x04, 0x02, 0x06, 0x0A
_PCE_SVN, _CPU_SVN = 17, 18


@dataclass(frozen=True, slots=True)
class Validity:
    """A certificate: its common name, its serial number, from when until when it holds (seconds since 1970)."""

    name: str
    serial: int
    since: int
    until: int


@dataclass(frozen=True, slots=True)
class PckChain:
    """What a PCK chain tells. `issuer` is the name of the PCK certificate's issuer; `instance` is empty where the platform has
    none (a single-package one)."""

    fmspc: str
    ppid: bytes
    instance: bytes
    pce_svn: int
    cpu_svn: bytes
    sgx_type: int
    issuer: str
    certificates: tuple[Validity, ...]


@lru_cache(maxsize=KEPT)
def read_pck_chain(pem: bytes) -> PckChain:
    """Raises `EvidenceRefusal` (certificate_chain, non_canonical): no certificates, none with the SGX extension."""
    try:
        made = load_chain(pem)
        extension = made[0].extensions.get_extension_for_oid(_EXTENSION).value
        assert isinstance(extension, x509.UnrecognizedExtension)
        members = dict(_members(_only(extension.value)))
        tcb = dict(_members(_content(members[_TCB], _SEQUENCE), under=_TCB))
        return PckChain(
            fmspc=_sized(members[_FMSPC], 6).hex().upper(),
            ppid=_sized(members[_PPID], 16),
            instance=_sized(members[_INSTANCE], 16) if _INSTANCE in members else b"",
            pce_svn=int.from_bytes(_content(tcb[_PCE_SVN], _INTEGER)),
            cpu_svn=_sized(tcb[_CPU_SVN], 16),
            sgx_type=int.from_bytes(_content(members[_TYPE], _ENUMERATED)),
            issuer=made[0].issuer.rfc4514_string(),
            certificates=tuple(map(validity, made)),
        )
    except (*UNREADABLE, KeyError, IndexError, AssertionError) as exc:
        raise _bad(f"it does not read: {type(exc).__name__}") from None


def load_chain(pem: bytes) -> Sequence[x509.Certificate]:
    """The certificates in PEM, as Intel writes it and in no other spelling: readers differ about words around it, other labels
    and headers, and dcap-qvl reads the same text. Raises `EvidenceRefusal` (certificate_chain, non_canonical), `ValueError`."""
    found = split(pem)
    if not 1 <= len(found) <= MAX_CHAIN:
        raise _bad(f"it has {len(found)} certificates")
    lines = pem.replace(b"\r\n", b"\n").rstrip(b"\0").split(b"\n")
    if [line for line in lines if line] != [line for der in found for line in _written(der)]:
        raise _bad("it holds more than certificates, or is written in another way")
    return tuple(map(x509.load_der_x509_certificate, found))


def _written(der: bytes) -> Iterator[bytes]:
    """The lines of a certificate in PEM (RFC 7468, 3)."""
    text = base64.b64encode(der)
    yield b"-----BEGIN CERTIFICATE-----"
    yield from (text[at : at + _LINE] for at in range(0, len(text), _LINE))
    yield b"-----END CERTIFICATE-----"


def validity(certificate: x509.Certificate) -> Validity:
    """Its name and dates."""
    return Validity(
        printable(str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value), MAX_NAME),
        certificate.serial_number,
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
    )


def _only(data: bytes) -> bytes:
    """The content of the one SEQUENCE that `data` is."""
    return _content(data, _SEQUENCE)


def _members(data: bytes, under: int = 0) -> Iterator[tuple[int, bytes]]:
    """(last arc of the OID, value) of each SEQUENCE of the two in `data`, each OID once."""
    base = _BASE if not under else bytes([_BASE[0], _BASE[1] + 1]) + _BASE[2:] + bytes([under])
    seen = set()
    while data:
        member, data = _split(data)
        oid, value = _split(_content(member, _SEQUENCE))
        arc = oid[-1]
        if oid[:-1] != base or arc in seen:
            raise ValueError("not an OID of this extension, or twice")
        seen.add(arc)
        yield arc, value


def _split(data: bytes) -> tuple[bytes, bytes]:
    """The first element of `data`, whole, and what follows it."""
    head = 2
    size = data[1]
    if size & 0x80:
        count = size & 0x7F
        if not 1 <= count <= 2 or len(data) < 2 + count:
            raise ValueError("a length that is none")
        head, size = 2 + count, int.from_bytes(data[2 : 2 + count])
    if len(data) < head + size:
        raise ValueError("cut off")
    return data[: head + size], data[head + size :]


def _content(element: bytes, tag: int) -> bytes:
    whole, rest = _split(element)
    if rest or whole[0] != tag:
        raise ValueError("another type")
    return whole[len(whole) - _length(whole) :]


def _length(element: bytes) -> int:
    return element[1] if element[1] < 0x80 else int.from_bytes(element[2 : 2 + (element[1] & 0x7F)])


def _sized(element: bytes, size: int) -> bytes:
    found = _content(element, _OCTETS)
    if len(found) != size:
        raise ValueError("another size")
    return found


def _bad(why: str) -> PerunError:
    return refuse(CERTIFICATE_CHAIN, f"the PCK certificate chain is not of its form: {why}")
