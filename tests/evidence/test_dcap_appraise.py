"""Verified Intel quotes under rules: the strictest by default, each rule broken alone, and one spelling of each meaning."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest

from perunml.evidence.bootlog.rtmr import judge_rtmrs
from perunml.evidence.dcap.appraise import BootReasons, appraise_sgx, appraise_tdx, dcap_claims
from perunml.evidence.dcap.parse import TdxBody
from perunml.evidence.dcap.rules import STATUSES, SgxRules, TdxRules
from perunml.evidence.dcap.verify import DcapQuote, verify_dcap
from perunml.evidence.types import Verified, mint_verified
from perunml.testing.bootlog import Boot
from perunml.testing.ccel import ccel, ccel_rules
from perunml.testing.dcap import CPU_SVN, NOW, OUT_OF_DATE, PCE_SVN, SGX_FIELDS, TDX_FIELDS, ForgedIntel, Says
from perunml.wire.errors import UsageError

TOLD = bytes(range(64))
OTHER = "ab" * 48
OUT = Says(levels=((OUT_OF_DATE, CPU_SVN, PCE_SVN, ("INTEL-SA-00615", "INTEL-SA-00828")),))


@cache
def intel() -> ForgedIntel:
    return ForgedIntel()


def sgx_rules(**more: Any) -> SgxRules:
    return SgxRules(**{"mr_enclave": frozenset({SGX_FIELDS["mr_enclave"].hex()}), **more})


def tdx_rules(**more: Any) -> TdxRules:
    exact = {index: frozenset({TDX_FIELDS[f"rtmr{index}"].hex()}) for index in range(4)}
    return TdxRules(**{"mr_td": frozenset({TDX_FIELDS["mr_td"].hex()}), "rtmrs": exact, **more})


def enclave(says: Says | None = None, **fields: bytes) -> Verified[DcapQuote]:
    return verify_dcap(intel().sgx_quote(TOLD, **fields), "sgx", intel().endorsements(says=says), now=NOW)


def domain(says: Says | None = None, version: int = 4, **fields: bytes) -> Verified[DcapQuote]:
    quote = intel().tdx_quote(TOLD, version=version, **fields)
    return verify_dcap(quote, "tdx", intel().endorsements(says=says), now=NOW)


def of_sgx(quote: Verified[DcapQuote], rules: SgxRules, told: bytes = TOLD, now: int = NOW) -> list[str]:
    found = appraise_sgx(quote, rules, report_data=told, endorsements=intel().endorsements(), now=now)
    return [reason.code for reason in found]


def of_tdx(
    quote: Verified[DcapQuote], rules: TdxRules, told: bytes = TOLD, boot: BootReasons | None = None
) -> list[str]:
    found = appraise_tdx(quote, rules, report_data=told, endorsements=intel().endorsements(), now=NOW, boot=boot)
    return [reason.code for reason in found]


def test_agreed_tees_are_admitted() -> None:
    """An enclave by its measurement or by its signer, a domain with exact registers, both versions."""
    signer = SGX_FIELDS["mr_signer"].hex()
    assert of_sgx(enclave(), sgx_rules()) == []
    assert of_sgx(enclave(), SgxRules(mr_signer=signer, product_id=7, min_svn=3)) == []
    assert of_sgx(enclave(), SgxRules(mr_signer=signer, product_id=7, min_svn=0)) == []
    assert of_tdx(domain(), tdx_rules()) == []
    assert of_tdx(domain(version=5), tdx_rules()) == []


@pytest.mark.parametrize(
    ("name", "rules", "expected"),
    [
        ("T2 MRENCLAVE", {"mr_enclave": frozenset({"ab" * 32})}, ["measurement_mismatch"]),
        ("MRSIGNER beside MRENCLAVE", {"mr_signer": "ab" * 32}, ["measurement_mismatch"]),
        ("product id", {"product_id": 8}, ["measurement_mismatch"]),
        ("T3 SVN", {"min_svn": 4}, ["tcb_too_old"]),
        ("T19 CONFIGID", {"config_id": "ab" * 64}, ["configuration_mismatch"]),
        ("T19 CONFIGSVN", {"config_svn": 1}, ["configuration_mismatch"]),
        ("family id", {"family_id": "ab" * 16}, ["configuration_mismatch"]),
        ("extended product id", {"ext_product_id": "ab" * 16}, ["configuration_mismatch"]),
        ("T5 number of the evaluation", {"min_tcb_evaluation": 19}, ["tcb_too_old"]),
        ("age of the collateral", {"max_age": "12h"}, ["collateral_expired"]),
        ("T4 status", {"statuses": frozenset({"SWHardeningNeeded"})}, ["tcb_status"]),
    ],
)  # fmt: skip
def test_an_enclave_that_is_not_agreed_is_refused(name: str, rules: dict[str, Any], expected: list[str]) -> None:
    """T2, T3, T4, T5, T19: one rule asks for other than is there."""
    assert of_sgx(enclave(), sgx_rules(**rules)) == expected, name


def test_t3_the_signer_is_right_and_the_enclave_older() -> None:
    """T3: MRSIGNER and product fit, ISVSVN is lower."""
    rules = SgxRules(mr_signer=SGX_FIELDS["mr_signer"].hex(), product_id=7, min_svn=4)
    assert of_sgx(enclave(), rules) == ["tcb_too_old"]
    assert of_sgx(enclave(isv_svn=(4).to_bytes(2, "little")), rules) == []


@pytest.mark.parametrize(
    "more", [{}, {"mr_signer": "ab" * 32}, {"mr_signer": SGX_FIELDS["mr_signer"].hex(), "product_id": 7}]
)
def test_rules_that_name_no_enclave_admit_none(more: dict[str, Any]) -> None:
    """What a profile leaves out is refused: without a measurement, signer, product and least SVN are all needed."""
    assert "rules_missing" in of_sgx(enclave(), SgxRules(**more))
    assert "rules_missing" in of_tdx(domain(), dataclasses.replace(tdx_rules(), mr_td=frozenset()))


def test_t19_a_configuration_that_was_set_is_refused_by_default() -> None:
    """T19: CONFIGID, MRCONFIGID, owners are zeros unless the agreement says otherwise."""
    assert of_sgx(enclave(config_id=b"\1" * 64), sgx_rules()) == ["configuration_mismatch"]
    for name in ("mr_config_id", "mr_owner", "mr_owner_config"):
        quote = domain(**{name: b"\xab" * 48})
        assert of_tdx(quote, tdx_rules()) == ["configuration_mismatch"]
        assert of_tdx(quote, tdx_rules(**{name: OTHER})) == []


def test_t9_another_exchanges_quote_is_refused() -> None:
    """T9: the report data bind another key."""
    assert of_sgx(enclave(), sgx_rules(), told=bytes(64)) == ["binding_mismatch"]
    assert of_tdx(domain(), tdx_rules(), told=TOLD[:-1] + b"\0") == ["binding_mismatch"]


def test_t4_a_status_is_admitted_only_by_name() -> None:
    """T4: OutOfDate with two advisories; the status may be admitted, one advisory denied all the same. Revoked is no word."""
    assert of_sgx(enclave(OUT), sgx_rules()) == ["tcb_status"]
    admitted = sgx_rules(statuses=frozenset({"OutOfDate"}))
    assert of_sgx(enclave(OUT), admitted) == []
    denied = dataclasses.replace(admitted, denied_advisories=frozenset({"INTEL-SA-00828", "INTEL-SA-00001"}))
    assert of_sgx(enclave(OUT), denied) == ["advisory_denied"]
    assert of_tdx(domain(OUT), tdx_rules()) == ["tcb_status"]
    assert "Revoked" not in STATUSES
    with pytest.raises(UsageError):
        SgxRules.from_json({"statuses": ["Revoked"]})


def test_the_collaterals_age_is_its_oldest_daily_parts() -> None:
    """The root's revocation list is issued once a year and does not count."""
    says = Says(crl_issued=NOW - 40 * 86_400, crl_until=NOW + 86_400)
    assert of_sgx(enclave(says), sgx_rules(max_age="39d")) == ["collateral_expired"]
    assert of_sgx(enclave(says), sgx_rules(max_age="40d")) == []


