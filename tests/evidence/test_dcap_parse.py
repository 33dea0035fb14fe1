"""The form of an Intel quote, byte by byte: what does not fill it exactly is refused; and what is kept of an answer, and for how long."""

from __future__ import annotations

import json
from functools import cache, partial
from typing import Any

import pytest

from perunml.evidence.dcap import verify
from perunml.evidence.dcap.collateral import DcapCollateral, read_collateral
from perunml.evidence.dcap.library import forget, library_claims
from perunml.evidence.dcap.parse import TdxBody, parse_quote
from perunml.evidence.dcap.pck import read_pck_chain
from perunml.testing.dcap import NOW, SGX_FIELDS, ForgedIntel, Quoting
from perunml.testing.intelca import SGX_EXTENSION, sgx_extension
from perunml.wire.errors import EvidenceRefusal, PerunError

HEADER, BODY, TD10 = 48, 384, 584


@cache
def intel() -> ForgedIntel:
    return ForgedIntel()


def refused(quote: bytes) -> str:
    with pytest.raises(EvidenceRefusal) as caught:
        parse_quote(quote)
    return caught.value.code


def raised(quote: bytes, at: int, size: int, by: int) -> bytes:
    """The little-endian number of `size` bytes there, `by` more."""
    number = int.from_bytes(quote[at : at + size], "little") + by
    return quote[:at] + number.to_bytes(size, "little") + quote[at + size :]


def test_every_field_is_read_where_it_stands() -> None:
    """Both bodies, with another value in each field."""
    quote = intel().sgx_quote(bytes(range(64)), isv_svn=b"\x05\x01", product_id=b"\2\1", config_svn=b"\3\0")
    body = parse_quote(quote).body
    assert not isinstance(body, TdxBody)
    assert (body.isv_svn, body.product_id, body.config_svn) == (0x105, 0x102, 3)
    assert body.report_data == bytes(range(64))
    named = {f"rtmr{index}": bytes([index + 1]) * 48 for index in range(4)}
    for version in (4, 5):
        raw = parse_quote(intel().tdx_quote(bytes(range(64)), version=version, **named))
        assert isinstance(raw.body, TdxBody)
        assert raw.body.rtmrs == tuple(bytes([index + 1]) * 48 for index in range(4))
        assert raw.signed[raw.varying] == b"".join(raw.body.rtmrs) + raw.body.report_data
        assert len(raw.constant) == len(raw.signed) - 256


@pytest.mark.parametrize("name", ["reserved1", "reserved2", "reserved3", "reserved4"])
def test_reserved_bytes_are_zero(name: str) -> None:
    """One bit in each of an enclave's reserved fields, though signed."""
    value = bytes(len(SGX_FIELDS[name]) - 1) + b"\1"
    assert refused(intel().sgx_quote(**{name: value})) == "non_canonical"


@pytest.mark.parametrize("by", [1, -1, 4])
def test_lengths_are_used_up(by: int) -> None:
    """Of the signature data, of the QE's certification, of a TD report, of the QE's authentication data, of the PCK chain; with zeros at
    hand to fill them."""
    padding = bytes(8)
    sgx = intel().sgx_quote(quoting=Quoting("sgx", 3, padding=padding))
    tdx = intel().tdx_quote(quoting=Quoting("tdx", 4, padding=padding))
    five = intel().tdx_quote(version=5, quoting=Quoting("tdx", 5, padding=padding))
    after = HEADER + BODY + 4 + 128
    places = [
        (sgx, HEADER + BODY, 4),
        (tdx, HEADER + TD10, 4),
        (tdx, HEADER + TD10 + 4 + 128 + 2, 4),
        (five, HEADER + 2, 4),
        (sgx, after + BODY + 64, 2),
        (sgx, after + BODY + 64 + 2 + 32 + 2, 4),
    ]
    for quote, at, size in places:
        assert parse_quote(quote).quote == quote[: -len(padding)]
        assert refused(raised(quote, at, size, by)) in ("non_canonical", "quote_unsupported")


def test_a_version_5_body_is_as_long_as_its_type() -> None:
    """A TD report 1.5 that is called 1.0, with its own length."""
    quote = intel().tdx_quote(version=5)
    assert refused(raised(quote, HEADER, 2, -1)) == "non_canonical"
    assert refused(raised(quote, HEADER, 2, 1)) == "quote_unsupported"


@pytest.mark.parametrize(("at", "value"), [(0, 6), (0, 2), (2, 3), (4, 0x80)])
def test_other_kinds_of_quotes_are_refused(at: int, value: int) -> None:
    """T15: versions, key types and TEEs that are not accepted."""
    quote = intel().tdx_quote()
    assert refused(quote[:at] + bytes([value]) + quote[at + 1 :]) == "quote_unsupported"


def test_a_pck_extension_names_each_member_once() -> None:
    """A second FMSPC, or a member of another extension, in a certificate that Intel would never sign."""
    honest = intel().pck.chain
    assert read_pck_chain(honest).fmspc == intel().fmspc.hex().upper()
    with pytest.raises(PerunError, match="certificate_chain"):
        read_pck_chain(
            honest.replace(b"-----BEGIN CERTIFICATE-----", b"", 1)
            + b"-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----"
        )
    with pytest.raises(PerunError, match="5 certificates"):
        read_pck_chain(honest + honest.partition(b"-----END CERTIFICATE-----\n")[2])


