"""Verifies an AMD SEV-SNP report: signed by a key that AMD certified for this chip (VCEK) or for its cloud (VLEK), at the firmware
that the report tells. Whether that is good enough is for `appraise`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from perunml.evidence.endorsements import Endorsements, Seen
from perunml.evidence.snp.codes import REPORT_UNSUPPORTED
from perunml.evidence.snp.keys import NAMES, candidates, chain_of, common_name, mismatches, read_pool
from perunml.evidence.snp.parse import VLEK, RawReport, Tcb, parse_report, read_tcb
from perunml.evidence.snp.roots import ARKS
from perunml.evidence.tee.codes import CERTIFICATE_CHAIN, COLLATERAL_ROLLBACK, REPORT_SIGNATURE
from perunml.evidence.types import Verified, mint_verified
from perunml.evidence.x509 import (
    Revocation,
    chain_reasons,
    fingerprint,
    key_of,
    read_crl,
    revocation,
    revoked_reason,
    trusted_by,
)
from perunml.wire.digests import digest
from perunml.wire.errors import error, refuse
from perunml.wire.rules import Reason
from perunml.wire.timestamps import format_time

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
"""Of P-384's group (SEC 2, 2.5.1)."""


@dataclass(frozen=True, slots=True)
class SnpReport:
    """A verified report.

    product     product line, by the chain and, from version 3 on, the report itself
    platform    ``chip:sha256:…`` over product line and chip id; empty where a cloud's key signed: nothing tells which chip
    vlek        signed with the cloud's key
    cloud       the cloud that a VLEK names
    reported, committed, current, launch   TCB versions
    collateral  the newest revocation list of the root's in force, by name, number and time: AMD publishes one for a product
                line, of the keys between its root and its chips'; empty where there is none
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
    simulated: bool
    collateral: Mapping[str, Seen] = field(default_factory=dict)

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the guest reported."""
        return self.raw.report_data


def verify_snp(
    report: bytes, certificates: Sequence[bytes], endorsements: Endorsements, *, now: int
) -> Verified[SnpReport]:
    """A report and its key's chain at `now` (seconds since 1970): from `certificates` (DER, the host's) and the collateral's.

    Raises `EvidenceRefusal`: non_canonical, report_unsupported, collateral_missing (no such certificate),
    certificate_chain, certificate_expired, certificate_revoked, certificate_mismatch, collateral_rollback, report_signature.
    """
    raw = parse_report(report)
    if raw.signing_key not in NAMES:
        raise refuse(REPORT_UNSUPPORTED, "no key signed the report", expected="VCEK or VLEK", seen=str(raw.signing_key))
    pools = (read_pool(tuple(certificates)), read_pool(endorsements.collateral.certificates))
    offered = candidates(raw, pools)
    # of several (of older firmware, too) the one whose key signed, if any: what a host sends hides nothing that is right
    key = next((each for each in offered if _signed_by(raw.signed, raw.signature, each.certificate)), offered[0])
    chain = chain_of(key, pools)
    root = chain[-1]
    trusted = trusted_by(root, ARKS, endorsements.simulated_roots)
    product = ARKS[fingerprint(root)] if trusted is False else common_name(root).removeprefix("ARK-")
    lists = [read_crl(each) for each in endorsements.collateral.crls]
    told = [revocation(certificate, issuer, lists, now) for certificate, issuer in pairwise(chain)]
    reasons = list(chain_reasons(chain, "the report's key", now))
    if trusted is None:
        reasons.append(Reason(CERTIFICATE_CHAIN, "the chain does not end at AMD's root", seen=fingerprint(root)))
    reasons += [*mismatches(raw, key, chain, product), *_revocations(chain, told, endorsements.seen)]
    if not _signed_by(raw.signed, raw.signature, key.certificate):
        reasons.append(Reason(REPORT_SIGNATURE, "the report's signature does not verify under the certified key"))
    if reasons:
        raise error(reasons)
    return mint_verified(_report(raw, product, key.cloud, _used(told[-1]), simulated=bool(trusted)))


def _report(raw: RawReport, product: str, cloud: str, used: Mapping[str, Seen], *, simulated: bool) -> SnpReport:
    vlek = raw.signing_key == VLEK
    return SnpReport(
        raw=raw,
        product=product,
        platform="" if vlek else "chip:" + digest(product.encode() + b"\0" + raw.chip_id),
        vlek=vlek,
        cloud=cloud if vlek else "",
        reported=read_tcb(raw.reported_tcb, product),
        committed=read_tcb(raw.committed_tcb, product),
        current=read_tcb(raw.current_tcb, product),
        launch=read_tcb(raw.launch_tcb, product),
        simulated=simulated,
        collateral=used,
    )


def _used(told: Revocation) -> dict[str, Seen]:
    if told.newest is None:
        return {}
    name, number, issued = told.newest
    return {name: Seen(number, issued)}


def _revocations(
    chain: Sequence[x509.Certificate], told: Sequence[Revocation], seen: Mapping[str, Seen]
) -> Iterator[Reason]:
    """Who was revoked, and lists that are older than what was judged by before: they may leave out who was revoked since."""
    for depth, (certificate, found) in enumerate(zip(chain, told, strict=False)):
        if found.revoked:
            yield revoked_reason(certificate, f"the report's key, certificate {depth}")
        for name, ours in _used(found).items():
            before = seen.get(name)
            if before is not None and (ours.number, ours.issued) < (before.number, before.issued):
                expected, issued = format_time(before.issued), format_time(ours.issued)
                yield Reason(
                    COLLATERAL_ROLLBACK, "an older revocation list than one judged by before", expected, issued
                )


@lru_cache(maxsize=256)
def _signed_by(signed: bytes, signature: tuple[int, int], leaf: x509.Certificate) -> bool:
    key = key_of(leaf)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not all(0 < part < _ORDER for part in signature):
        return False
    try:
        key.verify(encode_dss_signature(*signature), signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


__all__ = ["SnpReport", "verify_snp"]
