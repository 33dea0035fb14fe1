"""Which key signed a report: AMD's certificates of chips' keys (VCEK) and clouds' keys (VLEK), and what they say.

AMD, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification, publication 57230, table of extensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509

from perunml.evidence.snp.codes import CERTIFICATE_MISMATCH, REPORT_UNSUPPORTED
from perunml.evidence.snp.parse import PARTS, VCEK, VLEK, RawReport, Tcb, read_tcb
from perunml.evidence.tee.codes import CERTIFICATE_CHAIN, COLLATERAL_MISSING
from perunml.evidence.x509 import CACHED, issued, read_certificate
from perunml.wire.errors import PerunError, refuse
from perunml.wire.rules import Reason

Chain = tuple[x509.Certificate, x509.Certificate, x509.Certificate]
"""The key's certificate, the authority's (ASK or ASVK), the root's (ARK)."""
NAMES = {VCEK: "SEV-VCEK", VLEK: "SEV-VLEK"}
"""Common names of the leaf; what certifies it is named ``SEV-<product>`` or ``SEV-VLEK-<product>``."""
_ARC = "1.3.6.1.4.1.3704.1."
STRUCTURE_OID, PRODUCT_OID, HARDWARE_OID, CLOUD_OID = (f"{_ARC}{number}" for number in (1, 2, 4, 5))
STRUCTURES = {"Milan": 0, "Genoa": 0, "Turin": 1}
"""structVersion: how the certificate tells its firmware, by product line."""
HARDWARE = {"Milan": 64, "Genoa": 64, "Turin": 8}
"""Bytes of a chip's id that count: Turin's report fills up the rest with zeros."""
PART_OIDS = dict(zip(PARTS, (f"{_ARC}3.{number}" for number in (1, 2, 3, 8, 9)), strict=True))
_RESERVED_OIDS = tuple(f"{_ARC}3.{number}" for number in (4, 5, 6, 7))
_IA5_STRING, _INTEGER, _OCTET_STRING = 0x16, 0x02, 0x04
_SHORTEST = 8
"""Bytes of a chip's id by which a fleet's certificates are found."""


@dataclass(frozen=True, slots=True)
class KeyCertificate:
    """What a leaf says; `structure` and `tcb` are None where it does not tell them, or not in their form."""

    certificate: x509.Certificate
    name: str
    product: str
    structure: int | None
    tcb: Tcb | None
    hardware: bytes
    cloud: str


@dataclass(frozen=True, slots=True)
class Pool:
    """Certificates that lie at hand: leaves by name and the first bytes of their chip's id, and all of them by subject."""

    leaves: Mapping[tuple[str, bytes], tuple[KeyCertificate, ...]]
    named: Mapping[str, tuple[KeyCertificate, ...]]
    subjects: Mapping[bytes, tuple[x509.Certificate, ...]]


@lru_cache(maxsize=CACHED)
def read_key(certificate: x509.Certificate) -> KeyCertificate:
    """What a certificate says of the key; anything is read, and judged in `mismatches`."""
    told = {
        each.oid.dotted_string: each.value.value
        for each in certificate.extensions
        if isinstance(each.value, x509.UnrecognizedExtension)
    }
    parts = {name: _number(told.get(oid)) for name, oid in PART_OIDS.items()}
    if PART_OIDS["fmc"] not in told:
        parts["fmc"] = -1
    reserved = any(_number(told[oid]) != 0 for oid in _RESERVED_OIDS if oid in told)
    whole = {name: value for name, value in parts.items() if value is not None}
    hardware = told.get(HARDWARE_OID, b"")
    # some products wrap it in an OCTET STRING: a bare id has 64 bytes, or 8, and may begin like one
    if len(hardware) in (66, 10) and hardware[0] == _OCTET_STRING and hardware[1] == len(hardware) - 2:
        hardware = hardware[2:]
    return KeyCertificate(
        certificate=certificate,
        name=common_name(certificate),
        product=_text(told.get(PRODUCT_OID)).partition("-")[0],
        structure=_number(told.get(STRUCTURE_OID)),
        tcb=Tcb(**whole) if len(whole) == len(PARTS) and not reserved else None,
        hardware=hardware,
        cloud=_text(told.get(CLOUD_OID)),
    )


@lru_cache(maxsize=16)
def read_pool(certificates: tuple[bytes, ...]) -> Pool:
    """Certificates (DER) of a host or of collateral. Raises `EvidenceRefusal` (non_canonical)."""
    leaves: dict[tuple[str, bytes], list[KeyCertificate]] = {}
    named: dict[str, list[KeyCertificate]] = {}
    subjects: dict[bytes, list[x509.Certificate]] = {}
    for der in certificates:
        certificate = read_certificate(bytes(der))
        subjects.setdefault(certificate.subject.public_bytes(), []).append(certificate)
        if common_name(certificate) in NAMES.values():
            key = read_key(certificate)
            leaves.setdefault((key.name, key.hardware[:_SHORTEST]), []).append(key)
            named.setdefault(key.name, []).append(key)
    return Pool(*({name: tuple(found) for name, found in table.items()} for table in (leaves, named, subjects)))  # type: ignore[arg-type]  # three tables, each of its own kind