@pytest.mark.parametrize(
    ("name", "rules", "expected"),
    [
        ("MRTD", {"mr_td": frozenset({OTHER})}, ["measurement_mismatch"]),
        ("T10 MRSEAM", {"mr_seam": frozenset({OTHER})}, ["measurement_mismatch"]),
        ("T10 TDATTRIBUTES", {"td_attributes": frozenset({"00" * 8})}, ["configuration_mismatch"]),
        ("XFAM", {"xfam": frozenset({"00" * 8})}, ["configuration_mismatch"]),
        ("T19 MRCONFIGID", {"mr_config_id": OTHER}, ["configuration_mismatch"]),
        ("MROWNER", {"mr_owner": OTHER}, ["configuration_mismatch"]),
        ("MROWNERCONFIG", {"mr_owner_config": OTHER}, ["configuration_mismatch"]),
        ("T10 RTMRs", {"rtmrs": {index: frozenset({OTHER}) for index in range(4)}}, ["rtmr_mismatch"] * 4),
        ("T10 nothing said of RTMRs", {"rtmrs": {}}, ["rtmr_mismatch"] * 4),
        ("T10 an event log is agreed, none was judged", {"rtmrs": {}, "boot": ccel_rules()}, ["rtmr_mismatch"] * 4),
        ("RTMRs left open", {"rtmrs": {}, "open": frozenset({0, 1, 2, 3})}, []),
    ],
)  # fmt: skip
def test_a_domain_that_is_not_agreed_is_refused(name: str, rules: dict[str, Any], expected: list[str]) -> None:
    """T10, T19: one rule asks for other than is there; a register is exact, explained or open."""
    assert of_tdx(domain(), tdx_rules(**rules)) == expected, name


