"""Each single fault in otherwise right evidence (Q1–Q20, Q23–Q30, N6, N7, I1–I16, I25–I28) is refused with its code."""

from __future__ import annotations

import hashlib

import pytest

from evidence.judging import BINDING, codes, judged
from perunml.evidence.bundle import Bundle
from perunml.evidence.tpm.attest import parse_attest
from perunml.testing.faults import FAULTS, Fault, broken
from perunml.testing.forge import ForgedTpm, Quoting, with_part
from perunml.testing.imalog import ima_line
from perunml.testing.structures import selection, sized
from perunml.wire.errors import EvidenceRefusal


def test_the_table_covers_what_it_says() -> None:
    """The table of faults is not empty, and has every number that it should."""
    wanted = {"N6", "N7", *(f"Q{n}" for n in (*range(1, 21), 23, 25, 26, 28, 29, 30))}
    wanted |= {f"I{n}" for n in (*range(1, 17), 25, 26, 27, 28)}
    assert {fault.number for fault in FAULTS} >= wanted


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_single_fault_is_refused_with_its_code(fault: Fault) -> None:
    """The fault's code is among the reasons, and the same machine without the fault is accepted."""
    tpm = ForgedTpm(**dict(fault.tpm))
    baseline = tpm.baseline()
    if fault.number not in ("Q10",):
        assert codes(judged(tpm, tpm.bundle(BINDING), baseline)) == []
    judgement = judged(tpm, broken(fault, tpm, BINDING), baseline)
    assert fault.code in codes(judgement)


APPRAISED = ("weak_bank", "clock_unsafe", "pcr10_mismatch")
UNVERIFIED = [f for f in FAULTS if f.number[0] in "NQ" and f.code not in APPRAISED and f.name != "required_pcr_missing"]


@pytest.mark.parametrize("fault", UNVERIFIED, ids=str)
def test_what_is_not_verified_proves_no_binding(fault: Fault) -> None:
    """Evidence whose quote does not verify proves no binding, names no boot, and has no log to keep."""
    tpm = ForgedTpm(**dict(fault.tpm))
    judgement = judged(tpm, broken(fault, tpm, BINDING), tpm.baseline())
    assert judgement.appraisal.binding == b""
    assert judgement.appraisal.boot == ""
    assert judgement.clock is None
    assert judgement.log == b""


def test_every_failure_is_told_not_the_first() -> None:
    """A machine that is wrong in several ways gets a reason for each."""
    tpm = ForgedTpm()
    baseline = tpm.baseline()
    tpm.extend(4, b"another kernel")
    tpm.measure("/opt/evil", b"evil")
    tpm.measure("/opt/worse", b"worse", violation=True)
    assert codes(judged(tpm, tpm.bundle(BINDING), baseline)) == [
        "pcr_mismatch",
        "event_log_mismatch",
        "boot_aggregate",
        "not_in_policy",
        "ima_violation",
    ]


def test_reasons_are_bounded() -> None:
    """A machine with thousands of unlisted files gets a bounded list of reasons and a count."""
    tpm = ForgedTpm()
    baseline = tpm.baseline()
    for number in range(1000):
        tpm.measure(f"/opt/{number}", b"x")
    reasons = judged(tpm, tpm.bundle(BINDING), baseline).appraisal.reasons
    assert len(reasons) == 25
    assert "976 more" in reasons[-1].message


def test_q12_banks_that_prove_different_parts_of_the_log_are_refused() -> None:
    """Q12: each bank's PCR 10 is in the log, but not at the same line."""
    tpm = ForgedTpm(banks=("sha256", "sha384"), files={"/bin/x": b"x"})
    baseline, earlier = tpm.baseline(), tpm.pcrs["sha384"][10]
    tpm.measure("/bin/x", b"x")
    tpm.pcrs["sha384"][10] = earlier
    assert codes(judged(tpm, tpm.bundle(BINDING), baseline)) == ["pcr10_mismatch"]


def test_q20_an_rsa_signature_of_a_wrong_width_is_refused() -> None:
    """Q20: neither shorter nor with a zero before it."""
    tpm = ForgedTpm(ak="rsa")
    part = tpm.quote(BINDING)
    signature = part.signature[6:]
    for wrong in (signature[1:], b"\0" + signature, b""):
        changed = part.signature[:4] + sized(wrong)
        assert codes(judged(tpm, with_part(Bundle((part,)), signature=changed))) == ["non_canonical"]


def test_a_line_whose_signature_field_is_missing_is_refused() -> None:
    """I15: an ima-sig line with an ima-ng line's fields."""
    tpm = ForgedTpm(template="ima-sig")
    log = tpm.ima_log.replace(b"\0\0\0\0" + tpm.lines[1].encoded[:4], tpm.lines[1].encoded[:4])
    first = ima_line(b"boot_aggregate", bytes(32)).encoded
    lying = first.replace(b"\x06\0\0\0ima-ng", b"\x07\0\0\0ima-sig")
    for broken_log in (log, lying):
        assert codes(judged(tpm, tpm.bundle(BINDING, Quoting(log=broken_log)))) == ["non_canonical"]


def test_i10_the_aggregate_under_another_name_is_refused() -> None:
    """I10: a first line with the right digest that a baseline even lists, but that is not boot_aggregate."""
    tpm = ForgedTpm(files={})
    full = tpm.baseline()
    aggregate = hashlib.sha256(b"".join(tpm.pcrs["sha256"][:10])).digest()
    tpm.lines, tpm.pcrs["sha256"][10] = [], bytes(32)
    tpm.measure("/bin/x", b"", digest=aggregate)
    listed = type(full)(full.pcrs, {"/bin/x": frozenset(["sha256:" + aggregate.hex()])})
    assert codes(judged(tpm, tpm.bundle(BINDING), listed)) == ["boot_aggregate"]


def test_q9_a_quote_without_pcr_10_is_refused_for_that() -> None:
    """Q9: the baseline's PCRs are all there, and IMA's is not."""
    tpm = ForgedTpm()
    found = codes(judged(tpm, tpm.bundle(BINDING, Quoting(banks=[("sha256", range(10))]))))
    assert found == ["pcr_selection", "pcr10_mismatch"]


def test_q23_a_safe_flag_that_is_neither_yes_nor_no_is_refused() -> None:
    """Q23: 2 is not YES."""
    tpm = ForgedTpm()
    bundle = tpm.bundle(BINDING, Quoting(clock=(tpm.clock, 1, 0, 2)))
    assert codes(judged(tpm, bundle)) == ["non_canonical"]


def test_q11_a_bank_of_an_unknown_hash_is_refused() -> None:
    """Q11: SM3, and a number that means nothing."""
    tpm = ForgedTpm()
    good = selection([("sha256", range(15))])
    for number in (0x0012, 0xFFFF):
        selected = good[:4] + number.to_bytes(2) + good[6:]
        with pytest.raises(EvidenceRefusal) as caught:
            parse_attest(tpm.quote(BINDING, Quoting(selected=selected)).attest)
        assert caught.value.code == "pcr_selection"
