"""Intel quotes in files: the forms that are read, and files that are none."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from perunml.evidence.dcap.rules import SgxRules
from perunml.evidence.endorsements import Collateral
from perunml.evidence.offline.dcap import MAX_EVENT_LOG, DcapFiles, check_dcap, read_bundle, read_quote
from perunml.evidence.offline.findings import Checked
from perunml.evidence.parts import MAX_QUOTE
from perunml.testing.dcap import NOW, SGX_FIELDS, ForgedIntel
from perunml.wire.errors import EvidenceRefusal, UsageError


@cache
def intel() -> ForgedIntel:
    return ForgedIntel()


def checked(quote: bytes, *collateral: bytes, log: bytes | None = None, rules: tuple[SgxRules, ...] = ()) -> Checked:
    files = DcapFiles(quote, collateral, log, simulated_roots=(intel().root,))
    return check_dcap(files, "sgx", now=NOW, rules=rules)


def codes(found: Checked) -> list[str]:
    return [reason.code for reason in found.reasons]


def test_collateral_is_an_item_or_a_set() -> None:
    """An item alone, both TEEs' in turn, and a set as a manager keeps it."""
    item, other = intel().collateral("sgx"), intel().collateral("tdx")
    whole = json.dumps(Collateral(NOW, dcap=(other, item)).as_json()).encode()
    quote = intel().sgx_quote()
    for given in ((item,), (other, item), (whole,), (other, whole)):
        assert checked(quote, *given).accepted
    assert codes(checked(quote)) == ["collateral_missing"]
    assert codes(checked(quote, b'{"dcap": []}')) == ["collateral_invalid"]
    assert codes(checked(quote, item + b'"dcap"')) == ["collateral_invalid"]


@pytest.mark.parametrize("form", [bytes.hex, lambda data: f"0x{data.hex().upper()}\n", lambda data: data.hex(" ", 32)])
def test_a_quote_is_read_in_hexadecimal(form: Any) -> None:
    """Lower and upper case, with a prefix, with blanks and line ends."""
    quote = intel().sgx_quote()
    assert read_quote(form(quote).encode()) == quote


@pytest.mark.parametrize(
    "data", [b"", b"0x", b"0", b"0x123", b"zz", bytes(MAX_QUOTE + 1), b"ab" * (MAX_QUOTE + 1), b"ab" * 9_000]
)
def test_a_file_that_is_no_quote_is_refused(data: bytes) -> None:
    """Empty, half a byte, too long in either form, too short when read."""
    found = checked(data, intel().collateral("sgx"))
    assert not found.accepted
    assert set(codes(found)) <= {"non_canonical", "quote_unsupported"}
    assert found.claims["quote"] is None


def test_an_enclave_has_no_event_log() -> None:
    """A log beside an SGX quote was meant for something else; one that is too long is not read."""
    item = intel().collateral("sgx")
    assert codes(checked(intel().sgx_quote(), item, log=b"log")) == ["non_canonical"]
    files = DcapFiles(
        intel().tdx_quote(), (intel().collateral("tdx"),), bytes(MAX_EVENT_LOG + 1), simulated_roots=(intel().root,)
    )
    found = check_dcap(files, "tdx", now=NOW)
    assert codes(found) == ["non_canonical"]
    assert found.claims["event_log"] is None


def test_what_does_not_verify_is_told_as_such() -> None:
    """Claims of a quote whose chain does not even read."""
    quote = intel().sgx_quote()
    at = quote.index(b"-----BEGIN")
    found = checked(quote[:at] + b"x" * (len(quote) - at), intel().collateral("sgx"))
    assert codes(found) == ["certificate_chain"]
    assert found.claims["quote"]["verified"] is False
    assert found.claims["quote"]["fmspc"] == ""


def test_the_rules_that_fit_best_are_told_of() -> None:
    """Of several alternatives one is met, or the one with the fewest reasons is told."""
    good = SgxRules(mr_enclave=frozenset({SGX_FIELDS["mr_enclave"].hex()}))
    bad = SgxRules(mr_enclave=frozenset({"ab" * 32}))
    worse = SgxRules(mr_enclave=frozenset({"ab" * 32}), product_id=9, min_svn=9)
    item = intel().collateral("sgx")
    assert checked(intel().sgx_quote(), item, rules=(worse, good, bad)).accepted
    assert codes(checked(intel().sgx_quote(), item, rules=(worse, bad))) == ["measurement_mismatch"]


@pytest.mark.parametrize(
    "made", [b"", b"{}", b"[]", b'{"quote_hex": 1, "collateral": {}, "now_secs": 1}', b'{"quote_hex": "", "collateral": [], "now_secs": 1}',
             b'{"quote_hex": "", "collateral": {}, "now_secs": true}', b'{"quote_hex": "", "collateral": {}}'],
)  # fmt: skip
def test_a_file_that_is_no_bundle_is_an_unusable_call(made: bytes) -> None:
    """Members missing, or of another type."""
    with pytest.raises(UsageError):
        read_bundle(made)


def test_a_bundle_is_read() -> None:
    """Quote, collateral and time."""
    item = json.loads(intel().collateral("sgx"))
    made = read_bundle(json.dumps({"quote_hex": "00ff", "collateral": item, "now_secs": NOW, "more": 1}).encode())
    assert (made.quote, json.loads(made.collateral), made.now) == (b"\0\xff", item, NOW)


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_what_was_recorded_behind_a_bundles_quote_is_cut_off(tee: Any) -> None:
    """The quote says how long it is; the same bytes in a file of their own are refused. Padding is told in both."""
    quote = intel().sgx_quote() if tee == "sgx" else intel().tdx_quote(version=5)
    item = intel().collateral(tee)
    for more in (b"", bytes(70), b"signature and whatever"):
        bundle = {"quote_hex": (quote + more).hex(), "collateral": json.loads(item), "now_secs": NOW}
        made = read_bundle(json.dumps(bundle).encode())
        assert (made.quote, made.trailing) == (quote, len(more))
        files = DcapFiles(made.quote, (made.collateral,), simulated_roots=(intel().root,), trailing=made.trailing)
        found = check_dcap(files, tee, now=NOW)
        assert found.accepted
        assert found.claims["trailing_bytes"] == len(more)
        alone = check_dcap(DcapFiles(quote + more, (item,), simulated_roots=(intel().root,)), tee, now=NOW)
        assert alone.accepted == (not any(more))
    for odd in ("abc", "zz", "00" * 40, quote[:600].hex()):
        made = read_bundle(json.dumps({"quote_hex": odd, "collateral": {}, "now_secs": NOW}).encode())
        assert not check_dcap(DcapFiles(made.quote, (item,)), tee, now=NOW).accepted


def test_odd_hexadecimal_says_so() -> None:
    """Half a byte."""
    with pytest.raises(EvidenceRefusal, match="half a byte"):
        read_quote(b"abc")
