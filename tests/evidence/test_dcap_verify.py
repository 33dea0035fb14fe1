"""Intel quotes and collateral, forged under a development root: what is honest is verified, and each check is broken alone."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest

from perunml.evidence.dcap.library import forget
from perunml.evidence.dcap.verify import DcapQuote, verify_dcap
from perunml.evidence.endorsements import Collateral, Endorsements, Seen
from perunml.testing.dcap import (
    CPU_SVN,
    DEBUG,
    FMSPC,
    NOW,
    OUT_OF_DATE,
    PCE_SVN,
    REVOKED,
    SGX_FIELDS,
    TDX_FIELDS,
    UP_TO_DATE,
    ForgedIntel,
    Quoting,
    Says,
    packed,
)
from perunml.testing.intelca import END, IntelCa, new_key
from perunml.wire.errors import EvidenceRefusal

TOLD = bytes(range(64))
NEWER = bytes([9] * 16)
SEPT_VE_OFF = bytes(8)


@cache
def intel() -> ForgedIntel:
    return ForgedIntel()


@cache
def stranger() -> ForgedIntel:
    """Another root by the same name, and everything under it."""
    return ForgedIntel()


def platform(**told: Any) -> ForgedIntel:
    """Another platform under the same root."""
    return ForgedIntel(ca=intel().ca, **told)


def verified(quote: bytes, tee: str, endorsements: Endorsements, now: int = NOW) -> DcapQuote:
    assert tee in ("sgx", "tdx")
    return verify_dcap(quote, "sgx" if tee == "sgx" else "tdx", endorsements, now=now).value


def codes(quote: bytes, tee: str, endorsements: Endorsements, now: int = NOW) -> list[str]:
    with pytest.raises(EvidenceRefusal) as caught:
        verified(quote, tee, endorsements, now)
    return [reason.code for reason in caught.value.reasons]


def sgx(**told: Any) -> Callable[[], bytes]:
    return lambda: intel().sgx_quote(TOLD, **told)


def tdx(**told: Any) -> Callable[[], bytes]:
    return lambda: intel().tdx_quote(TOLD, **told)


def with_item(**changes: Any) -> Callable[[], Endorsements]:
    """Collateral whose JSON was changed after it was signed."""

    def made() -> Endorsements:
        item = json.loads(intel().collateral("sgx"))
        return Endorsements(Collateral(dcap=(json.dumps({**item, **changes}).encode(),)), (intel().root,))

    return made


def edited(name: str, old: str, new: str) -> Callable[[], Endorsements]:
    def made() -> Endorsements:
        text = json.loads(intel().collateral("sgx"))[name]
        assert old in text
        return with_item(**{name: text.replace(old, new)})()

    return made


@dataclass(frozen=True)
class Case:
    """What is attempted, and the codes of all reasons that it is refused with."""

    name: str
    expected: tuple[str, ...]
    quote: Callable[[], bytes] = field(default_factory=lambda: sgx())
    tee: str = "sgx"
    says: Callable[[], Says] = Says
    endorsements: Callable[[], Endorsements] | None = None
    now: int = NOW


def v3(**told: Any) -> Quoting:
    return Quoting("sgx", 3, **told)


def levels(status: str) -> Callable[[], Says]:
    return lambda: Says(levels=((UP_TO_DATE, NEWER, 99, ()), (status, CPU_SVN, PCE_SVN, ("INTEL-SA-00615",))))


EXPIRED = ("collateral_expired",)
CHAIN = ("certificate_chain",)
CASES = [
    Case("T1 SGX debug", ("debug_enabled",), sgx(attributes=DEBUG)),
    Case("T10 TDX debug", ("debug_enabled",), tdx(td_attributes=bytes.fromhex("0100001000000000")), "tdx"),
    Case("T10 TDX without SEPT_VE_DISABLE", ("sept_ve_disable",), tdx(td_attributes=SEPT_VE_OFF), "tdx"),
    Case("T10 TDX may migrate", ("configuration_mismatch",), tdx(td_attributes=bytes.fromhex("0000003000000000")), "tdx"),
    Case("T10 TDX reserved attribute", ("configuration_mismatch",), tdx(td_attributes=bytes.fromhex("0002001000000000")), "tdx"),
    Case("T10 TDX module by another signer", ("tcb_level_missing",), tdx(mr_signer_seam=b"\1" * 48), "tdx"),
    Case("T10 TDX module with attributes", ("tcb_level_missing",), tdx(seam_attributes=b"\1" * 8), "tdx"),
    Case("T10 TDX module that is not rated", ("tcb_level_missing",), tdx(tee_tcb_svn=bytes([4, 1, 2, *bytes(13)])), "tdx"),
    Case("T10 service TD", ("service_td",), tdx(version=5, mr_service_td=b"\1" * 48), "tdx"),
    Case("T10 TDX TCB now is older", ("tcb_level_missing",), tdx(version=5, tee_tcb_svn2=bytes(16)), "tdx"),
    Case("T4 TCB level revoked", ("tcb_status",), says=levels(REVOKED)),
    Case("T4 TDX TCB level revoked", ("tcb_status",), tdx(), "tdx", levels(REVOKED)),
    Case("T4 TDX module revoked", ("tcb_status",), tdx(), "tdx", lambda: Says(module=((REVOKED, 2),))),
    Case("T4 QE revoked", ("tcb_status",), says=lambda: Says(qe_levels=((UP_TO_DATE, 5), (REVOKED, 2)))),
    Case("T4 no TCB level", ("tcb_level_missing",), says=lambda: Says(levels=((UP_TO_DATE, NEWER, 99, ()),))),
    Case("T4 PCK of an older microcode", ("tcb_level_missing",), lambda: platform(cpu_svn=bytes(16)).sgx_quote()),
    Case("T5 TCB info expired", EXPIRED, says=lambda: Says(until=NOW - 1)),
    Case("T5 TCB info from the future", EXPIRED, says=lambda: Says(issued=NOW + 1)),
    Case("T5 QE identity expired", EXPIRED, says=lambda: Says(qe_until=NOW - 1)),
    Case("T5 QE identity from the future", EXPIRED, says=lambda: Says(qe_issued=NOW + 1)),
    Case("T6 PCK revocation list expired", EXPIRED, says=lambda: Says(crl_until=NOW - 1)),
    Case("T6 root's revocation list expired", EXPIRED, says=lambda: Says(root_crl_until=NOW - 1)),
    Case("T6 revocation lists from the future", EXPIRED * 2, says=lambda: Says(crl_issued=NOW + 1)),
    Case("T6 no PCK revocation list", ("revocation_missing",), endorsements=with_item(pck_crl="")),
    Case("T6 no revocation list of the root", ("revocation_missing",), endorsements=with_item(root_ca_crl="")),
    Case("T6 forged PCK revocation list", CHAIN, says=lambda: Says(crl_forged=True)),
    Case("T6 forged revocation list of the root", ("collateral_invalid",), says=lambda: Says(root_crl_forged=True)),
    Case("PCK revoked", ("certificate_revoked",), says=lambda: Says(revoked=[intel().pck.certificate.serial_number])),
    Case("PCK CA revoked", ("certificate_revoked",), says=lambda: Says(revoked_by_root=[intel().ca.serials["pck_ca"]])),
    Case("TCB signing revoked", ("certificate_revoked",), says=lambda: Says(revoked_by_root=[intel().ca.serials["tcb"]])),
    Case("PCK expired", ("certificate_expired",), lambda: platform(pck_end=dt.datetime(2025, 1, 1, tzinfo=dt.UTC)).sgx_quote()),
    Case("T7 another root by the same name", CHAIN, lambda: stranger().sgx_quote(TOLD)),
    Case("T7 T18 development root not passed", CHAIN, endorsements=lambda: intel().endorsements(trusted=False)),
    Case("T7 T18 another development root passed", CHAIN,
         endorsements=lambda: Endorsements(intel().endorsements().collateral, (stranger().root,))),
    Case("T7 QE identity under another root", CHAIN, endorsements=lambda: with_item(qe_identity_issuer_chain=stranger().ca.tcb_chain)()),
    Case("T7 TCB info under another root", CHAIN, endorsements=lambda: with_item(tcb_info_issuer_chain=stranger().ca.tcb_chain)()),
    Case("TCB info signed by a PCK CA", CHAIN, endorsements=lambda: with_item(tcb_info_issuer_chain=intel().ca.pck_ca_chain)()),
    Case("T5 number raised after signing", ("collateral_invalid",), endorsements=edited("tcb_info", "Number\":18", "Number\":19")),
    Case("QE identity changed after signing", ("collateral_invalid",), endorsements=edited("qe_identity", "prodid\":1", "prodid\":7")),
    Case("signature cut off", ("collateral_invalid",), endorsements=with_item(tcb_info_signature="00")),
    Case("collateral is no JSON", ("collateral_invalid",), endorsements=lambda: Endorsements(Collateral(dcap=(b"{",)), (intel().root,))),
    Case("collateral lacks a member", ("collateral_invalid",), endorsements=with_item(tcb_info=None)),
    Case("TCB info of no TEE", ("collateral_invalid",), endorsements=edited("tcb_info", '"SGX"', '"XYZ"')),
    Case("no collateral", ("collateral_missing",), endorsements=lambda: Endorsements(Collateral(), (intel().root,))),
    Case("collateral of the other TEE", ("collateral_missing",), endorsements=lambda: intel().endorsements("tdx")),
    Case("collateral of another kind of platform", ("collateral_missing",), lambda: platform(fmspc=b"\1" * 6).sgx_quote()),
    Case("T8 QE by another signer", ("qe_identity",), says=lambda: Says(qe_signer=b"\1" * 32)),
    Case("T8 QE is another enclave", ("qe_identity",), says=lambda: Says(qe_product=9)),
    Case("T8 QE too old", ("qe_identity",), says=lambda: Says(qe_levels=((UP_TO_DATE, 5),))),
    Case("T8 QE in debug mode", ("qe_identity",), sgx(quoting=v3(qe_fields={"attributes": DEBUG}))),
    Case("T8 QE's report is over other data", ("qe_identity",), sgx(quoting=v3(qe_told=b"other"))),
    Case("T8 QE's report not by the PCK", ("qe_identity",), sgx(quoting=v3(qe_signed_by=new_key()))),
    Case("quote by another key than the QE certified", ("report_signature",), sgx(quoting=v3(signed_by=new_key()))),
    Case("QE of another vendor", ("quote_unsupported",), sgx(quoting=v3(vendor=bytes(16)))),
    Case("attestation key of another type", ("quote_unsupported",), sgx(quoting=v3(key_type=3))),
    Case("no PCK chain in the quote", ("quote_unsupported",), sgx(quoting=v3(certification=1))),
    Case("T17 said to be TDX, is SGX", ("wrong_tee",), sgx(), "tdx"),
    Case("T17 said to be SGX, is TDX", ("wrong_tee",), tdx()),
    Case("T17 type TDX, body SGX", ("non_canonical",), lambda: intel().quote(packed(SGX_FIELDS, {}), Quoting("tdx", 4)), "tdx"),
    Case("T17 type SGX, body TDX", ("non_canonical",), lambda: intel().quote(packed(TDX_FIELDS, {}), v3())),
    Case("T17 version 5 with an SGX body", ("wrong_tee",),
         lambda: intel().quote(b"\1\0" + (384).to_bytes(4, "little") + packed(SGX_FIELDS, {}), Quoting("tdx", 5)), "tdx"),
    Case("T15 TDX as version 3", ("quote_unsupported",), lambda: intel().quote(packed(TDX_FIELDS, {}), Quoting("tdx", 3)), "tdx"),
    Case("T15 SGX as version 4", ("quote_unsupported",), lambda: intel().quote(packed(SGX_FIELDS, {}), Quoting("sgx", 4))),
    Case("T15 TD report 1.0 called 1.5", ("non_canonical",),
         lambda: intel().quote(b"\3\0" + (584).to_bytes(4, "little") + packed(TDX_FIELDS, {}), Quoting("tdx", 5)), "tdx"),
    Case("bytes after the quote", ("non_canonical",), sgx(quoting=v3(padding=b"\0\1"))),
    Case("more padding than any driver leaves", ("non_canonical",), sgx(quoting=v3(padding=bytes(5000)))),
    Case("all reasons, not the first alone", ("collateral_expired", "collateral_expired", "certificate_revoked", "debug_enabled"),
         sgx(attributes=DEBUG),
         says=lambda: Says(until=NOW - 1, crl_until=NOW - 1, revoked=[intel().pck.certificate.serial_number])),
]  # fmt: skip


@pytest.mark.parametrize(("tee", "version"), [("sgx", 3), ("tdx", 4), ("tdx", 5)])
def test_an_honest_quote_is_verified(tee: str, version: int) -> None:
    """All three forms, under a development root: simulated, whatever they show."""
    quote = intel().sgx_quote(TOLD) if tee == "sgx" else intel().tdx_quote(TOLD, version=version)
    found = verified(quote, tee, intel().endorsements())
    assert (found.tee, found.version, found.status, found.simulated) == (tee, version, UP_TO_DATE, True)
    assert found.report_data == TOLD
    assert found.fmspc == FMSPC.hex().upper()
    assert found.advisories == frozenset()
    assert found.platform.startswith("platform:sha256:")
    assert found.collateral[_remembered(f"{tee}:{found.fmspc}")] == Seen(18, NOW - 86_400)
    assert found.expires == NOW + 29 * 86_400


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_check_broken_alone(case: Case) -> None:
    """T1, T4 to T8, T10, T15, T17, T18: one thing is wrong, and the reason says which; the same after an honest quote was kept."""
    forget()
    endorsements = (
        case.endorsements() if case.endorsements is not None else intel().endorsements(case.tee, says=case.says())
    )
    assert codes(case.quote(), case.tee, endorsements, case.now) == list(case.expected)
    version = 5 if case.tee == "tdx" and case.quote()[0] == 5 else 4
    honest = intel().sgx_quote(TOLD) if case.tee == "sgx" else intel().tdx_quote(TOLD, version=version)
    with suppress(EvidenceRefusal):  # kept where only the quote is at fault
        verified(honest, case.tee, endorsements, case.now)
    assert codes(case.quote(), case.tee, endorsements, case.now) == list(case.expected)


def test_everything_ends_with_its_certificates() -> None:
    """A day after the last certificate's end nothing is in force."""
    found = codes(intel().sgx_quote(), "sgx", intel().endorsements(), int(END.timestamp()) + 1)
    assert set(found) == {"collateral_expired", "certificate_expired"}