def test_t10_an_attribute_more_is_refused_by_default() -> None:
    """T10: performance monitoring (bit 63) beside SEPT_VE_DISABLE; admitted where the agreement writes it."""
    quote = domain(td_attributes=bytes.fromhex("0000001000000080"))
    assert of_tdx(quote, tdx_rules()) == ["configuration_mismatch"]
    assert of_tdx(quote, tdx_rules(td_attributes=frozenset({"0000001000000080"}))) == []


def test_registers_are_explained_by_the_event_log() -> None:
    """RTMR 3 exact, the others by the log's events under rules; another boot's log explains none."""
    log, rtmrs = ccel()
    quote = domain(**{f"rtmr{index}": value for index, value in enumerate(rtmrs)})
    rules = tdx_rules(rtmrs={3: frozenset({bytes(48).hex()})}, boot=ccel_rules())
    body = quote.value.body
    assert isinstance(body, TdxBody)
    assert rules.boot is not None

    def judged(of: bytes) -> BootReasons:
        assert rules.boot is not None
        return judge_rtmrs(of, Boot().cmdline, body.rtmrs, rules.boot, exact=frozenset({3}), open_=frozenset()).reasons

    assert of_tdx(quote, rules, boot=judged(log)) == []
    other, _ = ccel(Boot(image=b"another"))
    assert "event_log_mismatch" in of_tdx(quote, rules, boot=judged(other))
    assert of_tdx(quote, rules, boot=judged(b"")) == ["event_log_missing"] * 3


def test_all_reasons_are_told() -> None:
    """Never the first alone."""
    rules = SgxRules(mr_enclave=frozenset({"ab" * 32}), product_id=1, min_svn=9, min_tcb_evaluation=99)
    expected = [
        "binding_mismatch",
        "tcb_status",
        "tcb_too_old",
        "measurement_mismatch",
        "measurement_mismatch",
        "tcb_too_old",
    ]
    assert of_sgx(enclave(OUT), rules, told=bytes(64)) == expected