def candidates(raw: RawReport, pools: Sequence[Pool]) -> list[KeyCertificate]:
    """Certificates of keys that may have signed the report: its chip's, those of its firmware before others; where there is
    none, the first of the kind that lies there, so that its refusal says why. Raises `EvidenceRefusal`
    (collateral_missing)."""
    name = NAMES[raw.signing_key]
    which = raw.chip_id[:_SHORTEST] if raw.signing_key == VCEK else b""
    own = [key for pool in pools for key in pool.leaves.get((name, which), ())]
    if own:
        return sorted(own, key=lambda key: not _of_firmware(raw, key))
    others = [key for pool in pools for key in pool.named.get(name, ())[:1]]
    if not others:
        raise refuse(COLLATERAL_MISSING, "the report's key has no certificate here", expected=name, seen="none")
    return others[:1]


def chain_of(key: KeyCertificate, pools: Sequence[Pool]) -> Chain:
    """A leaf, and what issued it. Raises `EvidenceRefusal` (collateral_missing)."""
    leaf = key.certificate
    middle = _issuer(leaf, pools, "what issued the report's key is not here")
    return leaf, middle, _issuer(middle, pools, "AMD's root is not here")


def mismatches(raw: RawReport, key: KeyCertificate, chain: Chain, product: str) -> Iterator[Reason]:
    """Where the key that is certified is not the one that the report tells: kind, product line, chip and firmware."""
    _, middle, root = chain
    wanted = f"SEV-VLEK-{product}" if raw.signing_key == VLEK else f"SEV-{product}"
    for certificate, name in ((middle, wanted), (root, f"ARK-{product}")):
        if common_name(certificate) != name:
            what = "a certificate stands where it may not"
            yield Reason(CERTIFICATE_CHAIN, what, expected=name, seen=common_name(certificate))
    if product not in STRUCTURES:
        yield Reason(REPORT_UNSUPPORTED, "a product line that is not known", seen=product)
        return
    if raw.product and raw.product != product:
        yield Reason(CERTIFICATE_MISMATCH, "the key is of another product", expected=raw.product, seen=product)
    if key.product != product:
        yield Reason(CERTIFICATE_MISMATCH, "the certificate names another product", expected=product, seen=key.product)
    if key.structure != STRUCTURES[product]:
        wanted, seen = str(STRUCTURES[product]), str(key.structure)
        yield Reason(REPORT_UNSUPPORTED, "the key's certificate is of another structure", expected=wanted, seen=seen)
    if raw.signing_key == VCEK:
        # a chip whose id is masked signs nothing with its own key: what is signed with it names the chip
        size = HARDWARE[product]
        if len(key.hardware) != size or raw.chip_masked or key.hardware.ljust(len(raw.chip_id), b"\0") != raw.chip_id:
            seen = key.hardware.hex() or "none"
            yield Reason(CERTIFICATE_MISMATCH, "the key is another chip's", expected=raw.chip_id.hex(), seen=seen)
    reported = read_tcb(raw.reported_tcb, product)
    if key.tcb != reported:
        seen = str(key.tcb.as_json()) if key.tcb is not None else "none in the certificate"
        what = "the key is of another firmware"
        yield Reason(CERTIFICATE_MISMATCH, what, expected=str(reported.as_json()), seen=seen)


@lru_cache(maxsize=CACHED)
def common_name(certificate: x509.Certificate) -> str:
    """The subject's one common name; empty where there is none, or several."""
    found = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""


def _issuer(certificate: x509.Certificate, pools: Sequence[Pool], missing: str) -> x509.Certificate:
    """The one that signed it; else one of its name, so that its refusal says why."""
    wanted = _issuer_name(certificate)
    named = [each for pool in pools for each in pool.subjects.get(wanted, ())]
    named = [each for each in named if each is not certificate]
    if not named:
        raise refuse(COLLATERAL_MISSING, missing, expected=certificate.issuer.rfc4514_string())
    return next((each for each in named if issued(certificate, each)), named[0])


@lru_cache(maxsize=CACHED)
def _issuer_name(certificate: x509.Certificate) -> bytes:
    return certificate.issuer.public_bytes()


def _of_firmware(raw: RawReport, key: KeyCertificate) -> bool:
    try:
        return key.tcb == read_tcb(raw.reported_tcb, key.product)
    except PerunError:
        return False


def _number(raw: bytes | None) -> int | None:
    """A DER INTEGER up to 255: of one byte, two where its highest bit is set."""
    if raw is None or len(raw) not in (3, 4) or raw[0] != _INTEGER or raw[1] != len(raw) - 2:
        return None
    if (len(raw) == 3 and raw[2] > 127) or (len(raw) == 4 and (raw[2] or raw[3] < 128)):
        return None
    return int.from_bytes(raw[2:])


def _text(raw: bytes | None) -> str:
    if raw is None or len(raw) < 2 or raw[0] != _IA5_STRING or raw[1] != len(raw) - 2:
        return ""
    return raw[2:].decode("ascii", "replace")
