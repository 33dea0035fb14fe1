"""Attacks with GPUs: fewer switches than they are wired to, versions that mean another manifest, answers of somebody else's."""

from __future__ import annotations

import pytest

from evidence.nvidia_forged import NODE, NONCE, ONE, card, codes, honest, refused, vendor, verify
from perunml.evidence.nvidia import compare
from perunml.evidence.nvidia import fields as opaque
from perunml.evidence.nvidia.appraise import appraise_gpus
from perunml.evidence.nvidia.rim import CACHED, read_rim
from perunml.evidence.nvidia.rules import GpuRules
from perunml.evidence.nvidia.verify import verify_gpu
from perunml.testing.nvidia import DRIVER, VBIOS, measurement
from perunml.testing.nvidia_pki import NOW, answer
from perunml.testing.nvidia_rim import manifest, sign
from perunml.wire.errors import EvidenceRefusal

PPCIE = {**ONE, "modes": ["ppcie"]}


def test_g8_a_switch_on_the_way_is_not_shown() -> None:
    """G8: under protected PCIe NVLink is in the clear, and the GPU says that it is wired to a switch that nobody proved."""
    gpu, _ = vendor().node(1, 1)
    assert codes([gpu], PPCIE) == ["device_topology"]
    gpu.fields[opaque.SWITCH_PDI] = bytes(8)  # ACCEPT: its links are off
    assert codes([gpu], PPCIE) == []


def test_g8_a_gpu_of_the_node_is_not_shown() -> None:
    """G8: the switch says that it is wired to a GPU more."""
    nodes = vendor().node(3, 1)
    assert codes([nodes[0], nodes[1], nodes[3]], NODE) == ["device_topology"]


def test_g10_a_driver_calls_itself_by_the_firmwares_version() -> None:
    """G10: the firmware's manifest is not the driver's as well, whatever the driver calls itself."""
    gpu = vendor().gpu()
    gpu.fields[opaque.DRIVER_VERSION] = VBIOS.encode()
    assert codes([gpu]) == ["collateral_invalid"]


@pytest.mark.parametrize("version", ["550.90.07.", "550.90.7", "0550.90.07", "550.90.07 ", "\uff15\uff15\uff10.90.07"])
def test_g4_a_version_that_is_nearly_the_manifests(version: str) -> None:
    """G4: versions are texts, compared whole."""
    known = vendor().endorsements([card()], rims=[vendor().vbios_rim(), vendor().driver_rim(version.strip())])
    assert codes([card()], ONE, known) == (["rim_missing"] if version.strip() != DRIVER else [])


def test_g10_a_manifest_of_inactive_measurements_only() -> None:
    """G10: one that names nothing that counts is none; two that name the same measurement are refused."""
    golden = {index: [measurement(index)] for index in range(3)}
    silent = sign(manifest(DRIVER, golden).replace('active="True"', 'active="False"'), vendor().rim_signer)
    known = vendor().endorsements([card()], rims=[vendor().vbios_rim(), silent])
    assert "rim_missing" in codes([card()], ONE, known)
    twice = sign(manifest(DRIVER, golden), vendor().rim_signer)
    known = vendor().endorsements([card()], rims=[vendor().vbios_rim(), twice])
    assert codes([card()], ONE, known) == ["collateral_invalid"]


def test_g1_the_nonce_of_another_part_of_the_bundle() -> None:
    """G1: the responder's own nonce, a nonce that is shorter or empty, are not the one that was asked for."""
    part = card().report(bytes(32))
    assert refused(part) == ["binding_mismatch"]
    for nonce in (b"", NONCE[:16], NONCE + NONCE):
        with pytest.raises(EvidenceRefusal) as caught:
            verify_gpu(card().report(NONCE), honest(), nonce=nonce, now=NOW)
        assert caught.value.code == "binding_mismatch"


def test_g6_an_answer_about_another_certificate_of_the_same_number() -> None:
    """G5, G6: answers are about a serial number under an issuer; the manifest signer's say nothing of the device's."""
    of_signers = [answer(one) for one in vendor().rim_signer.chain()[:-1]]
    known = vendor().endorsements([card()], ocsp=of_signers)
    assert codes([card()], ONE, known) == ["revocation_missing"]


def test_g7_no_device_at_all() -> None:
    """G7: no report, and rules that excuse everything that can be excused."""
    rules = GpuRules.from_json(
        {**ONE, "excused": {"ocsp": "2099-01-01T00:00:00Z", f"driver:{DRIVER}": "2099-01-01T00:00:00Z"}}
    )
    assert [reason.code for reason in appraise_gpus([], rules, endorsements=honest(), now=0)] == ["gpu_count"]
    assert verify(card().report(NONCE)).value.device == "gpu"


def test_d_a_set_of_more_manifests_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """D: each manifest of a fleet's set is read once, not once for each device and renewal: others' leases run meanwhile."""
    rims = [*(f"<{number}/>".encode() for number in range(CACHED + 1)), *vendor().rims()]
    devices = [vendor().gpu(number) for number in range(2)]
    known = vendor().endorsements(devices, rims=rims)
    read: list[bytes] = []
    monkeypatch.setattr(compare, "read_rim", lambda data: (read.append(data), read_rim(data))[1])
    for _ in range(2):
        assert codes(devices, {**ONE, "count": 2}, known) == []
    assert len(read) == len(rims)
