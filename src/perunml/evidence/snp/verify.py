"""Verifies an AMD SEV-SNP report: signed by a key that AMD certified for this chip (VCEK) or for its cloud (VLEK), at the firmware
that the report tells. Whether that is good enough is for `appraise`.

AMD, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification, publication 57230.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from perunml.evidence.codes import NON_CANONICAL
from perunml.evidence.endorsements import Endorsements
from perunml.evidence.snp.codes import CERTIFICATE_MISMATCH, REPORT_UNSUPPORTED
from perunml.evidence.snp.parse import VCEK, VLEK, RawReport, Tcb, parse_report, read_tcb
from perunml.evidence.snp.roots import ARKS
from perunml.evidence.tee.codes import CERTIFICATE_CHAIN, COLLATERAL_MISSING, REPORT_SIGNATURE
from perunml.evidence.types import Verified, mint_verified
from perunml.evidence.x509 import (
    chain_reasons,
    fingerprint,
    issued,
    read_certificate,
    read_crl,
    revoked,
    revoked_reason,
    trusted_by,
)
from perunml.wire.digests import digest
from perunml.wire.errors import error, refuse
from perunml.wire.rules import Reason

_OIDS = {
    "bootloader": "1.3.6.1.4.1.3704.1.3.1",
    "tee": "1.3.6.1.4.1.3704.1.3.2",
    "snp": "1.3.6.1.4.1.3704.1.3.3",
    "microcode": "1.3.6.1.4.1.3704.1.3.8",
    "fmc": "1.3.6.1.4.1.3704.1.3.9",
}
PRODUCT_OID, HARDWARE_OID, CLOUD_OID = (f"1.3.6.1.4.1.3704.1.{number}" for number in (2, 4, 5))
_NAMES = {VCEK: "SEV-VCEK", VLEK: "SEV-VLEK"}
"""Common names of the leaf; what certifies it is named ``SEV-<product>`` or ``SEV-VLEK-<product>``."""
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
_IA5_STRING, _INTEGER, _OCTET_STRING = 0x16, 0x02, 0x04


@dataclass(frozen=True, slots=True)
class SnpReport:
    """A verified report.

    product     product line, by the chain and, from version 3 on, the report itself
    platform    ``chip:sha256:…`` over product line and chip id; empty where the chip is masked or a cloud's key signed
    vlek        signed with the cloud's key
    cloud       the cloud that a VLEK names
    reported, committed, current, launch   TCB versions
    revocation  whether revocation lists in force tell of the chain
    simulated   it leads to a development root
    """

    raw: RawReport
    product: str
    platform: str
    vlek: bool
    cloud: str
    reported: Tcb
    committed: Tcb
    current: Tcb
    launch: Tcb
    revocation: bool
    simulated: bool

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the guest reported."""
        return self.raw.report_data


def verify_snp(
    report: bytes, certificates: Sequence[bytes], endorsements: Endorsements, *, now: int
) -> Verified[SnpReport]:
    """A report and its key's chain at `now` (seconds since 1970): from `certificates` (DER, the host's) and the collateral's.

    Raises `EvidenceRefusal`: non_canonical, report_unsupported, collateral_missing (no such certificate),
    certificate_chain, certificate_expired, certificate_revoked, certificate_mismatch, report_signature.
    """
    raw = parse_report(report)
    if raw.signing_key not in (VCEK, VLEK):
        raise refuse(REPORT_UNSUPPORTED, "no key signed the report", expected="VCEK or VLEK", seen=str(raw.signing_key))
    given = [*_read(certificates), *_read(endorsements.collateral.certificates)]
    chain = _chain(raw, given)
    leaf, middle, root = chain
    trusted = trusted_by(root, ARKS, endorsements.simulated_roots)
    reasons = list(chain_reasons(chain, "the report's key", now))
    if trusted is None:
        reasons.append(Reason(CERTIFICATE_CHAIN, "the chain does not end at AMD's root", seen=fingerprint(root)))
    product = _product(root, trusted)
    reasons += _names(raw, chain, product)
    lists = [read_crl(each) for each in endorsements.collateral.crls]
    told = [revoked(certificate, issuer, lists, now) for certificate, issuer in ((leaf, middle), (middle, root))]
    reasons += [
        revoked_reason(certificate, f"the report's key, certificate {depth}")
        for depth, (certificate, found) in enumerate(zip(chain, told, strict=False))
        if found
    ]
    reasons += _signature(raw, leaf)
    if reasons:
        raise error(reasons)
    vlek = raw.signing_key == VLEK
    reported = read_tcb(raw.reported_tcb, product)
    if _certified(leaf) != reported:
        seen = f"{_certified(leaf)}"
        raise refuse(CERTIFICATE_MISMATCH, "the key is of another firmware", expected=f"{reported}", seen=seen)
    masked = raw.chip_masked or not any(raw.chip_id)
    platform = "" if vlek or masked else "chip:" + digest(product.encode() + b"\0" + raw.chip_id)
    # AMD publishes one list a product line, by the ARK: of the keys between it and the chips'
    return mint_verified(
        SnpReport(
            raw=raw,
            product=product,
            platform=platform,
            vlek=vlek,
            cloud=_text(leaf, CLOUD_OID) if vlek else "",
            reported=reported,
            committed=read_tcb(raw.committed_tcb, product),
            current=read_tcb(raw.current_tcb, product),
            launch=read_tcb(raw.launch_tcb, product),
            revocation=told[1] is False,
            simulated=bool(trusted),
        )
    )