@pytest.mark.parametrize("status", [OUT_OF_DATE, "SWHardeningNeeded", "ConfigurationNeeded"])
def test_a_status_that_rules_may_admit_is_told(status: str) -> None:
    """T4: verification tells, appraisal judges."""
    found = verified(intel().sgx_quote(), "sgx", intel().endorsements(says=levels(status)()))
    assert (found.status, found.advisories) == (status, frozenset({"INTEL-SA-00615"}))


def _remembered(name: str) -> str:
    """As the development root's collateral is remembered: beside Intel's, never as it."""
    return f"{name}@{hashlib.sha256(intel().root).hexdigest()[:16]}"


def test_t5_older_collateral_than_seen_is_refused() -> None:
    """T5: a lower number, or the same number issued earlier; what is as new or newer is not."""
    name, quote = _remembered(f"sgx:{FMSPC.hex().upper()}"), intel().sgx_quote()
    issued = NOW - 86_400
    for seen in (Seen(19, 0), Seen(18, issued + 1)):
        assert codes(quote, "sgx", intel().endorsements(seen={name: seen})) == ["collateral_rollback"]
    for seen in (Seen(18, issued), Seen(17, NOW)):
        verified(quote, "sgx", intel().endorsements(seen={name: seen}))


@pytest.mark.parametrize("name", ["qe:sgx", "crl:intel"])
def test_t5_what_platforms_share_may_be_a_days_older(name: str) -> None:
    """T5: QE identity and revocation lists of one collection are not of one second; more than a day is a step back."""
    name, quote, issued = _remembered(name), intel().sgx_quote(), NOW - 86_400
    own = verified(quote, "sgx", intel().endorsements()).collateral[name]
    assert own.issued == issued
    verified(quote, "sgx", intel().endorsements(seen={name: Seen(own.number, issued + 86_400)}))
    for seen in (Seen(own.number, issued + 86_401), Seen(own.number + 1, 0)):
        assert codes(quote, "sgx", intel().endorsements(seen={name: seen})) == ["collateral_rollback"]


