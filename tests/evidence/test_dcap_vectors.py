"""Every captured file of Intel's evidence is judged as docs/vectors.md says; bundles as dcap-qvl judged them."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

import pytest

from evidence.dcap_vectors import FOLDER, bundle, files, judge_file, rows
from evidence.vectors import needs_vectors
from perunml.evidence.dcap.library import forget
from perunml.evidence.dcap.parse import parse_quote
from perunml.evidence.dcap.verify import verify_dcap
from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.offline.dcap import DcapFiles, check_dcap, read_quote
from perunml.wire.errors import EvidenceRefusal

TABLE = Path(__file__).parents[2] / "docs" / "vectors.md"
OF_INTEL = ("sgx/", "tdx/", "ccel/", "dcap-bundles/")
REAL = {
    "sgx": "sgx__oasisprotocol__oasis-core__pcs_quote_bundle_cbor@2025-08-15",
    "tdx4": "tdx__Phala-Network__dcap-qvl__tdx_quote@2026-03-01",
    "tdx5": "tdx__openenclave__openenclave__tdx_quote-moduleupdate-seamldr5_dat@2025-06-05",
}


@cache
def written() -> list[str]:
    """The rows that the documents say."""
    return [line for line in TABLE.read_text().splitlines() if line.startswith(tuple(f"| {name}" for name in OF_INTEL))]


@needs_vectors
def test_every_file_is_judged_as_the_documents_say() -> None:
    """Verdict and codes of each, none left out, none more."""
    assert list(rows()) == written()


@needs_vectors
def test_bundles_are_judged_as_dcap_qvl_judged_them() -> None:
    """Its OK is accepted with the same status and advisories; its error is refused."""
    count = 0
    for path in files():
        if path.parent.name == "dcap-bundles":
            expected, found = bundle(path.stem)["dcap_qvl_0_7_0"], judge_file(path)
            assert (found.verdict == "accepted") == (expected["result"] == "OK"), path.name
            if expected["result"] == "OK":
                told = [expected["status_or_error"], *sorted(filter(None, expected["advisories"].split(",")))]
                assert found.told == ", ".join(told)
            count += 1
    assert count == 39


@needs_vectors
@pytest.mark.parametrize("name", REAL)
def test_a_real_platforms_quote_is_not_simulated(name: str) -> None:
    """Under Intel's root; its hexadecimal form says the same, and so does a cut-off padding."""
    made = bundle(REAL[name])
    item, now = json.dumps(made["collateral"]).encode(), made["now_secs"]
    raw = bytes.fromhex(made["quote_hex"])
    found = [
        check_dcap(DcapFiles(form, [item]), "sgx" if name == "sgx" else "tdx", now=now)
        for form in (raw, raw.hex().encode(), b"0x" + raw.hex().upper().encode() + b"\n", parse_quote(raw).quote)
    ]
    assert all(each.accepted and each.claims["quote"] == found[0].claims["quote"] for each in found)
    assert found[0].claims["quote"]["simulated"] is False


@needs_vectors
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("name", REAL)
def test_a_changed_byte_of_what_is_signed_is_refused(name: str, kept: bool) -> None:
    """Header and body, one bit at a time: also while the honest quote's answer is kept, where only the signature is looked at."""
    made = bundle(REAL[name])
    endorsements = Endorsements(Collateral(dcap=(json.dumps(made["collateral"]).encode(),)))
    quote, now = read_quote(made["quote_hex"].encode()), made["now_secs"]
    raw, chance = parse_quote(quote), random.Random(3)
    tee = raw.tee
    assert tee in ("sgx", "tdx")
    forget()
    for at in range(len(raw.signed)):
        if kept and at % 50 == 0:
            verify_dcap(quote, "sgx" if tee == "sgx" else "tdx", endorsements, now=now)
        changed = bytearray(quote)
        changed[at] ^= 1 << chance.randrange(8)
        with pytest.raises(EvidenceRefusal):
            verify_dcap(bytes(changed), "sgx" if tee == "sgx" else "tdx", endorsements, now=now)
        if not kept:
            forget()


@needs_vectors
def test_a_changed_byte_of_the_certification_is_refused_or_changes_nothing() -> None:
    """What no signature covers (a PEM's line ends, padding) may differ; then everything that is told is the same. The platform is
    never named by a quote's bytes."""
    made = bundle(REAL["tdx4"])
    endorsements = Endorsements(Collateral(dcap=(json.dumps(made["collateral"]).encode(),)))
    quote, now = read_quote(made["quote_hex"].encode()), made["now_secs"]
    raw, chance = parse_quote(quote), random.Random(5)
    honest = verify_dcap(quote, "tdx", endorsements, now=now).value
    accepted = 0
    for at in range(len(raw.signed), len(quote), 11):
        changed = bytearray(quote)
        changed[at] ^= 1 << chance.randrange(8)
        try:
            found = verify_dcap(bytes(changed), "tdx", endorsements, now=now).value
        except EvidenceRefusal:
            continue
        accepted += 1
        assert found == honest
    assert accepted < 60


@needs_vectors
def test_the_cos_quote_and_its_event_log() -> None:
    """A production quote of Google's COS under Intel's root, and the event log of the same boot: every RTMR explained. With another
    boot's log it is refused."""
    folder = FOLDER / "tdx" / "google__go-tdx-guest"
    made = bundle("tdx__openenclave__openenclave__tdx_quote_v5_bin@2025-10-19")
    item, now = json.dumps(made["collateral"]).encode(), made["now_secs"]
    quote = (folder / "cos-113-tdx-quote.dat").read_bytes()
    good = check_dcap(DcapFiles(quote, [item], (folder / "ccel_data.dat").read_bytes()), "tdx", now=now)
    assert good.accepted
    assert good.claims["event_log"]["proven"] == [0, 1, 2, 3]
    other = (FOLDER / "ccel" / "Dstack-TEE__dstack" / "ccel.bin").read_bytes()
    bad = check_dcap(DcapFiles(quote, [item], other), "tdx", now=now)
    assert {reason.code for reason in bad.reasons} == {"event_log_mismatch"}
