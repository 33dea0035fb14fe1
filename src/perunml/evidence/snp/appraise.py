"""Is a verified SEV-SNP report good enough for these rules? Every reason that there is, never the first alone."""

from __future__ import annotations

import hmac
from collections.abc import Iterator

from perunml.evidence.codes import BINDING_MISMATCH
from perunml.evidence.endorsements import Endorsements
from perunml.evidence.snp import parse
from perunml.evidence.snp.codes import KEY_KIND, POLICY_BITS, PRODUCT_DENIED, REPORT_UNSUPPORTED, VMPL
from perunml.evidence.snp.parse import DEBUG, MIGRATE, SMT, SMT_ON, Tcb
from perunml.evidence.snp.rules import SnpRules
from perunml.evidence.snp.verify import SnpReport
from perunml.evidence.tee.codes import (
    COLLATERAL_EXPIRED,
    CONFIGURATION_MISMATCH,
    DEBUG_ENABLED,
    MEASUREMENT_MISMATCH,
    REVOCATION_MISSING,
    RULES_MISSING,
    TCB_TOO_OLD,
    WRONG_DEVICE,
)
from perunml.evidence.tee.rules import seconds
from perunml.evidence.types import Verified
from perunml.wire.canonical import Json
from perunml.wire.rules import Reason
from perunml.wire.timestamps import format_time

MITIGATIONS_SINCE = 5
_DEMANDS = {
    # what the guest's policy can demand of the platform: the rule's name -> bit
    "single_socket": parse.SINGLE_SOCKET,
    "aes_256_xts": parse.AES_256_XTS,
    "rapl_disabled": parse.RAPL_DISABLED,
    "ciphertext_hiding": parse.CIPHERTEXT_HIDING,
    "page_swap_disabled": parse.PAGE_SWAP_DISABLED,
}


def appraise_snp(
    report: Verified[SnpReport], rules: SnpRules, *, report_data: bytes, endorsements: Endorsements, now: int
) -> tuple[Reason, ...]:
    """Why a guest is not admitted at `now` (seconds since 1970); `report_data` is the 64 bytes that it must report."""
    value = report.value
    return (
        *_exchange(value, report_data),
        *_lists(value, rules, now),
        *_platform(value, rules),
        *_policy(value, rules),
        *_guest(value, rules),
    )


def snp_claims(report: Verified[SnpReport]) -> dict[str, Json]:
    """What the report tells, for people."""
    value, raw = report.value, report.value.raw
    return {
        "tee": "snp",
        "version": raw.version,
        "product": value.product,
        "platform": value.platform,
        "signed_by": f"vlek of {value.cloud}" if value.vlek else "vcek",
        "simulated": value.simulated,
        "revocation": _list_of(value) or "no list in force",
        "measurement": raw.measurement.hex(),
        "host_data": raw.host_data.hex(),
        "report_data": raw.report_data.hex(),
        "policy": f"{raw.policy:016x}",
        "debug": bool(raw.policy & DEBUG),
        "vmpl": raw.vmpl,
        "guest_svn": raw.guest_svn,
        "family_id": raw.family_id.hex(),
        "image_id": raw.image_id.hex(),
        "id_key": raw.id_key_digest.hex(),
        "author_key": raw.author_key_digest.hex() if raw.author_key_enabled else "",
        "platform_info": raw.platform_info,
        "reported_tcb": value.reported.as_json(),
        "committed_tcb": value.committed.as_json(),
        "launch_tcb": value.launch.as_json(),
        "current_tcb": value.current.as_json(),
        "mitigations": raw.launch_mitigations,
    }


def _exchange(value: SnpReport, report_data: bytes) -> Iterator[Reason]:
    if not hmac.compare_digest(value.report_data, report_data):
        seen = value.report_data.hex()
        yield Reason(
            BINDING_MISMATCH, "the report was made for another exchange", expected=report_data.hex(), seen=seen
        )


def _lists(value: SnpReport, rules: SnpRules, now: int) -> Iterator[Reason]:
    if not value.collateral:
        what = "no revocation list of AMD's in force tells of the chain"
        yield Reason(REVOCATION_MISSING, what, expected="the ARK's list")
    for seen in value.collateral.values():
        if rules.max_age and seen.issued + seconds(rules.max_age) < now:
            wanted = f"issued since {format_time(now - seconds(rules.max_age))}"
            what = "the revocation list is older than the profile admits"
            yield Reason(COLLATERAL_EXPIRED, what, expected=wanted, seen=format_time(seen.issued))


def _list_of(value: SnpReport) -> str:
    """When the list that was judged by was issued; empty where there is none."""
    return ", ".join(f"list of {format_time(seen.issued)}" for seen in value.collateral.values())


