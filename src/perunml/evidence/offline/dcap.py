"""`check_dcap`: an Intel quote in a file, its collateral and event log, judged without a manager and, if need be, without a profile.

Without rules everything is judged that needs none: form, chain to Intel's root, revocation, collateral in force, QE identity, a TCB
level that is not revoked, no debug mode, the signature, and an event log's replay to the quoted RTMRs. TCB status and measurements
are told as claims. With rules, the same appraisal runs as in a manager.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from perunml.evidence.bootlog.rtmr import RtmrFindings, judge_rtmrs, told_by
from perunml.evidence.codes import BINDING_MISMATCH, NON_CANONICAL
from perunml.evidence.dcap.appraise import appraise_sgx, appraise_tdx, dcap_claims
from perunml.evidence.dcap.parse import RawQuote, SgxBody, TdxBody, own_length, parse_quote
from perunml.evidence.dcap.pck import read_pck_chain
from perunml.evidence.dcap.rules import SgxRules, TdxRules
from perunml.evidence.dcap.verify import DcapQuote, verify_dcap
from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.offline.findings import Checked, Findings
from perunml.evidence.offline.raw import raw_or_hex
from perunml.evidence.parts import MAX_QUOTE
from perunml.evidence.types import Verified
from perunml.wire.canonical import load_json
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import PerunError, refuse
from perunml.wire.rules import Reason

MAX_FILE = 4 * 1024 * 1024
"""Bytes of a file of evidence, collateral or both; the largest known has 60,000."""
MAX_EVENT_LOG = 1024 * 1024
"""Bytes of an event log with the padding of the firmware's table: 262,144 are usual."""
REPORT_DATA = 64


@dataclass(frozen=True, slots=True)
class DcapFiles:
    """What an auditor holds of one quote.

    quote            the bytes, or hex
    collateral       items in dcap-qvl's JSON form, or whole sets (`endorsements.Collateral`)
    event_log        what extended the RTMRs (CCEL), or None
    report_data      what the TEE must report, at most 64 bytes, followed by zeros; None: not compared
    cmdline          what the machine says its kernel's command line was; believed where a measured event is its digest
    simulated_roots  development roots (DER) that are believed
    trailing         bytes that were cut off after the quote before it came here
    """

    quote: bytes
    collateral: Sequence[bytes] = ()
    event_log: bytes | None = None
    report_data: bytes | None = None
    cmdline: str = ""
    simulated_roots: Sequence[bytes] = ()
    trailing: int = 0


@dataclass(frozen=True, slots=True)
class QuoteBundle:
    """A quote, the collateral of its time, and that time (seconds since 1970), from one file.

    Whoever recorded it took the quote out of something else, perhaps with what stood behind it. The quote says how long it is; what
    follows is cut off (`trailing` bytes), and is neither evidence nor read. Elsewhere such bytes are refused.
    """

    quote: bytes
    collateral: bytes
    now: int
    trailing: int = 0


def check_dcap(
    files: DcapFiles, tee: Literal["sgx", "tdx"], *, now: int, rules: Sequence[SgxRules | TdxRules] = ()
) -> Checked:
    """Judge a quote that is said to be of this TEE at `now` (seconds since 1970), under the first of the `rules` that it meets.
    Never raises for bad evidence."""
    found = Findings()
    quote = found.attempt(read_quote, files.quote)
    claims: dict[str, Any] = {"quote": None, "event_log": None, "trailing_bytes": files.trailing}
    if quote is None:
        return found.checked(claims)
    raw = found.attempt(parse_quote, quote)
    known = found.attempt(_endorsements, files)
    verified = None
    if raw is not None and known is not None:
        claims["quote"] = _raw_claims(raw)
        claims["trailing_bytes"] += len(quote) - len(raw.quote)
        verified = found.attempt(verify_dcap, quote, tee, known, now=now)
    if verified is not None:
        claims["quote"] = dcap_claims(verified)
        _compare(found, verified.value, files.report_data)
    if raw is not None and files.event_log is not None:
        claims["event_log"] = _event_log(found, raw, files, rules)
    if verified is not None and known is not None and rules:
        fewest, *others = (_appraise(verified, one, files, known, now) for one in rules)
        for reasons in others:
            fewest = min(fewest, reasons, key=len)
        found.add(fewest)
    return found.checked(claims)


def read_quote(data: bytes) -> bytes:
    """The bytes of a file that has them raw or in hex. Raises `EvidenceRefusal` (non_canonical)."""
    return raw_or_hex(data, MAX_QUOTE, "the quote")


def _shape(value: object) -> str:
    """What a file holds in a bundle's place, in a few words: its members, of which at most 8 are named, or that it is no object."""
    if not isinstance(value, dict):
        return "JSON that is no object"
    return ", ".join(sorted(str(name)[:32] for name in value)[:8]) or "an empty object"


