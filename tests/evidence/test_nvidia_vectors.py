"""Every file of NVIDIA's captured evidence, judged: the verdict and why, the same as docs/vectors.md says.

The samples share one nonce in each set, their manifests are of other versions than their reports, and the signers of these manifests
expired in 2025: so a manifest is judged alone, at today's time and at one at which its signer was valid.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from evidence.nvidia_files import HOPPER_NONCE, NODE_NONCE, NVIDIA, members
from evidence.vectors import needs_vectors
from perunml.evidence import pem
from perunml.evidence.nvidia.roots import DEVICE_ROOTS, RIM_ROOTS
from perunml.evidence.offline.nvidia import NvidiaFiles, check_nvidia, check_rim
from perunml.evidence.x509 import fingerprint, read_certificate
from perunml.wire.timestamps import parse_time

NOW, THEN = "2026-11-23T00:00:00Z", "2024-06-01T00:00:00Z"
PAGE = Path(__file__).parents[2] / "docs" / "vectors.md"


@dataclass(frozen=True)
class Vector:
    """A file of the folder, judged `at` a time with the nonce that it was made for; `code` empty: accepted."""

    name: str
    at: str
    code: str
    why: str


VECTORS = (
    Vector("hopperAttestationReport.txt", NOW, "", "one H100, driver 550.90.07, firmware 96.00.9F.00.01; no manifest of these versions is here"),
    Vector("hopperCertChain.txt", NOW, "", "the chain of that GPU, to the pinned device root"),
    Vector("gpu_evidence.json", NOW, "", "eight H100 of one node in protected PCIe mode, one nonce for all"),
    Vector("switch_evidence.json", NOW, "", "the four NVSwitches of that node"),
    Vector("1010_0200_882_96005E0001_PROD.swidtag", NOW, "certificate_expired", "its signer expired on 2025-06-22"),
    Vector("1010_0200_882_96005E0001_PROD.swidtag", THEN, "", "firmware 96.00.5E.00.01 of a GH100"),
    Vector("1010_0200_882_96005E0001_test_no_gpu.swidtag", NOW, "certificate_expired", "its signer expired on 2025-06-22"),
    Vector("1010_0200_882_96005E0001_test_no_gpu.swidtag", THEN, "", "the same firmware, other values"),
    Vector("1010_0215_866_9600740010_PROD.swidtag", NOW, "certificate_expired", "its signer expired on 2025-09-05"),
    Vector("1010_0215_866_9600740010_PROD.swidtag", THEN, "", "firmware 96.00.74.00.10 of a GH100"),
    Vector("Driver_RIM_test_no_gpu.swidtag", NOW, "certificate_expired", "its signer expired on 2025-06-26"),
    Vector("Driver_RIM_test_no_gpu.swidtag", THEN, "", "driver 545.00 on a GH100"),
    Vector("g520_0200_885_9600740001_PROD.swidtag", NOW, "certificate_expired", "its signer expired on 2025-08-24"),
    Vector("g520_0200_885_9600740001_PROD.swidtag", THEN, "", "firmware 96.00.74.00.01 of a GH100"),
    Vector("verifier_device_root.pem", NOW, "", "NVIDIA's device root, the one that is pinned"),
    Vector("certs__verifier_device_root.pem", NOW, "", "the same with other line ends"),
    Vector("verifier_RIM_root.pem", NOW, "", "NVIDIA's root of manifests, the one that is pinned"),
    Vector("certs__verifier_RIM_root.pem", NOW, "", "the same with other line ends"),
)  # fmt: skip


def judged(vector: Vector) -> list[str]:
    """The codes that it is refused with, sorted, each once."""
    path, now = NVIDIA / vector.name, parse_time(vector.at)
    if path.suffix == ".swidtag":
        reasons = check_rim(path.read_bytes(), now=now).reasons
    elif path.suffix == ".pem":
        (der,) = pem.blocks(path.read_bytes(), pem.CERTIFICATE)
        pinned = {**DEVICE_ROOTS, **RIM_ROOTS}
        return [] if fingerprint(read_certificate(der)) in pinned else ["certificate_chain"]
    elif path.suffix == ".json":
        reasons = check_nvidia(NvidiaFiles([path.read_bytes()], None, NODE_NONCE), now=now).reasons
    else:
        report, chain = NVIDIA / "hopperAttestationReport.txt", NVIDIA / "hopperCertChain.txt"
        files = NvidiaFiles([report.read_bytes()], chain.read_bytes(), HOPPER_NONCE)
        reasons = check_nvidia(files, now=now).reasons
    return sorted({reason.code for reason in reasons})


@needs_vectors
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector.name}@{vector.at[:10]}")
def test_each_file_is_judged_as_is_written_down(vector: Vector) -> None:
    """Accepted, or refused for that reason alone."""
    assert judged(vector) == [code for code in [vector.code] if code]


@needs_vectors
def test_every_file_is_in_the_table() -> None:
    """None is left out."""
    assert {path.name for path in NVIDIA.parent.rglob("*") if path.is_file()} == {vector.name for vector in VECTORS}


def test_the_page_says_the_same() -> None:
    """docs/vectors.md, section NVIDIA."""
    section = PAGE.read_text("utf-8").partition("## NVIDIA\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`|]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    wanted = [(v.name, v.at[:10], f"`{v.code}`" if v.code else "accepted", v.why) for v in VECTORS]
    assert rows == wanted


@needs_vectors
@pytest.mark.parametrize("name", ["gpu_evidence.json", "switch_evidence.json"])
def test_each_device_of_the_node_is_accepted_alone_and_with_no_other_nonce(name: str) -> None:
    """The samples share a nonce: accepted with it, refused with another."""
    found = members(name)
    assert len(found) == {"gpu_evidence.json": 8, "switch_evidence.json": 4}[name]
    for item in found:
        report, chain = base64.b64decode(item["evidence"]), base64.b64decode(item["certificate"])
        assert item["nonce"] == NODE_NONCE.hex()
        good = check_nvidia(NvidiaFiles([report], chain, NODE_NONCE), now=parse_time(NOW))
        assert good.accepted
        told = good.claims["devices"][0]
        assert told["vbios"] == item.get("vbios_version", "96.10.73.00.01").upper()
        assert told["driver"] == item.get("driver_version")
        bad = check_nvidia(NvidiaFiles([report], chain, HOPPER_NONCE), now=parse_time(NOW))
        assert [reason.code for reason in bad.reasons] == ["binding_mismatch"]


@needs_vectors
def test_a_manifest_of_another_version_is_not_compared() -> None:
    """Given all the samples' manifests, no report finds its own; told, not guessed."""
    rims = [path.read_bytes() for path in sorted(NVIDIA.glob("*.swidtag"))]
    chain = (NVIDIA / "hopperCertChain.txt").read_bytes()
    files = NvidiaFiles([(NVIDIA / "hopperAttestationReport.txt").read_bytes()], chain, HOPPER_NONCE, rims)
    claims = check_nvidia(files, now=parse_time(NOW)).claims
    assert claims["devices"][0]["measurements_compared"] == 0
    assert claims["devices"][0]["rim_missing"] == ["driver:550.90.07", "vbios:96.00.9F.00.01"]
    assert {told["usable"] for told in claims["manifests"]} == {"certificate_expired"}
