"""Attacks on clouds' virtual TPMs: whose TPM it is, which TEE's report, which trust domain, which instance."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.judging import BINDING, NOW
from evidence.test_azure import RULES, Cloud, codes
from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.bundle import Bundle
from perunml.evidence.clouds.azure import Hcl, check_ak, cloud_claims, parse_hcl, runtime_claims, vouched_key
from perunml.evidence.composite import identify
from perunml.evidence.dcap.rules import TdxRules
from perunml.evidence.judge import Judgement, judge
from perunml.evidence.parts import HclPart
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.tpm.certificate import parse_certificate
from perunml.evidence.tpm.cloud import read_instance
from perunml.testing.clouds import hcl_report, runtime_data, td_report
from perunml.testing.dcap import NOW as INTEL_NOW
from perunml.testing.dcap import TDX_FIELDS, ForgedIntel
from perunml.wire.errors import PerunError

OTHER = bytes([0xAB]) * 48
KEY = 0xC0FFEE << 2024 | 1
"""A modulus of 2048 bits, for what only reads it."""


@cache
def clouds() -> tuple[Cloud, Cloud]:
    """Two machines of one cloud."""
    return Cloud(), Cloud()


def judged(sent: Cloud, machine: Machine, **changes: object) -> Judgement:
    """What `sent` sends, as coming from `machine`, under the sender's own baseline."""
    asked = {"tee": RULES, "binder": "vtpm"} | changes
    policy = Policy("simulated", "measured+tee", sent.tpm.baseline(), True, **asked)  # type: ignore[arg-type] # by name
    known = sent.chip.endorsements()
    return judge(sent.bundle(), machine=machine, policy=policy, binding=BINDING, now=NOW, endorsements=known)


def test_k5_an_enrolled_tpm_is_not_replaced_by_one_that_another_tee_vouches_for() -> None:
    """K5: a machine that was enrolled by its EK answers with that TPM; honest evidence of another machine of the same cloud is
    not its own."""
    own, other = clouds()
    found = judged(own, own.tpm.enrolled())
    assert codes(found) == []
    assert found.appraisal.identities[0] == own.tpm.enrolled().id
    assert codes(judged(other, own.tpm.enrolled())) == ["wrong_device"]


def test_a_key_is_vouched_for_by_a_tee_that_is_judged_or_by_none() -> None:
    """Where no TEE is judged nothing vouches for an attestation key: the enrolled one has to sign."""
    own, other = clouds()
    for machine in (own.tpm.enrolled(), Machine("", simulated=True)):
        found = judged(other, machine, tee=None)
        assert found.appraisal.binding == b""
        assert codes(found)


# a trust domain of Azure's


@cache
def intel() -> ForgedIntel:
    return ForgedIntel()


class Domain:
    """An Azure machine on TDX: a TD report in the blob, and a quote over it."""

    def __init__(self) -> None:
        self.tpm = clouds()[0].tpm
        self.runtime = runtime_data(clouds()[0].modulus)
        self.blob = hcl_report(td_report, self.runtime, kind=4)
        self.told = parse_hcl(self.blob).report_data

    def judge(self, blob: bytes = b"", quote: bytes | None = None, **changes: Any) -> Judgement:
        made = intel().tdx_quote(self.told) if quote is None else quote
        part = HclPart(blob or self.blob, (), made)
        bundle = Bundle((replace(self.tpm.quote(BINDING), ak=self.tpm.ak_public), part))
        asked = Policy("simulated", "measured+tee", self.tpm.baseline(), True, tee=self.rules(), binder="vtpm")
        known = intel().endorsements()
        return judge(
            bundle, machine=Machine("", simulated=True), policy=replace(asked, **changes), binding=BINDING,
            now=INTEL_NOW, endorsements=known,
        )  # fmt: skip

    def rules(self, **changes: Any) -> TdxRules:
        exact = {index: frozenset({TDX_FIELDS[f"rtmr{index}"].hex()}) for index in range(4)}
        return TdxRules(**{"mr_td": frozenset({TDX_FIELDS["mr_td"].hex()}), "rtmrs": exact, **changes})


@cache
def domain() -> Domain:
    return Domain()


@pytest.mark.parametrize("version", [4, 5])
def test_an_honest_domain_is_accepted(version: int) -> None:
    """A quote of either version over the TD report that the blob holds."""
    found = domain().judge(quote=intel().tdx_quote(domain().told, version=version))
    assert codes(found) == []
    assert found.appraisal.machine.startswith("platform:")