def test_evidence_ends_with_the_first_thing_that_it_rests_on() -> None:
    """The platform's own certificate too."""
    end = dt.datetime.fromtimestamp(NOW + 3600, dt.UTC)
    assert verified(platform(pck_end=end).sgx_quote(), "sgx", intel().endorsements()).expires == NOW + 3600


def test_the_newest_fitting_collateral_is_taken() -> None:
    """Two items for one platform: the one of the higher number, wherever it stands."""
    old, new = (intel().collateral("sgx", Says(number=number)) for number in (17, 19))
    for order in ((old, new), (new, old)):
        found = verified(intel().sgx_quote(), "sgx", Endorsements(Collateral(dcap=order), (intel().root,)))
        assert found.number == 19


def test_an_item_that_does_not_read_shuts_out_no_other() -> None:
    """It is told where nothing else fits."""
    bad, good = b"{}", intel().collateral("sgx")
    verified(intel().sgx_quote(), "sgx", Endorsements(Collateral(dcap=(bad, good)), (intel().root,)))
    other = Endorsements(Collateral(dcap=(bad, intel().collateral("tdx"))), (intel().root,))
    assert codes(intel().sgx_quote(), "sgx", other) == ["collateral_invalid", "collateral_missing"]


def test_t21_a_platform_is_known_by_its_certificate_alone() -> None:
    """T21: the same in each of its quotes, other for another PPID or instance; the quote's own bytes do not say."""
    endorsements = intel().endorsements()
    names = {verified(intel().sgx_quote(bytes([n]) * 64), "sgx", endorsements).platform for n in range(3)}
    assert len(names) == 1
    others = (platform(ppid=b"\2" * 16), platform(instance=b"\2" * 16), platform(instance=None))
    assert len(names | {verified(other.sgx_quote(), "sgx", endorsements).platform for other in others}) == 4
    padded = intel().sgx_quote(quoting=v3(padding=bytes(3000), qe_auth=b"other" * 6 + b"of"))
    assert {verified(padded, "sgx", endorsements).platform} == names


