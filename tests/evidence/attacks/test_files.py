"""Attacks on the judgement of evidence in files: what an auditor holds is judged as strictly as what a host sends."""

from __future__ import annotations

import base64
import json
from functools import cache

import pytest

from evidence.nvidia_forged import NONCE, card, honest
from perunml.evidence.dcap.rules import TdxRules
from perunml.evidence.offline.dcap import DcapFiles, check_dcap
from perunml.evidence.offline.findings import Checked
from perunml.evidence.offline.nvidia import MAX_DEVICES, NvidiaFiles, check_nvidia
from perunml.evidence.offline.snp import SnpFiles, check_snp
from perunml.evidence.parts import MAX_QUOTE, MAX_REPORT
from perunml.testing.dcap import NOW, TDX_FIELDS, ForgedIntel
from perunml.testing.nvidia_pki import NOW as GPU_NOW
from perunml.testing.snp import AmdCa, ForgedChip

DATA = bytes(range(64))


@cache
def intel() -> ForgedIntel:
    return ForgedIntel()


@cache
def chip() -> ForgedChip:
    return ForgedChip(AmdCa())


def codes(checked: Checked) -> set[str]:
    return {reason.code for reason in checked.reasons}


@pytest.mark.parametrize(
    ("told", "good"), [(DATA, True), (DATA[:32], False), (DATA + b"\0", False), (DATA + DATA, False), (b"", False)]
)
def test_t16_report_data_of_another_length(told: bytes, good: bool) -> None:
    """T16: shorter ones are followed by zeros, longer ones are of no TEE; none is cut to fit."""
    dcap = DcapFiles(intel().sgx_quote(DATA), [intel().collateral("sgx")], None, told, "", (intel().root,))
    snp = SnpFiles(chip().report(DATA), chip().chain, (chip().ca.revocations(),), told, (chip().ca.root,))
    assert codes(check_dcap(dcap, "sgx", now=NOW)) == (set() if good else {"binding_mismatch"})
    assert codes(check_snp(snp, now=NOW)) == (set() if good else {"binding_mismatch"})


def test_rules_without_a_log_look_at_none() -> None:
    """ACCEPT: every register is exact, so an event log of another boot changes nothing of the verdict."""
    quote = intel().tdx_quote(DATA)
    exact = {index: frozenset({TDX_FIELDS[f"rtmr{index}"].hex()}) for index in range(4)}
    rules = TdxRules(mr_td=frozenset({TDX_FIELDS["mr_td"].hex()}), rtmrs=exact)
    files = DcapFiles(quote, [intel().collateral("tdx")], None, DATA, "", (intel().root,))
    assert codes(check_dcap(files, "tdx", now=NOW, rules=[rules])) == set()
    with_log = DcapFiles(quote, [intel().collateral("tdx")], b"\xff" * 64, DATA, "", (intel().root,))
    assert codes(check_dcap(with_log, "tdx", now=NOW, rules=[rules])) == {"non_canonical"}


@pytest.mark.parametrize(
    ("policy", "code"), [(1 << 17 | 1 << 18, "guest_policy"), (1 << 17 | 1 << 19, "debug_enabled")]
)
def test_t11_a_guest_that_may_be_moved_or_looked_into(policy: int, code: str) -> None:
    """T11: without a profile too."""
    files = SnpFiles(
        chip().report(DATA, policy=policy), chip().chain, (chip().ca.revocations(),), DATA, (chip().ca.root,)
    )
    assert codes(check_snp(files, now=NOW)) == {code}


def test_d2_files_beyond_their_bounds() -> None:
    """D2: raw or in hex, nothing longer is looked into."""
    for long in (b"\1" * (MAX_QUOTE + 1), b"01" * (MAX_QUOTE + 1), b"01" * (4 * MAX_QUOTE)):
        assert codes(check_dcap(DcapFiles(long), "sgx", now=NOW)) == {"non_canonical"}
    assert codes(check_snp(SnpFiles(b"00" * (MAX_REPORT + 1)), now=NOW)) == {"non_canonical"}


def test_d2_more_devices_than_a_machine_has() -> None:
    """D2: a list of devices is bounded before one of them is verified."""
    part = card().report(NONCE)
    known = honest()
    device = {"evidence": _base64(part.report), "certificate": _base64(b"".join(part.chain))}
    for count, wanted in ((1, set()), (MAX_DEVICES + 1, {"non_canonical"}), (0, {"non_canonical"})):
        files = NvidiaFiles(
            [json.dumps([device] * count).encode()], None, NONCE, known.collateral.rims, known.collateral.ocsp,
            known.simulated_roots,
        )  # fmt: skip
        assert codes(check_nvidia(files, now=GPU_NOW)) == wanted


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