def _read(certificates: Sequence[bytes]) -> list[x509.Certificate]:
    return [read_certificate(bytes(der)) for der in certificates]


def _chain(
    raw: RawReport, given: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, x509.Certificate, x509.Certificate]:
    """The key's certificate that fits the report best, and what issued it."""
    leaves = [each for each in given if _common_name(each) == _NAMES[raw.signing_key]]
    if not leaves:
        kind = _NAMES[raw.signing_key]
        raise refuse(
            COLLATERAL_MISSING, "the report's key has no certificate here", expected=kind, seen=f"{len(given)} others"
        )
    # of several (a fleet's, or older firmware's) the one whose key signed, if any: the others are not this chip's
    leaf = next((each for each in leaves if not list(_signature(raw, each))), leaves[0])
    middle = next((each for each in given if each is not leaf and issued(leaf, each)), None)
    middle = middle or next((each for each in given if each.subject == leaf.issuer), None)
    if middle is None:
        raise refuse(
            COLLATERAL_MISSING, "what issued the report's key is not here", expected=leaf.issuer.rfc4514_string()
        )
    root = next((each for each in given if each is not middle and issued(middle, each)), None)
    root = root or next((each for each in given if each.subject == middle.issuer), None)
    if root is None:
        raise refuse(COLLATERAL_MISSING, "AMD's root is not here", expected=middle.issuer.rfc4514_string())
    return leaf, middle, root


def _product(root: x509.Certificate, trusted: bool | None) -> str:
    """The product line: by the pinned root's fingerprint, for a development root by its name."""
    if trusted is False:
        return ARKS[fingerprint(root)]
    return _common_name(root).removeprefix("ARK-")


def _names(
    raw: RawReport, chain: tuple[x509.Certificate, x509.Certificate, x509.Certificate], product: str
) -> Iterator[Reason]:
    leaf, middle, root = chain
    wanted = f"SEV-VLEK-{product}" if raw.signing_key == VLEK else f"SEV-{product}"
    for certificate, name in ((middle, wanted), (root, f"ARK-{product}")):
        if _common_name(certificate) != name:
            what = "a certificate stands where it may not"
            yield Reason(CERTIFICATE_CHAIN, what, expected=name, seen=_common_name(certificate))
    if raw.product and raw.product != product:
        yield Reason(CERTIFICATE_MISMATCH, "the key is of another product", expected=raw.product, seen=product)
    named = _text(leaf, PRODUCT_OID).partition("-")[0]
    if named != product:
        yield Reason(CERTIFICATE_MISMATCH, "the certificate names another product", expected=product, seen=named)
    if raw.signing_key == VCEK and not raw.chip_masked:
        hardware = _raw(leaf, HARDWARE_OID)
        # Turin's certificates hold the 8 bytes that count of the 64
        if not hardware or hardware != raw.chip_id[: len(hardware)] or any(raw.chip_id[len(hardware) :]):
            seen = hardware.hex() or "none"
            yield Reason(CERTIFICATE_MISMATCH, "the key is another chip's", expected=raw.chip_id.hex(), seen=seen)


def _signature(raw: RawReport, leaf: x509.Certificate) -> Iterator[Reason]:
    if not _signed_by(raw.signed, raw.signature, leaf):
        yield Reason(REPORT_SIGNATURE, "the report's signature does not verify under the certified key")


@lru_cache(maxsize=64)
def _signed_by(signed: bytes, signature: tuple[int, int], leaf: x509.Certificate) -> bool:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not all(0 < part < _ORDER for part in signature):
        return False
    try:
        key.verify(encode_dss_signature(*signature), signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=1024)
def _certified(leaf: x509.Certificate) -> Tcb:
    """The firmware that the key is derived from (publication 57230, table of extensions)."""
    parts = {}
    for name, oid in _OIDS.items():
        raw = _raw(leaf, oid)
        if not raw and name == "fmc":
            parts[name] = -1
            continue
        # DER INTEGER of one byte, two where its highest bit is set
        if len(raw) < 3 or raw[0] != _INTEGER or raw[1] != len(raw) - 2 or len(raw) > 4 or (len(raw) == 4 and raw[2]):
            raise refuse(NON_CANONICAL, f"the certificate does not tell the firmware's part {name}", seen=raw.hex())
        parts[name] = int.from_bytes(raw[2:])
    return Tcb(**parts)


def _raw(certificate: x509.Certificate, oid: str) -> bytes:
    """An extension's bytes, without the OCTET STRING that some products wrap around them; empty where there is none."""
    for each in certificate.extensions:
        if each.oid.dotted_string == oid and isinstance(each.value, x509.UnrecognizedExtension):
            value = each.value.value
            # a bare chip id has 64 bytes, or 8: one that begins like an OCTET STRING is still itself
            wrapped = len(value) in (66, 10) and value[0] == _OCTET_STRING and value[1] == len(value) - 2
            return value[2:] if wrapped and oid == HARDWARE_OID else value
    return b""


def _text(certificate: x509.Certificate, oid: str) -> str:
    raw = _raw(certificate, oid)
    if len(raw) < 2 or raw[0] != _IA5_STRING or raw[1] != len(raw) - 2:
        return ""
    return raw[2:].decode("ascii", "replace")


def _common_name(certificate: x509.Certificate) -> str:
    found = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""


__all__ = ["SnpReport", "verify_snp"]
