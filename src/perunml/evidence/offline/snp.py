"""`check_snp`: an SEV-SNP report and its certificates in files, judged without a manager and, if need be, without a profile.

Without rules everything is judged that needs none: form, chain to AMD's root, signature, the firmware and chip that the key is
certified for, revocation as far as a list says so, no debugging and no migration agent. Measurements, firmware versions and the
rest are told as claims. With rules, the same appraisal runs as in a manager.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from perunml.evidence.codes import BINDING_MISMATCH
from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.offline.findings import Checked, Findings
from perunml.evidence.offline.raw import raw_or_hex
from perunml.evidence.parts import MAX_REPORT
from perunml.evidence.snp.appraise import appraise_snp, snp_claims
from perunml.evidence.snp.codes import POLICY_BITS
from perunml.evidence.snp.parse import DEBUG, MIGRATE, parse_report
from perunml.evidence.snp.rules import SnpRules
from perunml.evidence.snp.verify import SnpReport, verify_snp
from perunml.evidence.tee.codes import DEBUG_ENABLED
from perunml.evidence.types import Verified
from perunml.evidence.x509 import read_certificate
from perunml.wire.errors import PerunError

REPORT_DATA = 64


@dataclass(frozen=True, slots=True)
class SnpFiles:
    """What an auditor holds of one report.

    report           the bytes, or hex
    certificates     VCEK or VLEK, ASK or ASVK, ARK (DER); others, and what is no certificate, do no harm
    crls             revocation lists (DER)
    report_data      what the guest must report, at most 64 bytes, followed by zeros; None: not compared
    simulated_roots  development roots (DER) that are believed
    """

    report: bytes
    certificates: Sequence[bytes] = ()
    crls: Sequence[bytes] = ()
    report_data: bytes | None = None
    simulated_roots: Sequence[bytes] = field(default_factory=tuple)


def check_snp(files: SnpFiles, *, now: int, rules: Sequence[SnpRules] = ()) -> Checked:
    """Judge a report at `now` (seconds since 1970), under the first of the `rules` that it meets. Never raises for bad
    evidence."""
    found = Findings()
    known = Endorsements(Collateral(crls=tuple(files.crls)), tuple(files.simulated_roots))
    report = found.attempt(raw_or_hex, files.report, MAX_REPORT, "the report")
    certificates = [der for der in files.certificates if _readable(der)]
    verified = found.attempt(verify_snp, report, certificates, known, now=now) if report is not None else None
    if verified is None:
        return found.checked({"report": _raw_claims(report)})
    value = verified.value
    wanted = value.report_data if files.report_data is None else files.report_data.ljust(REPORT_DATA, b"\0")
    if rules:
        judged = [appraise_snp(verified, one, report_data=wanted, endorsements=known, now=now) for one in rules]
        fewest = min(judged, key=lambda reasons: len(reasons))
        found.add(fewest)
    else:
        _without_rules(found, verified, wanted)
    return found.checked({"report": snp_claims(verified)})


def _readable(der: bytes) -> bool:
    try:
        read_certificate(der)
    except PerunError:
        return False
    return True


def _raw_claims(report: bytes | None) -> dict[str, Any] | None:
    """What a report that was not verified says of itself; None for what is none."""
    try:
        raw = parse_report(report or b"")
    except PerunError:
        return None
    told = {
        "version": raw.version,
        "product": raw.product,
        "chip_id": raw.chip_id.hex(),
        "policy": f"{raw.policy:016x}",
    }
    values = {"measurement": raw.measurement.hex(), "report_data": raw.report_data.hex()}
    return {"tee": "snp", **told, **values, "verified": False}


def _without_rules(found: Findings, verified: Verified[SnpReport], wanted: bytes) -> None:
    """What no profile can make good."""
    value = verified.value
    if not hmac.compare_digest(value.report_data, wanted):
        seen = value.report_data.hex()
        found.refuse(BINDING_MISMATCH, "the report is over other data", expected=wanted.hex(), seen=seen)
    if value.raw.policy & DEBUG:
        found.refuse(DEBUG_ENABLED, "the guest's policy allows debugging", seen=f"{value.raw.policy:016x}")
    if value.raw.policy & MIGRATE:
        found.refuse(POLICY_BITS, "a migration agent may be bound to the guest", seen=f"{value.raw.policy:016x}")