@pytest.mark.parametrize("kept", [False, True])
def test_the_other_signature_of_the_same_is_the_same_quote(kept: bool) -> None:
    """ECDSA is malleable: (r, n - s) verifies too, and nothing that is told of the quote changes."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    quote, at = intel().sgx_quote(TOLD), 48 + 384 + 4 + 32
    other = quote[:at] + (order - int.from_bytes(quote[at : at + 32])).to_bytes(32) + quote[at + 32 :]
    assert other != quote
    forget()
    honest = verified(quote, "sgx", intel().endorsements())
    if not kept:
        forget()
    assert verified(other, "sgx", intel().endorsements()) == honest


def test_a_drivers_padding_is_no_part_of_the_quote() -> None:
    """Zeros up to a buffer's end are cut off before anything is read; TDX's guest driver leaves 8,000 bytes in all."""
    quote = intel().tdx_quote(TOLD)
    padded = quote + bytes(8000 - len(quote))
    assert verified(padded, "tdx", intel().endorsements()) == verified(quote, "tdx", intel().endorsements())


def test_t16_no_truncation_panics() -> None:
    """T16: each length of a quote is refused with a code."""
    for quote, tee in ((intel().sgx_quote(), "sgx"), (intel().tdx_quote(version=5), "tdx")):
        endorsements = intel().endorsements()
        for size in (*range(0, 1200, 7), *range(1200, len(quote), 97), len(quote) - 1):
            assert codes(quote[:size], tee, endorsements) == ["non_canonical"]


def test_a_certificates_name_cannot_make_a_root() -> None:
    """T7: a root is known by its bytes; one by Intel's name is none of Intel's."""
    assert IntelCa().root != intel().root
    found = codes(stranger().sgx_quote(), "sgx", Endorsements(stranger().endorsements().collateral))
    assert found == ["certificate_chain"]


@pytest.mark.parametrize("at", range(0, 60, 3))
def test_d9_a_revocation_list_that_does_not_read_is_refused(at: int) -> None:
    """D9: a length, a type or a version of the list changed; never another exception."""
    found = bytearray.fromhex(json.loads(intel().collateral("sgx"))["pck_crl"])
    found[at] ^= 0x55
    told = codes(intel().sgx_quote(), "sgx", with_item(pck_crl=found.hex())())
    assert set(told) <= {"collateral_invalid", "collateral_missing", "certificate_chain"}


@pytest.mark.parametrize("member", ["issueDate", "nextUpdate", "fmspc", "tcbEvaluationDataNumber"])
@pytest.mark.parametrize("value", [None, True, -1, "x", "2026-01-01", [], {}])
def test_d9_tcb_info_that_does_not_read_is_refused(member: str, value: Any) -> None:
    """D9: each member that we read, as something else."""
    info = json.loads(json.loads(intel().collateral("sgx"))["tcb_info"])
    told = codes(intel().sgx_quote(), "sgx", with_item(tcb_info=json.dumps({**info, member: value}))())
    assert told == ["collateral_invalid"]


def test_the_version_of_a_list_is_read_by_us() -> None:
    """A version that X.509 has not."""
    found = intel().collateral("sgx").decode()
    crl = json.loads(found)["pck_crl"]
    at = crl.index("020101")
    assert codes(intel().sgx_quote(), "sgx", with_item(pck_crl=crl[:at] + "020139" + crl[at + 6 :])()) == [
        "collateral_invalid"
    ]
    assert codes(intel().sgx_quote(), "sgx", with_item(tcb_info="[]")()) == ["collateral_invalid"]