def test_t14_a_quote_over_another_report_is_refused() -> None:
    """T14: another domain's quote, one that is bound to other runtime data, and a blob that tells of another domain."""
    made = domain()
    for quote in (
        intel().tdx_quote(bytes(64)),
        intel().tdx_quote(made.told, mr_td=OTHER),
        intel().tdx_quote(made.told, rtmr3=OTHER),
    ):
        assert codes(made.judge(quote=quote)) == ["ak_not_vouched"]
    another = hcl_report(lambda told: td_report(told, mr_td=OTHER), made.runtime, kind=4)
    assert codes(made.judge(another)) == ["ak_not_vouched"]
    other_data = hcl_report(lambda told: td_report(bytes(64)), made.runtime, kind=4)
    assert codes(made.judge(other_data)) == ["ak_not_vouched"]
    # quote and TD report agree with one another, and not with the runtime data
    swapped = hcl_report(td_report, made.runtime, kind=4, told=runtime_data(clouds()[1].modulus))
    assert codes(made.judge(swapped)) == ["ak_not_vouched"]


def test_a_td_report_without_its_quote_proves_nothing() -> None:
    """Only the processor that made a TD report can check it."""
    assert codes(domain().judge(quote=b"")) == ["non_canonical"]


def test_t17_a_blob_whose_report_is_of_another_tee_is_refused() -> None:
    """T17: the rules are for a domain and the report is an SNP guest's, the other way round, and a blob that lies of its kind."""
    own, made = clouds()[0], domain()
    assert codes(judged(own, Machine("", simulated=True), tee=made.rules())) == ["wrong_tee"]
    assert codes(made.judge(tee=RULES)) == ["wrong_tee"]
    assert codes(made.judge(hcl_report(own.chip.report, made.runtime, kind=4))) == ["ak_not_vouched"]
    longer = hcl_report(lambda told: td_report(told) + b"\x01", made.runtime, kind=4)
    assert codes(made.judge(longer)) == ["non_canonical"]


def test_the_domains_rules_hold_for_the_paravisor() -> None:
    """Measurement and registers, as for any trust domain; its event log is the virtual TPM's, and explains no RTMR."""
    made = domain()
    assert codes(made.judge(tee=made.rules(mr_td=frozenset({OTHER.hex()})))) == ["measurement_mismatch"]
    assert codes(made.judge(tee=made.rules(rtmrs={}))) == ["rtmr_mismatch"] * 4
    debug = intel().tdx_quote(made.told, td_attributes=(1 << 28 | 1).to_bytes(8, "little"))
    blob = hcl_report(
        lambda told: td_report(told, td_attributes=(1 << 28 | 1).to_bytes(8, "little")), made.runtime, kind=4
    )
    assert "debug_enabled" in codes(made.judge(blob, quote=debug))


def test_an_enrolment_identifies_the_platform() -> None:
    """A domain's platform is its machine's identity."""
    made = domain()
    part = HclPart(made.blob, (), intel().tdx_quote(made.told))
    bundle = Bundle((replace(made.tpm.quote(BINDING), ak=made.tpm.ak_public), part))
    found = identify(bundle, binding=BINDING, endorsements=intel().endorsements(), now=INTEL_NOW)
    assert found.identity.startswith("platform:")
    with pytest.raises(PerunError, match="part_missing"):
        identify(Bundle((part,)), binding=BINDING, endorsements=intel().endorsements(), now=INTEL_NOW)


# the form


def read(reading: Callable[[], Any]) -> list[Any]:
    """What it reads, or nothing where it is refused in a way that it may be."""
    try:
        return [reading()]
    except PerunError as exc:
        codes_ = {reason.code for reason in exc.reasons}
    assert codes_ <= {"non_canonical", "ak_not_vouched"}
    return []


def test_newer_paravisors_data_are_read() -> None:
    """Version 2 has an extension before the runtime data; the key in them is the same."""
    own = clouds()[0]
    for version in (1, 2):
        blob = hcl_report(own.chip.report, runtime_data(own.modulus), version=2, data_version=version)
        found = own.judge(own.bundle(report=blob))
        assert codes(found) == []


def test_t15_a_blob_of_another_version_is_refused() -> None:
    """T15: versions that nobody described, and one that claims the other's layout."""
    for wrong in ({"data_version": 0}, {"data_version": 3}, {"version": 0}, {"version": 3}):
        with pytest.raises(PerunError, match="non_canonical"):
            parse_hcl(hcl_report(lambda told: told, runtime_data(KEY), **wrong))
    for version in (1, 2):
        blob = bytearray(hcl_report(lambda told: told, runtime_data(KEY), data_version=version))
        blob[32 + 1184 + 4] = 3 - version
        with pytest.raises(PerunError, match="non_canonical"):
            parse_hcl(bytes(blob))