@pytest.mark.parametrize("oid", [f"{SGX_EXTENSION}.4", "1.2.840.113741.1.14.1.9"])
def test_a_second_fmspc_and_a_strange_member_are_refused(oid: str) -> None:
    """Which of two a reader takes is its own affair, so neither counts; nor does what is of another extension."""
    told: dict[str, Any] = {"fmspc": b"\1" * 6, "ppid": bytes(16), "cpu_svn": bytes(16), "pce_svn": 1}
    assert read_pck_chain(intel().ca.pck(sgx_extension(**told)).chain).fmspc == "01" * 6
    with pytest.raises(PerunError, match="certificate_chain"):
        read_pck_chain(intel().ca.pck(sgx_extension(**told, more=(oid, b"\2" * 6))).chain)


def _found() -> DcapCollateral:
    return read_collateral(intel().collateral("sgx"))


def test_an_answer_is_kept_no_longer_than_it_holds() -> None:
    """What was verified at one time is asked again before that time, and after the first of all ends."""
    forget()
    raw, found = parse_quote(intel().sgx_quote()), _found()
    pck = read_pck_chain(raw.pck_chain)

    def read_anew(now: int) -> bool:
        return library_claims(raw, pck, found, intel().root, now)[1]

    assert read_anew(NOW)
    assert not read_anew(NOW)
    assert not read_anew(found.until)
    assert read_anew(NOW - 1)
    with pytest.raises(EvidenceRefusal):
        read_anew(found.until + 1)


def test_an_answer_is_of_one_set_of_collateral() -> None:
    """The same quote under other collateral is verified anew."""
    forget()
    raw = parse_quote(intel().sgx_quote())
    pck = read_pck_chain(raw.pck_chain)
    for found in (_found(), _found()):
        assert library_claims(raw, pck, found, intel().root, NOW)[1]
        assert not library_claims(raw, pck, found, intel().root, NOW)[1]


SGX_READ = ("attributes", "mr_enclave", "mr_signer", "product_id", "isv_svn", "cpu_svn", "report_data")
TDX_READ = (
    "tee_tcb_svn", "td_attributes", "xfam", "mr_td", "mr_seam", "mr_signer_seam", "mr_config_id", "mr_owner", "mr_owner_config", "rtmr0",
    "rtmr3", "report_data", "tee_tcb_svn2", "mr_service_td",
)  # fmt: skip


@pytest.mark.parametrize(
    ("tee", "name"), [*(("sgx", name) for name in SGX_READ), *(("tdx", name) for name in TDX_READ)]
)
def test_two_readers_that_differ_are_not_believed(tee: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is made to tell of another quote, which differs in one field: no real one makes it do so."""
    forget()
    make = intel().sgx_quote if tee == "sgx" else partial(intel().tdx_quote, version=5)
    told = library_answer(make(), tee)
    where = told["report"]["SgxEnclave"] if tee == "sgx" else told["report"]["TD15"]
    key = RENAMED.get(name, name)
    where = where if key in where else where["base"]
    where[key] = (
        where[key] + 1 if isinstance(where[key], int) else ("1" if where[key][0] == "0" else "0") + where[key][1:]
    )
    monkeypatch.setattr(verify, "library_claims", lambda *_: (told, True))
    with pytest.raises(EvidenceRefusal) as caught:
        verify.verify_dcap(make(), "sgx" if tee == "sgx" else "tdx", intel().endorsements(), now=NOW)
    assert [reason.code for reason in caught.value.reasons] == ["parsers_disagree"]


RENAMED = {"product_id": "isv_prod_id", "rtmr0": "rt_mr0", "rtmr3": "rt_mr3"}


def library_answer(quote: bytes, tee: str) -> dict[str, Any]:
    """What dcap-qvl tells of a quote."""
    raw = parse_quote(quote)
    found = read_collateral(intel().collateral(tee))
    claims, _ = library_claims(raw, read_pck_chain(raw.pck_chain), found, intel().root, NOW)
    made: dict[str, Any] = json.loads(json.dumps(claims))
    return made


@pytest.mark.parametrize("name", ["fmspc", "ppid", "platform_instance_id", "pce_svn", "cpu_svn", "sgx_type"])
def test_two_readers_of_a_platform_that_differ_are_not_believed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of the PCK certificate."""
    told = library_answer(intel().sgx_quote(), "sgx")
    value = told["platform"]["pck"][name]
    told["platform"]["pck"][name] = value + 1 if isinstance(value, int) else [value[0] ^ 1, *value[1:]]
    monkeypatch.setattr(verify, "library_claims", lambda *_: (told, True))
    with pytest.raises(EvidenceRefusal) as caught:
        verify.verify_dcap(intel().sgx_quote(), "sgx", intel().endorsements(), now=NOW)
    assert [reason.code for reason in caught.value.reasons] == ["parsers_disagree"]