def test_claims_tell_what_was_measured() -> None:
    """For people and receipts."""
    told = dcap_claims(domain())
    assert told["simulated"] is True
    assert told["tcb_status"] == "UpToDate"
    assert told["mr_td"] == TDX_FIELDS["mr_td"].hex()
    assert dcap_claims(enclave())["svn"] == 3


WRITTEN = [
    (SgxRules, {"mr_enclave": ["ab" * 32], "max_age": "30d", "denied_advisories": ["INTEL-SA-00615"]}),
    (SgxRules, {"mr_signer": "ab" * 32, "product_id": 0, "min_svn": 0, "statuses": ["SWHardeningNeeded", "UpToDate"]}),
    (TdxRules, {"mr_td": [OTHER], "rtmrs": {"0": [OTHER], "3": ["00" * 48]}, "open": [2], "boot": {"secure_boot": True}}),
    (TdxRules, {"mr_td": [OTHER], "xfam": ["e702060000000000"], "mr_seam": [OTHER], "min_tcb_evaluation": 17}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "written"), WRITTEN)
def test_rules_are_written_as_they_are_read(kind: Any, written: dict[str, Any]) -> None:
    """One spelling of each meaning."""
    assert kind.from_json(written).as_json() == written


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (SgxRules, {"debug": True}),
        (SgxRules, {"mr_enclav": ["ab" * 32]}),
        (SgxRules, {"mr_enclave": []}),
        (SgxRules, {"mr_enclave": ["AB" * 32]}),
        (SgxRules, {"mr_enclave": ["ab" * 31]}),
        (SgxRules, {"mr_enclave": ["cd" * 32, "ab" * 32]}),
        (SgxRules, {"statuses": ["UpToDate"]}),
        (SgxRules, {"config_svn": 0}),
        (SgxRules, {"min_svn": -1}),
        (SgxRules, {"min_svn": True}),
        (SgxRules, {"max_age": "soon"}),
        (SgxRules, {"denied_advisories": ["CVE-2024-1"]}),
        (TdxRules, {"rtmrs": {"4": [OTHER]}}),
        (TdxRules, {"rtmrs": {"00": [OTHER]}}),
        (TdxRules, {"open": [4]}),
        (TdxRules, {"td_attributes": ["0000001000000000"]}),
        (TdxRules, {"boot": {"open": [1]}}),
        (TdxRules, {"boot": {"secure_boot": False}}),
        (TdxRules, []),
    ],
)
def test_other_spellings_are_refused(kind: Any, written: Any) -> None:
    """Unknown members, defaults that are written, values that are not of their form; debug has no member."""
    with pytest.raises(UsageError) as caught:
        kind.from_json(written)
    assert caught.value.code == "malformed"


def changed(quote: Verified[DcapQuote], **fields: bytes) -> Verified[DcapQuote]:
    """The same with another body, as if verification had let it pass."""
    return mint_verified(dataclasses.replace(quote.value, body=dataclasses.replace(quote.value.body, **fields)))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"td_attributes": bytes.fromhex("0100001000000000")}, ["debug_enabled", "configuration_mismatch"]),
        ({"td_attributes": bytes(8)}, ["sept_ve_disable", "configuration_mismatch"]),
        ({"mr_signer_seam": b"\1" * 48}, ["measurement_mismatch"]),
        ({"seam_attributes": b"\1" * 8}, ["measurement_mismatch"]),
        ({"mr_service_td": b"\1" * 48}, ["service_td"]),
    ],
)
def test_t10_appraisal_leaves_nothing_to_verification_alone(fields: dict[str, bytes], expected: list[str]) -> None:
    """T1, T10: what dcap-qvl refuses is refused here once more, also where an agreement would write such attributes."""
    assert of_tdx(changed(domain(version=5), **fields), tdx_rules()) == expected
    written = tdx_rules(td_attributes=frozenset({fields.get("td_attributes", b"\0\0\0\x10\0\0\0\0").hex()}))
    assert of_tdx(changed(domain(version=5), **fields), written) == expected[:1]
    assert of_sgx(changed(enclave(), attributes=b"\7" + bytes(15)), sgx_rules()) == ["debug_enabled"]