@given(
    st.binary(max_size=1024), st.binary(max_size=800), st.sampled_from((2, 4)), st.sampled_from((1, 2, 3)),
    st.sampled_from((1, 2)),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(report: bytes, runtime: bytes, kind: int, hash_kind: int, version: int) -> None:
    """Round trip: report, runtime data, the report data that belong to them."""
    told: list[bytes] = []
    blob = hcl_report(
        lambda data: told.append(data) or report, runtime, kind=kind, hash_kind=hash_kind, data_version=version
    )
    found = parse_hcl(blob)
    assert found.runtime == runtime
    assert found.report == report.ljust(1184 if kind == 2 else 1024, b"\0")
    assert found.report_data == told[0]


@given(st.integers(0, 2599), st.integers(1, 255))
@settings(max_examples=80, deadline=None)
def test_t16_no_changed_byte_changes_the_key(at: int, by: int) -> None:
    """T16: a blob with any byte changed reads as before where it matters, or is refused, or is not what the TEE reported."""
    honest = hcl_report(lambda told: told, runtime_data(KEY))
    changed = bytearray(honest)
    changed[at] ^= by
    same = parse_hcl(honest)
    for key, told in read(lambda: (vouched_key(parse_hcl(bytes(changed))), parse_hcl(bytes(changed)).report_data)):
        assert key == vouched_key(same) or told != same.report_data


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(("keys", "kid", "kty", "n", "e", "vm-configuration", "x")), inner, max_size=5),
    max_leaves=8,
).map(lambda made: json.dumps(made).encode()))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_t16_any_runtime_data_are_read_or_refused(runtime: bytes) -> None:
    """T16: whatever JSON, or none, stands where a key, a number or an object is expected."""
    hcl = Hcl("snp", b"", runtime, "sha256")
    read(lambda: vouched_key(hcl))
    read(lambda: cloud_claims(hcl))
    assert not read(lambda: check_ak(hcl, 3, 3))


def test_t16_runtime_data_beyond_their_bounds_are_refused() -> None:
    """T16: more of them than is read, and sizes that agree with one another and not with the blob."""
    with pytest.raises(PerunError, match="cut off or too long"):
        parse_hcl(hcl_report(lambda told: told, b" " * (16 * 1024 + 1)))
    parse_hcl(hcl_report(lambda told: told, b" " * 16 * 1024))
    whole = hcl_report(lambda told: told, b"{}")[: 32 + 1184 + 20 + 2]
    parse_hcl(whole)
    with pytest.raises(PerunError, match="cut off or too long"):
        parse_hcl(whole[:-1])


def test_t14_a_key_of_another_kind_is_refused() -> None:
    """T14: the right name and numbers, told to be no RSA key."""
    whole = json.loads(runtime_data(KEY))
    whole["keys"][0]["kty"] = "oct"
    with pytest.raises(PerunError, match="ak_not_vouched"):
        vouched_key(Hcl("snp", b"", json.dumps(whole).encode(), "sha256"))


def test_t16_a_key_that_is_no_number_is_refused() -> None:
    """T16: members missing, of another type, not base64url, empty."""
    whole = json.loads(runtime_data(KEY))
    for name in ("n", "e"):
        for wrong in (None, 5, [], "?", "AQ==", ""):
            key = {**whole["keys"][0], name: wrong}
            if wrong is None:
                del key[name]
            hcl = Hcl("snp", b"", json.dumps({"keys": [key]}).encode(), "sha256")
            with pytest.raises(PerunError):
                check_ak(hcl, KEY, 65537)


def test_a_machines_settings_are_shown_and_not_judged() -> None:
    """The host told them to the paravisor. What is not plain is left out."""
    told = {"console-enabled": True, "vmUniqueId": "BDD43C6F", "n": 5, "long": "x" * 200, "odd": "\x1b[31m", "é": True}
    hcl = Hcl("snp", b"", json.dumps({"vm-configuration": told}).encode(), "sha256")
    assert cloud_claims(hcl) == {"provider": "azure", "vm": {"console-enabled": True, "vmUniqueId": "BDD43C6F"}}
    many = {f"s{index}": True for index in range(100)}
    hcl = Hcl("snp", b"", json.dumps({"vm-configuration": many}).encode(), "sha256")
    assert len(cloud_claims(hcl)["vm"]) == 32  # type: ignore[arg-type] # an object
    assert cloud_claims(Hcl("snp", b"", b"{}", "sha256")) == {"provider": "azure", "vm": {}}
    shown = judged(clouds()[0], Machine("", simulated=True)).appraisal.claims["tee"]
    assert shown["cloud"] == {"provider": "azure", "vm": {"secure-boot": True}}  # type: ignore[index,call-overload] # JSON


@needs_vectors
def test_k17_a_real_machines_certificate_names_its_instance_and_the_vouched_key() -> None:
    """K17: Azure's certificate beside that evidence is for the key that the TEE vouches for."""
    path = FOLDER / "snp" / "Azure__azure-cleanroom" / "attestation.json"
    evidence = json.loads(path.read_text())["report"]["snpCvm"]["evidence"]
    leaf = parse_certificate(base64.b64decode(evidence["aikCert"]))
    found = read_instance(leaf)
    assert found is not None
    assert found.name == "azure:01d451636602"
    hcl = parse_hcl(base64.b64decode(evidence["hclReport"]))
    numbers = leaf.key().public_numbers()  # type: ignore[union-attr] # RSA, as the next line shows
    assert vouched_key(hcl) == (numbers.n, numbers.e)  # type: ignore[union-attr] # as above
    assert cloud_claims(hcl)["vm"] == runtime_claims(hcl)["vm-configuration"]
