"""Attacks on the forms of evidence: fields that two versions, two readers or two rules take differently."""

from __future__ import annotations

import json
from functools import cache

import pytest

from evidence.judging import BINDING, NOW
from evidence.nvidia_forged import card, codes, vendor
from perunml.attesters.simulated import SimulatedAttester
from perunml.evidence.bundle import Bundle
from perunml.evidence.dcap.collateral import read_collateral
from perunml.evidence.dcap.parse import MAX_AUTH, MAX_CHAIN, parse_quote
from perunml.evidence.judge import judge
from perunml.evidence.nvidia import fields as opaque
from perunml.evidence.nvidia.rim import read_rim
from perunml.evidence.nvidia.rules import GpuRules
from perunml.evidence.parts import SnpPart
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.snp.parse import COORDINATE, SIGNED, parse_report
from perunml.testing.dcap import ForgedIntel, Quoting
from perunml.testing.nvidia import VBIOS, measurement
from perunml.testing.nvidia_rim import manifest, sign
from perunml.testing.snp import AmdCa, ForgedChip
from perunml.wire.errors import PerunError
from perunml.wire.identity import SigningKey


@cache
def intel() -> ForgedIntel:
    return ForgedIntel()


@cache
def chip() -> ForgedChip:
    return ForgedChip(AmdCa())


def code(read: object, *given: object) -> str:
    with pytest.raises(PerunError) as caught:
        read(*given)  # type: ignore[operator]  # whichever reader is attacked
    return caught.value.code


@pytest.mark.parametrize("bit", range(8))
def test_t10_a_domain_that_is_not_trusted_by_any_bit_of_tud(bit: int) -> None:
    """T10: each of TDATTRIBUTES' first eight bits says that somebody may look into the domain, not the debug bit alone."""
    attributes = (1 << bit | 1 << 28).to_bytes(8, "little")
    assert parse_quote(intel().tdx_quote(td_attributes=attributes)).body.debug
    assert not parse_quote(intel().tdx_quote()).body.debug


@pytest.mark.parametrize(
    "quoting",
    [Quoting("sgx", 3, qe_auth=bytes(MAX_AUTH + 1)), Quoting("sgx", 3, chain=b"\n" * (MAX_CHAIN + 1))],
    ids=["authentication data", "chain"],
)
def test_d2_a_part_of_a_quote_beyond_its_bound(quoting: Quoting) -> None:
    """D2: what the quote says of its own length is bounded before it is believed."""
    assert code(parse_quote, intel().sgx_quote(quoting=quoting)) == "non_canonical"


@pytest.mark.parametrize("number", [-1, True, 1.0, "18", None])
def test_t5_a_number_that_is_none(number: object) -> None:
    """T5: what older is measured by is a whole number, not a negative one and not a word for one."""
    item = json.loads(intel().collateral("sgx"))
    tcb = json.loads(item["tcb_info"]) | {"tcbEvaluationDataNumber": number}
    item |= {"tcb_info": json.dumps(tcb), "tcb_info_signature": intel().ca.sign_tcb(json.dumps(tcb).encode())}
    assert code(read_collateral, json.dumps(item).encode()) == "collateral_invalid"


@pytest.mark.parametrize("at", [SIGNED + 48, SIGNED + COORDINATE - 1, SIGNED + COORDINATE + 48])
def test_q20_a_signature_with_more_than_its_curve_holds(at: int) -> None:
    """Q20: the field is wider than the number, and the rest is zero: else one report has many spellings."""
    report = bytearray(chip().report())
    report[at] = 1
    assert code(parse_report, bytes(report)) == "non_canonical"


@pytest.mark.parametrize("field", ["cpu", "mitigations"])
def test_t15_a_version_that_is_lowered_keeps_fields_of_a_later_one(field: str) -> None:
    """T15: version 2 tells no processor and no mitigations; bytes that say them are refused, not passed over."""
    more = {"cpu": (0x19, 0x01, 1)} if field == "cpu" else {"mitigations": 1}
    assert code(parse_report, chip().report(version=2, **more)) == "non_canonical"
    assert parse_report(chip().report(version=2)).product == ""


def test_a_gpu_leaves_out_which_firmware_reports() -> None:
    """A report without the firmware's digest verifies, for old drivers wrote none; it is not good enough."""
    gpu = vendor().gpu()
    gpu.fields[opaque.FWID] = None
    assert codes([gpu]) == ["firmware_mismatch"]


def test_a_manifest_signed_over_a_part_of_itself() -> None:
    """The signature is over one element by its name, and what stands around it is free."""
    xml = manifest(VBIOS, {0: [measurement(0)]}).replace("<SoftwareIdentity ", '<SoftwareIdentity Id="it" ', 1)
    assert code(read_rim, sign(xml, vendor().rim_signer, reference_uri="#it")) == "rim_signature"
    assert code(read_rim, sign(xml, vendor().rim_signer, id_attribute="Id", reference_uri="it")) == "rim_signature"


def test_t22_a_bare_key_where_gpus_are_asked_for() -> None:
    """T22: a key that imitates a TEE shows no GPU."""
    attester = SimulatedAttester.of(SigningKey.generate())
    machine = Machine(attester.machine, simulated=True, key=attester.collect(BINDING).parts[0].key)
    for gpu, wanted in ((None, []), (GpuRules.from_json({"architectures": ["hopper"]}), ["part_missing"])):
        asked = Policy("simulated", "tee", None, True, gpu=gpu)
        found = judge(attester.collect(BINDING), machine=machine, policy=asked, binding=BINDING, now=NOW)
        assert [reason.code for reason in found.appraisal.reasons] == wanted
    assert card().device == "gpu"


def test_a_bare_key_beside_real_evidence() -> None:
    """What is signed by nobody's key does not travel with what is: neither lends the other its word."""
    attester = SimulatedAttester.of(SigningKey.generate())
    (bare,) = attester.collect(BINDING).parts
    machine = Machine(attester.machine, simulated=True, key=bare.key)
    asked = Policy("simulated", "tee", None, True)
    for parts in ((bare, SnpPart(chip().report())), (card().report(bytes(32)), bare), (bare, bare)):
        found = judge(Bundle(parts), machine=machine, policy=asked, binding=BINDING, now=NOW)
        assert [reason.code for reason in found.appraisal.reasons] == ["wrong_profile"]