def _platform(value: SnpReport, rules: SnpRules) -> Iterator[Reason]:
    if value.product not in rules.products:
        admitted = ", ".join(sorted(rules.products)) or "products named in the profile"
        yield Reason(
            PRODUCT_DENIED, "the processor's product line is not admitted", expected=admitted, seen=value.product
        )
    if value.vlek and not rules.vlek:
        yield Reason(KEY_KIND, "the cloud's key signed", expected="VCEK", seen=f"VLEK of {value.cloud}")
    if rules.chips and value.platform not in rules.chips:
        agreed = " or ".join(sorted(rules.chips))
        yield Reason(WRONG_DEVICE, "another chip", expected=agreed, seen=value.platform or "none is told")
    if not rules.min_tcb:
        yield Reason(RULES_MISSING, "no least firmware is named", expected="min_tcb")
    for name, tcb in (("reported", value.reported), ("committed", value.committed), ("launch", value.launch)):
        yield from _floor(name, tcb, rules)
    lacking = rules.platform_info & ~value.raw.platform_info
    if lacking:
        yield Reason(CONFIGURATION_MISMATCH, "the platform lacks bits of PLATFORM_INFO", seen=f"{lacking:#x} not set")
    if value.raw.platform_info & SMT_ON and not rules.smt:
        yield Reason(CONFIGURATION_MISMATCH, "simultaneous multithreading is on", expected="off, or `smt: true`")
    if rules.mitigations:
        if value.raw.version < MITIGATIONS_SINCE:
            seen = f"version {value.raw.version}"
            yield Reason(REPORT_UNSUPPORTED, "the report tells no mitigations", expected="version 5", seen=seen)
        elif lacking := rules.mitigations & ~value.raw.launch_mitigations:
            yield Reason(TCB_TOO_OLD, "mitigations were missing at launch", seen=f"{lacking:#x} not set")


def _floor(which: str, tcb: Tcb, rules: SnpRules) -> Iterator[Reason]:
    for part, least in rules.min_tcb.items():
        found = getattr(tcb, part)
        if part == "fmc" and found < 0:
            continue  # other product lines have no such part
        if found < least:
            yield Reason(TCB_TOO_OLD, f"{which} TCB: {part}", expected=f"at least {least}", seen=str(found))


def _policy(value: SnpReport, rules: SnpRules) -> Iterator[Reason]:
    policy = value.raw.policy
    if policy & DEBUG:
        yield Reason(
            DEBUG_ENABLED, "the guest's policy allows debugging", expected="not allowed", seen=f"{policy:016x}"
        )
    if policy & MIGRATE:
        yield Reason(
            POLICY_BITS, "a migration agent may be bound to the guest", expected="not allowed", seen=f"{policy:016x}"
        )
    if policy & SMT and not rules.smt:
        yield Reason(POLICY_BITS, "the policy allows multithreading", expected="not allowed, or `smt: true`")
    if policy & parse.CXL and not rules.cxl:
        yield Reason(POLICY_BITS, "the policy allows devices and memory on CXL", expected="not allowed, or `cxl: true`")
    for name, bit in _DEMANDS.items():
        if getattr(rules, name) and not policy & bit:
            what = f"the policy does not demand `{name}` of the platform"
            yield Reason(POLICY_BITS, what, expected=f"bit {bit.bit_length() - 1}", seen=f"{policy:016x}")
    if (policy & 0xFFFF) < rules.min_abi:
        yield Reason(
            POLICY_BITS, "the policy demands an older ABI", expected=str(rules.min_abi), seen=str(policy & 0xFFFF)
        )
    if value.raw.vmpl != 0:
        yield Reason(
            VMPL,
            "the report was not asked for at the guest's most privileged level",
            expected="0",
            seen=str(value.raw.vmpl),
        )


def _guest(value: SnpReport, rules: SnpRules) -> Iterator[Reason]:
    raw = value.raw
    if not rules.measurement:
        yield Reason(RULES_MISSING, "no guest is named", expected="measurement")
    elif raw.measurement.hex() not in rules.measurement:
        agreed = " or ".join(sorted(rules.measurement))
        yield Reason(MEASUREMENT_MISMATCH, "another launch measurement", expected=agreed, seen=raw.measurement.hex())
    author = raw.author_key_digest.hex() if raw.author_key_enabled else ""
    for name, wanted, seen in (
        ("HOST_DATA", frozenset({rules.host_data}), raw.host_data.hex()),
        ("FAMILY_ID", frozenset({rules.family_id}), raw.family_id.hex()),
        ("IMAGE_ID", frozenset({rules.image_id}), raw.image_id.hex()),
        ("ID_KEY_DIGEST", rules.id_keys or frozenset({"00" * 48}), raw.id_key_digest.hex()),
        ("AUTHOR_KEY_DIGEST", rules.author_keys or frozenset({""}), author),
    ):
        if seen not in wanted:
            expected = " or ".join(sorted(wanted)) or "none"
            yield Reason(
                CONFIGURATION_MISMATCH, f"{name} has another value than agreed", expected=expected, seen=seen or "none"
            )
    if raw.guest_svn < rules.min_guest_svn:
        yield Reason(TCB_TOO_OLD, "the guest is older", expected=f"SVN {rules.min_guest_svn}", seen=str(raw.guest_svn))
