"""A captured Hopper GPU and a captured node of eight GPUs and four NVSwitches, verified and appraised."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evidence.nvidia_files import HOPPER_NONCE, NODE_NONCE, hopper, node, rim
from evidence.vectors import needs_vectors
from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.nvidia.appraise import appraise_gpus, gpu_claims
from perunml.evidence.nvidia.compare import compare
from perunml.evidence.nvidia.rules import GpuRules
from perunml.evidence.nvidia.verify import GpuReport, verify_gpu
from perunml.evidence.types import Verified
from perunml.wire.errors import EvidenceRefusal

pytestmark = needs_vectors
NOW = 1_790_000_000  # 2026-09-21
NONE = Endorsements()
EXCUSED = {
    "driver:590.12": "2027-01-01T00:00:00Z",
    "ocsp": "2027-01-01T00:00:00Z",
    "vbios:96.00.A5.00.01": "2027-01-01T00:00:00Z",
    "vbios:96.10.73.00.01": "2027-01-01T00:00:00Z",
}
NODE = {"architectures": ["hopper"], "count": 8, "excused": EXCUSED, "modes": ["ppcie"], "switches": 4}


def verified() -> list[Verified[GpuReport]]:
    return [verify_gpu(part, NONE, nonce=NODE_NONCE, now=NOW) for part in node()]


def codes(gpus: list[Verified[GpuReport]], rules: dict[str, object], now: int = NOW) -> list[str]:
    found = appraise_gpus(gpus, GpuRules.from_json(rules), endorsements=NONE, now=now)
    return sorted({reason.code for reason in found})


def test_a_real_node_is_what_it_is() -> None:
    """Twelve devices, twelve identities; the wiring that GPUs and switches tell of one another is the same."""
    gpus = verified()
    assert len({gpu.value.platform for gpu in gpus}) == 12
    assert {gpu.value.architecture for gpu in gpus} == {"hopper", "ls10"}
    assert {gpu.value.mode for gpu in gpus} == {"ppcie", ""}
    assert not any(gpu.value.simulated for gpu in gpus)
    assert codes(gpus, NODE) == []
    claims = gpu_claims(gpus, endorsements=NONE, now=NOW)
    assert claims["bound_to_host"] == "not bound to host"


def test_g4_without_manifests_a_real_node_is_refused_but_for_a_written_excuse() -> None:
    """Each version is excused by name, and until its day."""
    gpus = verified()
    assert codes(gpus, {name: value for name, value in NODE.items() if name != "excused"}) == [
        "revocation_missing",
        "rim_missing",
    ]
    assert codes(gpus, NODE, now=1_800_000_000) == ["revocation_missing", "rim_missing"]


def test_g7_g8_a_node_with_a_device_less_or_twice_is_refused() -> None:
    """Counted exactly, each device once; the wiring gives the missing one away as well."""
    gpus = verified()
    assert codes(gpus[1:], NODE) == ["device_topology", "gpu_count"]
    assert codes(gpus[:-1], NODE) == ["device_topology", "nvswitch_missing"]
    assert codes([*gpus[1:], gpus[1]], NODE) == ["device_repeated", "device_topology", "gpu_count"]
    assert codes(gpus, {**NODE, "switches": 3}) == ["nvswitch_missing"]


def test_g1_another_nonce_is_refused() -> None:
    """All samples of the node share one nonce; ours is another."""
    with pytest.raises(EvidenceRefusal) as caught:
        verify_gpu(node()[0], NONE, nonce=bytes(32), now=NOW)
    assert [reason.code for reason in caught.value.reasons] == ["binding_mismatch"]


def test_a_switch_is_not_taken_for_a_gpu_nor_a_gpu_for_a_switch() -> None:
    """What the certificate says counts, not what the report is sent as."""
    for part, other in ((node()[0], "switch"), (node()[-1], "gpu")):
        with pytest.raises(EvidenceRefusal) as caught:
            verify_gpu(replace(part, device=other), NONE, nonce=NODE_NONCE, now=NOW)
        assert "wrong_tee" in [reason.code for reason in caught.value.reasons]


def test_g10_the_manifest_of_another_version_is_no_manifest() -> None:
    """The samples' manifests are of other versions than the samples' reports."""
    names = ("1010_0200_882_96005E0001_PROD.swidtag", "Driver_RIM_test_no_gpu.swidtag")
    endorsements = Endorsements(Collateral(rims=tuple(map(rim, names))))
    gpu = verify_gpu(hopper(), endorsements, nonce=HOPPER_NONCE, now=NOW)
    rules = GpuRules.from_json({"architectures": ["hopper"], "excused": {"ocsp": "2027-01-01T00:00:00Z"}})
    found = appraise_gpus([gpu], rules, endorsements=endorsements, now=NOW)
    assert [(reason.code, reason.expected) for reason in found] == [
        ("rim_missing", "driver:550.90.07"),
        ("rim_missing", "vbios:96.00.9F.00.01"),
    ]


def test_the_vendors_manifest_speaks_for_the_vendors_device() -> None:
    """As if the captured GPU had the firmware of a captured manifest, at a time when its signer was valid: it is compared, and no
    root is missed."""
    then = 1_717_200_000  # 2024-06-01
    endorsements = Endorsements(Collateral(rims=(rim("1010_0200_882_96005E0001_PROD.swidtag"),)))
    report = verify_gpu(hopper(), endorsements, nonce=HOPPER_NONCE, now=then).value
    found = compare(replace(report, vbios="96.00.5E.00.01"), endorsements, then)
    assert {reason.code for reason in found.reasons} == {"measurement_mismatch"}
    assert found.compared > 0


@pytest.mark.parametrize("which", ["gpu", "switch"])
def test_any_byte_changed_is_refused(which: str) -> None:
    """Of a report: each byte once (every seventh, to be quick); of its first certificate: every fifth."""
    part = node()[0 if which == "gpu" else -1]
    for at in range(0, len(part.report), 7):
        changed = part.report[:at] + bytes((part.report[at] ^ 0x01,)) + part.report[at + 1 :]
        with pytest.raises(EvidenceRefusal):
            verify_gpu(replace(part, report=changed), NONE, nonce=NODE_NONCE, now=NOW)
    leaf = part.chain[0]
    for at in range(0, len(leaf), 5):
        changed = leaf[:at] + bytes((leaf[at] ^ 0x01,)) + leaf[at + 1 :]
        with pytest.raises(EvidenceRefusal):
            verify_gpu(replace(part, chain=(changed, *part.chain[1:])), NONE, nonce=NODE_NONCE, now=NOW)