def read_bundle(data: bytes) -> QuoteBundle:
    """A file of `quote_hex`, `collateral` (in dcap-qvl's JSON form) and `now_secs`. Raises `UsageError` (malformed)."""
    value = load_json(data, limit=MAX_FILE)
    if not isinstance(value, dict) or not isinstance(value.get("collateral"), dict):
        raise refuse(MALFORMED, "not a bundle", expected="quote_hex, collateral, now_secs", seen=_shape(value))
    quote, now = value.get("quote_hex"), value.get("now_secs")
    if not isinstance(quote, str) or isinstance(now, bool) or not isinstance(now, int):
        expected = "quote_hex (text), collateral (an object), now_secs (a whole number)"
        raise refuse(MALFORMED, "not a bundle", expected=expected, seen=_shape(value))
    collateral = json.dumps(value["collateral"]).encode()
    try:
        raw = read_quote(quote.encode())
    except PerunError:  # what is wrong with it is the check's to say
        return QuoteBundle(quote.encode(), collateral, now)
    own = raw[: own_length(raw)]
    return QuoteBundle(own, collateral, now, len(raw) - len(own))


def _endorsements(files: DcapFiles) -> Endorsements:
    items = [item for data in files.collateral for item in _items(data)]
    return Endorsements(Collateral(dcap=tuple(items)), tuple(files.simulated_roots))


def _items(data: bytes) -> tuple[bytes, ...]:
    """The items of one file: itself, or the Intel part of a set."""
    if len(data) <= MAX_FILE and b'"dcap"' in data:
        try:
            return Collateral.from_json(load_json(data, limit=MAX_FILE)).dcap
        except PerunError:
            return (data,)
    return (data,)


def _raw_claims(raw: RawQuote) -> dict[str, Any]:
    """What a quote says of itself that was not verified: whose it would be."""
    try:
        fmspc = read_pck_chain(raw.pck_chain).fmspc
    except PerunError:
        fmspc = ""
    told = {"tee": raw.tee, "version": raw.version, "fmspc": fmspc, "debug": raw.body.debug}
    return {**told, "report_data": raw.body.report_data.hex(), "verified": False}


def _compare(found: Findings, quote: DcapQuote, told: bytes | None) -> None:
    if told is None:
        return
    wanted = told.ljust(REPORT_DATA, b"\0")
    if not hmac.compare_digest(quote.report_data, wanted):
        seen = quote.report_data.hex()
        found.refuse(BINDING_MISMATCH, "the quote reports other data", expected=wanted.hex(), seen=seen)


def _event_log(
    found: Findings, raw: RawQuote, files: DcapFiles, rules: Sequence[SgxRules | TdxRules]
) -> dict[str, Any] | None:
    """What the log tells. It must be this boot's unless rules judge it."""
    if files.event_log is None or not isinstance(raw.body, TdxBody):
        found.refuse(NON_CANONICAL, "an enclave has no event log", expected="a TDX quote", seen=raw.tee)
        return None
    if len(files.event_log) > MAX_EVENT_LOG:
        found.refuse(NON_CANONICAL, "the event log is too long", expected=f"at most {MAX_EVENT_LOG} bytes")
        return None
    told = found.attempt(told_by, files.event_log, files.cmdline, raw.body.rtmrs)
    if told is None:
        return None
    if not any(isinstance(one, TdxRules) and one.boot is not None for one in rules):
        found.add(reason for reasons in told.reasons.values() for reason in reasons)
    return told.claims()


def _appraise(
    quote: Verified[DcapQuote], rules: SgxRules | TdxRules, files: DcapFiles, known: Endorsements, now: int
) -> tuple[Reason, ...]:
    # what it was to report was compared before, where it is known
    told, body = quote.value.report_data, quote.value.body
    if isinstance(rules, SgxRules) and isinstance(body, SgxBody):
        return appraise_sgx(quote, rules, report_data=told, endorsements=known, now=now)
    assert isinstance(rules, TdxRules)
    assert isinstance(body, TdxBody)
    boot = _judged(body, rules, files)
    reasons = boot.reasons if boot is not None else None
    return appraise_tdx(quote, rules, report_data=told, endorsements=known, now=now, boot=reasons)


def _judged(body: TdxBody, rules: TdxRules, files: DcapFiles) -> RtmrFindings | None:
    if rules.boot is None:
        return None
    log, exact = files.event_log or b"", frozenset(rules.rtmrs)
    return judge_rtmrs(log, files.cmdline, body.rtmrs, rules.boot, exact=exact, open_=rules.open)
