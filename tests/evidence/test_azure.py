"""Azure's virtual TPM: the TEE vouches for the key that quotes. Forged, each check broken alone; and a real machine's evidence."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.judging import BINDING, NOW
from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.clouds.azure import check_ak, parse_hcl, runtime_claims, vouched_key
from perunml.evidence.composite import identify
from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.judge import Judgement, judge
from perunml.evidence.parts import HclPart, SnpPart
from perunml.evidence.pem import split
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.snp.rules import SnpRules
from perunml.evidence.snp.verify import verify_snp
from perunml.evidence.tpm.algorithms import HASH_IDS, NULL, RSA, RSASSA
from perunml.evidence.tpm.keys import check_ak as check_tpm_ak
from perunml.evidence.tpm.keys import qualified_names
from perunml.evidence.tpm.quote import verify_quote
from perunml.testing.clouds import hcl_report, runtime_data
from perunml.testing.forge import ForgedTpm
from perunml.testing.snp import ForgedChip
from perunml.wire.errors import PerunError

RULES = SnpRules.from_json({"measurement": ["11" * 48], "products": ["Milan"], "min_tcb": {"bootloader": 4}})
EXPONENT = 65537


class Cloud:
    """An Azure machine: its virtual TPM's key is named by its TEE's report."""

    def __init__(self) -> None:
        self.tpm, self.chip = ForgedTpm(ak="rsa"), ForgedChip()
        self.modulus = int.from_bytes(check_tpm_ak(self.tpm.ak_public).public.unique[0])
        self.blob = hcl_report(self.chip.report, runtime_data(self.modulus))

    def bundle(self, **changes: bytes) -> Bundle:
        quote = replace(self.tpm.quote(BINDING), ak=changes.get("ak", self.tpm.ak_public))
        return Bundle((quote, HclPart(changes.get("report", self.blob))))

    def judge(self, bundle: Bundle, **changes: object) -> Judgement:
        asked = Policy("simulated", "measured+tee", self.tpm.baseline(), True, tee=RULES, binder="vtpm")
        known = self.chip.endorsements()
        machine = Machine("", simulated=True)
        return judge(
            bundle, machine=machine, policy=replace(asked, **changes), binding=BINDING, now=NOW, endorsements=known
        )


def codes(found: Judgement) -> list[str]:
    return [reason.code for reason in found.appraisal.reasons]


def test_an_honest_machine_is_accepted() -> None:
    """The TEE's report, its runtime data, the key in them, the quote by that key over this exchange."""
    cloud = Cloud()
    found = cloud.judge(cloud.bundle())
    assert codes(found) == []
    assert found.appraisal.machine.startswith("chip:")
    assert found.appraisal.imitates == "measured+tee"
    assert found.appraisal.boot == "tpm:1.0"


@pytest.mark.parametrize("hash_kind", [1, 2, 3])
def test_each_hash_of_the_runtime_data_is_read(hash_kind: int) -> None:
    """SHA-256, SHA-384, SHA-512."""
    cloud = Cloud()
    blob = hcl_report(cloud.chip.report, runtime_data(cloud.modulus), hash_kind=hash_kind)
    assert codes(cloud.judge(cloud.bundle(report=blob))) == []


def test_t14_a_key_that_the_report_does_not_name_is_refused() -> None:
    """T14: another RSA key of an attester, no key, an elliptic key."""
    cloud, other = Cloud(), ForgedTpm(ak="rsa")
    assert codes(cloud.judge(cloud.bundle(ak=other.ak_public))) == ["ak_not_vouched"]
    assert codes(cloud.judge(cloud.bundle(ak=ForgedTpm().ak_public))) == ["ak_not_vouched"]
    assert codes(cloud.judge(cloud.bundle(ak=b""))) == ["non_canonical"]


def test_t14_runtime_data_that_were_not_reported_are_refused() -> None:
    """T14: the blob names the attacker's key, the TEE reported the hash of others."""
    cloud, thief = Cloud(), Cloud()
    blob = hcl_report(cloud.chip.report, runtime_data(cloud.modulus), told=runtime_data(thief.modulus))
    quote = replace(thief.tpm.quote(BINDING), ak=thief.tpm.ak_public)
    found = cloud.judge(Bundle((quote, HclPart(blob))), baseline=thief.tpm.baseline())
    assert codes(found) == ["ak_not_vouched"]


def test_t14_runtime_data_that_name_no_key_or_two_are_refused() -> None:
    """T14: missing, ambiguous, of another name."""
    cloud = Cloud()
    two = json.loads(runtime_data(cloud.modulus))
    two["keys"] *= 2
    for runtime in (b"{}", b'{"keys": []}', json.dumps(two).encode(), runtime_data(cloud.modulus, kid="HCLEkPub")):
        blob = hcl_report(cloud.chip.report, runtime)
        assert codes(cloud.judge(cloud.bundle(report=blob))) == ["ak_not_vouched"]
    for runtime in (b"", b"[]", b"{", b'{"keys":[],"keys":[]}', b"[" * 4000):
        blob = hcl_report(cloud.chip.report, runtime)
        assert codes(cloud.judge(cloud.bundle(report=blob))) == ["non_canonical"]


def test_a_quote_for_another_exchange_is_refused() -> None:
    """The TEE's report is bound to the key alone; the exchange is the quote's business."""
    cloud = Cloud()
    old = replace(cloud.tpm.quote(bytes(48)), ak=cloud.tpm.ak_public)
    assert codes(cloud.judge(Bundle((old, HclPart(cloud.blob))))) == ["binding_mismatch"]


