"""Is a verified Intel quote good enough for these rules? Every reason that there is, never the first alone."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping

from perunml.evidence.codes import BINDING_MISMATCH, EVENT_LOG_MISSING
from perunml.evidence.dcap.codes import RTMR_MISMATCH, SEPT_VE, SERVICE_TD
from perunml.evidence.dcap.parse import SEPT_VE_DISABLE, SgxBody, TdxBody
from perunml.evidence.dcap.rules import REGISTERS, SgxRules, TdxRules
from perunml.evidence.dcap.verify import DcapQuote
from perunml.evidence.endorsements import Endorsements
from perunml.evidence.tee.codes import (
    ADVISORY_DENIED,
    COLLATERAL_EXPIRED,
    CONFIGURATION_MISMATCH,
    DEBUG_ENABLED,
    MEASUREMENT_MISMATCH,
    RULES_MISSING,
    TCB_STATUS,
    TCB_TOO_OLD,
)
from perunml.evidence.tee.rules import seconds
from perunml.evidence.types import Verified
from perunml.wire.canonical import Json
from perunml.wire.rules import Reason, Rule
from perunml.wire.timestamps import format_time

BootReasons = Mapping[int, tuple[Reason, ...]]
"""RTMR -> why its event log does not explain it, or shows what is not agreed; empty where it does and does not. -1: what is wrong with
the log as a whole."""
WHOLE = -1


def appraise_sgx(
    quote: Verified[DcapQuote], rules: SgxRules, *, report_data: bytes, endorsements: Endorsements, now: int
) -> tuple[Reason, ...]:
    """Why an enclave is not admitted at `now` (seconds since 1970); `report_data` is the 64 bytes that it must report."""
    value = quote.value
    assert isinstance(value.body, SgxBody)
    return (*_platform(value, rules, report_data, now), *_enclave(value.body, rules))


def appraise_tdx(
    quote: Verified[DcapQuote],
    rules: TdxRules,
    *,
    report_data: bytes,
    endorsements: Endorsements,
    now: int,
    boot: BootReasons | None,
) -> tuple[Reason, ...]:
    """The same of a trust domain. `boot` is what its event log was found to be, None where none was sent or judged."""
    value = quote.value
    assert isinstance(value.body, TdxBody)
    return (
        *_platform(value, rules, report_data, now),
        *_domain(value.body, rules),
        *_registers(value.body, rules, boot),
    )


def dcap_claims(quote: Verified[DcapQuote]) -> dict[str, Json]:
    """What the quote tells, for people."""
    value = quote.value
    told: dict[str, Json] = {
        "tee": value.tee,
        "version": value.version,
        "tcb_status": value.status,
        "advisories": sorted(value.advisories),
        "fmspc": value.fmspc,
        "platform": value.platform,
        "tcb_evaluation": value.number,
        "collateral_until": format_time(value.expires),
        "simulated": value.simulated,
        "debug": value.body.debug,
        "report_data": value.report_data.hex(),
    }
    body = value.body
    if isinstance(body, SgxBody):
        return told | {
            "mr_enclave": body.mr_enclave.hex(),
            "mr_signer": body.mr_signer.hex(),
            "product_id": body.product_id,
            "svn": body.isv_svn,
            "attributes": body.attributes.hex(),
        }
    return told | {
        "mr_td": body.mr_td.hex(),
        "rtmrs": [rtmr.hex() for rtmr in body.rtmrs],
        "mr_seam": body.mr_seam.hex(),
        "td_attributes": body.td_attributes.hex(),
        "xfam": body.xfam.hex(),
        "mr_config_id": body.mr_config_id.hex(),
        "mr_owner": body.mr_owner.hex(),
        "mr_owner_config": body.mr_owner_config.hex(),
        "tee_tcb_svn": body.tee_tcb_svn.hex(),
    }


def _platform(value: DcapQuote, rules: SgxRules | TdxRules, report_data: bytes, now: int) -> Iterator[Reason]:
    if not hmac.compare_digest(value.report_data, report_data):
        seen = value.report_data.hex()
        yield Reason(BINDING_MISMATCH, "the quote was made for another exchange", expected=report_data.hex(), seen=seen)
    if value.body.debug:
        yield Reason(DEBUG_ENABLED, "the TEE runs in debug mode", expected="not in debug mode", seen="debug")
    if value.status not in rules.statuses:
        admitted = " or ".join(sorted(rules.statuses))
        yield Reason(TCB_STATUS, "the platform's TCB status is not admitted", expected=admitted, seen=value.status)
    denied = value.advisories & rules.denied_advisories
    if denied:
        yield Reason(ADVISORY_DENIED, "denied advisories apply to the platform", seen=", ".join(sorted(denied)))
    if value.number < rules.min_tcb_evaluation:
        wanted = f"number {rules.min_tcb_evaluation} or newer"
        yield Reason(
            TCB_TOO_OLD, "the TCB information is of an older evaluation", expected=wanted, seen=str(value.number)
        )
    if rules.max_age and value.collected + seconds(rules.max_age) < now:
        wanted = f"issued since {format_time(now - seconds(rules.max_age))}"
        yield Reason(
            COLLATERAL_EXPIRED, "older than the profile admits", expected=wanted, seen=format_time(value.collected)
        )


def _enclave(body: SgxBody, rules: SgxRules) -> Iterator[Reason]:
    seen = body.mr_enclave.hex()
    if rules.mr_enclave:
        if seen not in rules.mr_enclave:
            yield _other(MEASUREMENT_MISMATCH, "MRENCLAVE", sorted(rules.mr_enclave), seen)
    elif not rules.mr_signer or rules.product_id < 0 or rules.min_svn < 0:
        yield Reason(RULES_MISSING, "no enclave is named", expected="mr_enclave, or mr_signer, product_id and min_svn")
    if rules.mr_signer and body.mr_signer.hex() != rules.mr_signer:
        yield _other(MEASUREMENT_MISMATCH, "MRSIGNER", [rules.mr_signer], body.mr_signer.hex())
    if rules.product_id >= 0 and body.product_id != rules.product_id:
        yield _other(MEASUREMENT_MISMATCH, "product id", [str(rules.product_id)], str(body.product_id))
    if body.isv_svn < rules.min_svn:
        yield Reason(TCB_TOO_OLD, "the enclave is older", expected=f"ISV SVN {rules.min_svn}", seen=str(body.isv_svn))
    for name, wanted, told in (
        ("CONFIGID", rules.config_id, body.config_id.hex()),
        ("CONFIGSVN", str(rules.config_svn), str(body.config_svn)),
        ("ISV family id", rules.family_id, body.isv_family_id.hex()),
        ("ISV extended product id", rules.ext_product_id, body.isv_ext_product_id.hex()),
    ):
        if wanted != told:
            yield _other(CONFIGURATION_MISMATCH, name, [wanted], told)


def _domain(body: TdxBody, rules: TdxRules) -> Iterator[Reason]:
    if not rules.mr_td:
        yield Reason(RULES_MISSING, "no trust domain is named", expected="mr_td")
    elif body.mr_td.hex() not in rules.mr_td:
        yield _other(MEASUREMENT_MISMATCH, "MRTD", sorted(rules.mr_td), body.mr_td.hex())
    if any(body.mr_signer_seam) or any(body.seam_attributes):
        seen = f"{body.mr_signer_seam.hex()}, {body.seam_attributes.hex()}"
        yield Reason(
            MEASUREMENT_MISMATCH,
            "the TDX module is not Intel's",
            expected="MRSIGNERSEAM and attributes zero",
            seen=seen,
        )
    if rules.mr_seam and body.mr_seam.hex() not in rules.mr_seam:
        yield _other(MEASUREMENT_MISMATCH, "MRSEAM", sorted(rules.mr_seam), body.mr_seam.hex())
    if not int.from_bytes(body.td_attributes, "little") & SEPT_VE_DISABLE:
        yield Reason(SEPT_VE, "SEPT_VE_DISABLE is not set", expected="bit 28", seen=body.td_attributes.hex())
    if any(body.mr_service_td):
        yield Reason(SERVICE_TD, "a service domain is bound", expected="none", seen=body.mr_service_td.hex())
    listed = [("TDATTRIBUTES", rules.td_attributes, body.td_attributes.hex())]
    listed += [("XFAM", rules.xfam, body.xfam.hex())] if rules.xfam else []
    listed += [
        ("MRCONFIGID", frozenset({rules.mr_config_id}), body.mr_config_id.hex()),
        ("MROWNER", frozenset({rules.mr_owner}), body.mr_owner.hex()),
        ("MROWNERCONFIG", frozenset({rules.mr_owner_config}), body.mr_owner_config.hex()),
    ]
    for name, wanted, told in listed:
        if told not in wanted:
            yield _other(CONFIGURATION_MISMATCH, name, sorted(wanted), told)


def _registers(body: TdxBody, rules: TdxRules, boot: BootReasons | None) -> Iterator[Reason]:
    if rules.boot is not None and boot is not None:
        yield from boot.get(WHOLE, ())
    if rules.boot is not None and boot is None and not set(REGISTERS) - rules.rtmrs.keys() - rules.open:
        yield Reason(EVENT_LOG_MISSING, "nothing shows what the rules ask of the event log", expected="an event log")
    for index in REGISTERS:
        seen = body.rtmrs[index].hex()
        if index in rules.rtmrs:
            if seen not in rules.rtmrs[index]:
                yield _other(RTMR_MISMATCH, f"RTMR{index}", sorted(rules.rtmrs[index]), seen)
        elif index in rules.open:
            continue
        elif rules.boot is not None and boot is not None and index in boot:
            yield from boot[index]
        else:
            what = "no event log explains it" if rules.boot is not None else "the profile says nothing about it"
            yield Reason(RTMR_MISMATCH, f"RTMR{index}: {what}", expected="a value, an event log or `open`", seen=seen)


def _other(rule: Rule, name: str, wanted: list[str], seen: str) -> Reason:
    return Reason(rule, f"{name} has another value than agreed", expected=" or ".join(wanted), seen=seen)
