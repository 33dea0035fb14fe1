"""Verifying and appraising Intel quotes, beside dcap-qvl's bare verification of the same quote, in interleaved rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import dcap_qvl

from perunml.evidence.dcap.appraise import appraise_sgx, appraise_tdx
from perunml.evidence.dcap.library import forget
from perunml.evidence.dcap.rules import SgxRules, TdxRules
from perunml.evidence.dcap.verify import verify_dcap
from perunml.testing.dcap import NOW, SGX_FIELDS, TDX_FIELDS, ForgedIntel
from perunml.wire.errors import EvidenceRefusal

ROUNDS, CALLS = 30, 40
TARGET = 1500
"""Quotes a second on one core."""
QUOTES = 64
"""Different quotes of one TEE: a renewal has other report data each time."""


def round_of(call: Callable[[int], Any], count: int) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    for number in range(count):
        call(number)
    return (time.perf_counter() - begin) / count


def compare(intel: ForgedIntel, tee: str) -> tuple[float, float, float]:
    """Seconds of a TEE's next quote, of the first quote of a TEE, and of dcap-qvl alone; medians over rounds."""
    endorsements = intel.endorsements()
    told = [number.to_bytes(64) for number in range(QUOTES)]
    make = intel.sgx_quote if tee == "sgx" else intel.tdx_quote
    quotes = [make(data) for data in told]
    sgx = SgxRules(mr_enclave=frozenset({SGX_FIELDS["mr_enclave"].hex()}))
    rtmrs = {index: frozenset({TDX_FIELDS[f"rtmr{index}"].hex()}) for index in range(4)}
    tdx = TdxRules(mr_td=frozenset({TDX_FIELDS["mr_td"].hex()}), rtmrs=rtmrs)

    def judge(quote: bytes, data: bytes) -> None:
        found = verify_dcap(quote, "sgx" if tee == "sgx" else "tdx", endorsements, now=NOW)
        if tee == "sgx":
            reasons = appraise_sgx(found, sgx, report_data=data, endorsements=endorsements, now=NOW)
        else:
            reasons = appraise_tdx(found, tdx, report_data=data, endorsements=endorsements, now=NOW, boot=None)
        assert not reasons

    def following(number: int) -> None:
        judge(quotes[number % QUOTES], told[number % QUOTES])

    def first(number: int) -> None:
        forget()
        following(number)

    verifier, policy = dcap_qvl.QuoteVerifier(intel.root), dcap_qvl.QuotePolicy.claims_only(NOW)
    collateral = dcap_qvl.QuoteCollateralV3.from_json(intel.collateral(tee).decode())

    def bare(number: int) -> None:
        verifier.verify_with_policy(quotes[number % QUOTES], collateral, NOW, policy)

    following(0)
    changed = quotes[1][:600] + bytes([quotes[1][600] ^ 1]) + quotes[1][601:]
    for broken in (changed, quotes[1][:40] + b"\1" + quotes[1][41:]):  # a check that cannot fail is none
        try:
            judge(broken, told[1])
            raise AssertionError("a changed quote was accepted")
        except EvidenceRefusal:
            pass
    times: tuple[list[float], ...] = ([], [], [])
    for number in range(ROUNDS + 3):
        found = round_of(following, CALLS), round_of(first, CALLS // 4), round_of(bare, CALLS // 4)
        if number >= 3:  # warmed up
            for kept, one in zip(times, found, strict=True):
                kept.append(one)
    return statistics.median(times[0]), statistics.median(times[1]), statistics.median(times[2])


def run() -> dict[str, Any]:
    intel, results = ForgedIntel(), []
    for tee, name in (("sgx", "SGX"), ("tdx", "TDX")):
        following, first, bare = compare(intel, tee)
        rate = {"unit": "1/s", "higher_is_better": True}
        results += [
            {"name": f"{name}: quotes of known TEEs", "value": round(1 / following), **rate, "target": TARGET},
            {"name": f"{name}: first quotes of TEEs", "value": round(1 / first), **rate},
            {"name": f"{name}: dcap-qvl alone", "value": round(1 / bare), **rate},
        ]
    return {
        "title": "Intel quotes parsed, verified and appraised on one core, beside dcap-qvl's verification alone. The first quote of a "
        "TEE costs dcap-qvl's whole work; the following ones (each renewal) the attestation key's signature and our own checks.",
        "results": results,
    }