def test_the_clouds_report_is_nothing_without_its_tpm() -> None:
    """It measures the paravisor alone: a profile that asks for the TEE and not for the system is not met by it."""
    cloud = Cloud()
    asked = Policy("simulated", "tee", None, True, tee=RULES)
    found = judge(
        cloud.bundle(), machine=Machine("", True), policy=asked, binding=BINDING, now=NOW,
        endorsements=cloud.chip.endorsements(),
    )  # fmt: skip
    assert codes(found) == ["part_missing"]
    assert codes(cloud.judge(cloud.bundle(), imitates="tee", baseline=None)) == ["part_missing"]
    alone = Bundle((HclPart(cloud.blob),))
    assert codes(cloud.judge(alone)) == ["part_missing"]
    plain = Bundle((replace(cloud.tpm.quote(BINDING), ak=cloud.tpm.ak_public), SnpPart(cloud.chip.report())))
    assert codes(cloud.judge(plain)) == ["part_missing"]


def test_the_tees_rules_hold_for_the_paravisor() -> None:
    """Measurement, firmware, debug: as for any SNP guest."""
    cloud = Cloud()
    debug = hcl_report(lambda data: cloud.chip.report(data, policy=1 << 17 | 1 << 19), runtime_data(cloud.modulus))
    assert codes(cloud.judge(cloud.bundle(report=debug))) == ["debug_enabled"]


def test_an_enrolment_identifies_the_chip() -> None:
    """The quote by the vouched key binds it to the enrolment."""
    cloud = Cloud()
    known = cloud.chip.endorsements()
    assert identify(cloud.bundle(), binding=BINDING, endorsements=known, now=NOW).identity.startswith("chip:")
    with pytest.raises(PerunError, match="binding_mismatch"):
        identify(cloud.bundle(), binding=bytes(48), endorsements=known, now=NOW)


def test_t16_a_blob_of_another_form_is_refused() -> None:
    """T16: cut anywhere, other sizes, other kinds, something behind it."""
    cloud = Cloud()
    blob, runtime = cloud.blob, runtime_data(cloud.modulus)
    used = 32 + 1184 + 20 + len(runtime)
    wrong = [blob[:at] for at in (0, 4, 31, 32, 1000, 1216, 1235, used - 1)]
    wrong += [blob + b"\x01", blob[:-1] + b"\x01", b"HCLB" + blob[4:], blob[:4] + b"\x09" + blob[5:]]
    wrong += [blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :] for at in (8, 1216, 1224, 1228 + 1, 1232)]
    assert [at for at, each in enumerate(wrong) if not _refused(each, parse_hcl(blob).report_data)] == []


def _refused(blob: bytes, reported: bytes) -> bool:
    """It does not read, or (another kind of hash) gives other report data than the TEE's."""
    try:
        return parse_hcl(blob).report_data != reported
    except PerunError:
        return True


@given(st.binary(max_size=3000))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_refused_in_words(data: bytes) -> None:
    """The parser is total, whatever stands after a right header."""
    for each in (data, b"HCLA\x01\0\0\0" + data):
        with pytest.raises(PerunError):
            parse_hcl(each)


@needs_vectors
def test_a_real_machines_evidence_is_accepted() -> None:
    """A confidential VM of Azure's (Milan): SNP report by VCEK, runtime data, attestation key, quote over its nonce and PCRs."""
    path = FOLDER / "snp" / "Azure__azure-cleanroom" / "attestation.json"
    machine = json.loads(path.read_text())["report"]["snpCvm"]
    evidence = machine["evidence"]
    hcl = parse_hcl(base64.b64decode(evidence["hclReport"]))
    assert hcl.kind == "snp"
    assert hcl.report == base64.b64decode(evidence["snpReport"])
    assert runtime_claims(hcl)["keys"] == evidence["runtimeClaims"]["keys"]
    certificates = split(machine["platformCertificates"].encode())
    report = verify_snp(hcl.report, certificates, Endorsements(Collateral()), now=1_767_225_600)
    assert report.value.report_data == hcl.report_data
    assert (report.value.product, report.value.raw.version, report.value.simulated) == ("Milan", 3, False)
    modulus, exponent = vouched_key(hcl)
    raw = base64.b64decode(evidence["tpmQuote"])
    size = int.from_bytes(raw[:2])
    area = _rsa_ak(modulus)
    ak = check_tpm_ak(area)
    check_ak(hcl, int.from_bytes(ak.public.unique[0]), ak.public.exponent)
    pcrs = {"sha256": {int(index): base64.b64decode(value) for index, value in evidence["pcrs"].items()}}
    part = TpmPart(raw[2 : 2 + size], raw[2 + size :], pcrs, ak=area)
    quote = verify_quote(part, ak, signers=qualified_names(ak, None), extra_data=base64.b64decode(machine["nonce"]))
    assert quote.value.clock.reset == 2
    with pytest.raises(PerunError, match="binding_mismatch"):
        verify_quote(part, ak, signers=qualified_names(ak, None), extra_data=bytes(32))
    assert exponent == EXPONENT


def _rsa_ak(modulus: int) -> bytes:
    """TPM2B_PUBLIC of Azure's attestation key: its template is the same everywhere, with noDA."""
    area = RSA.to_bytes(2) + HASH_IDS["sha256"].to_bytes(2) + (0x00050472).to_bytes(4) + bytes(2)
    area += NULL.to_bytes(2) + RSASSA.to_bytes(2) + HASH_IDS["sha256"].to_bytes(2) + (2048).to_bytes(2) + bytes(4)
    area += (256).to_bytes(2) + modulus.to_bytes(256)
    return len(area).to_bytes(2) + area
