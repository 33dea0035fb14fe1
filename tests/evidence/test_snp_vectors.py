"""Every file of AMD's captured evidence, and of Azure's around it, judged: the verdict and why, the same as docs/vectors.md says."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest

from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.offline.findings import Checked
from perunml.evidence.offline.snp import SnpFiles, check_snp
from perunml.evidence.pem import split
from perunml.evidence.snp.roots import ARKS
from perunml.evidence.x509 import chain_reasons, fingerprint, issued, read_certificate

PAGE = Path(__file__).parents[2] / "docs" / "vectors.md"
SNP = FOLDER / "snp"
NOW = 1_767_225_600
"""2026-01-01."""
GO, VIRTEE, AZURE = "google__go-sev-guest", "virtee__sev", "Azure__azure-cleanroom"

TABLE = {
    # file -> (verdict, why)
    f"{GO}/attestation.bin": ("`debug_enabled`", "a Milan guest's report of version 2, whose policy allows debugging"),
    f"{GO}/vcek.testcer": ("accepted", "the VCEK of that report, under the pinned ARK-Milan"),
    f"{GO}/ask_ark_milan.pem": ("accepted", "ASK and ARK of Milan, the pinned one"),
    f"{GO}/milan.testcer": ("accepted", "the same"),
    f"{GO}/ask_ark_milan_vlek.pem": ("accepted", "ASVK and ARK of Milan"),
    f"{GO}/milanvlek.testcer": ("accepted", "the same"),
    f"{GO}/ask_ark_genoa.pem": ("accepted", "ASK and ARK of Genoa, the pinned one"),
    f"{GO}/ask_ark_genoa_vlek.pem": ("accepted", "ASVK and ARK of Genoa"),
    f"{GO}/ask_ark_turin_vcek.pem": ("accepted", "ASK and ARK of Turin, the pinned one"),
    f"{GO}/ask_ark_turin_vlek.pem": ("accepted", "ASVK and ARK of Turin"),
    f"{VIRTEE}/report_milan.hex": ("accepted", "a Milan guest's report of version 2, in hex"),
    f"{VIRTEE}/vcek_milan.der": ("accepted", "the VCEK of that report"),
    f"{VIRTEE}/cert_chain_milan": ("accepted", "ASK and ARK of Milan"),
    f"{VIRTEE}/vcek_turin.der": ("accepted", "a Turin VCEK, with the FMC's version and a serial number of 0; no report of it is here"),
    f"{VIRTEE}/cert_chain_turin": ("accepted", "ASK and ARK of Turin"),
    f"{VIRTEE}/ovmf_AmdSev_suffix.bin": ("`non_canonical`", "no report: the end of a firmware image"),
    f"{VIRTEE}/ovmf_OvmfX64_suffix.bin": ("`non_canonical`", "no report: the end of a firmware image"),
    f"{VIRTEE}/test_auth_block.bin": ("`non_canonical`", "no report: an identity block's authentication"),
    f"{VIRTEE}/test_auth_sig.bin": ("`non_canonical`", "no report: a signature of an identity block"),
    f"{VIRTEE}/test_id_sig.bin": ("`non_canonical`", "no report: a signature of an identity block"),
    f"{AZURE}/attestation.json": (
        "accepted",
        "a confidential VM: SNP report of version 3 and VCEK of Milan; the HCL report names the key that signed the vTPM's quote",
    ),
    f"{AZURE}/encryption__attestation.json": ("accepted", "a confidential container: report of version 3, VCEK of Milan"),
    f"{AZURE}/signing__attestation.json": ("accepted", "the same"),
    f"{AZURE}/maa-request.json": ("accepted", "the same, as it is sent to Azure's verifier"),
    f"{AZURE}/values.txt": ("`non_canonical`", "no report: a container policy and its hash, the host data of such reports"),
    f"{AZURE}/insecure-virtual__values.txt": ("`non_canonical`", "the same"),
}  # fmt: skip


def reports(name: str) -> tuple[bytes, list[bytes]]:
    """The report in a file, and the certificates that came with it."""
    data = (SNP / name).read_bytes()
    if name.endswith("maa-request.json"):
        inner = json.loads(_unb64(json.loads(data)["report"]))
        return _unb64(inner["SnpReport"]), split(_unb64(inner["VcekCertChain"]))
    if name.endswith(".json"):
        found = json.loads(data)["report"]
        if "snpCvm" in found:
            machine = found["snpCvm"]
            return base64.b64decode(machine["evidence"]["snpReport"]), split(machine["platformCertificates"].encode())
        container = found["snpCACI"]
        return base64.b64decode(container["attestation"]), split(base64.b64decode(container["platformCertificates"]))
    folder = SNP / name.partition("/")[0]
    beside = [path for path in folder.iterdir() if path.suffix in (".pem", ".testcer", ".der") or "chain" in path.name]
    return data, [one for path in sorted(beside) for one in split(path.read_bytes())]


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def judge(name: str) -> Checked:
    report, certificates = reports(name)
    return check_snp(SnpFiles(report, certificates), now=NOW)


CERTIFICATES = [name for name in TABLE if re.search(r"cert_chain|\.pem$|\.testcer$|\.der$", name)]
OTHERS = [name for name in TABLE if name not in CERTIFICATES]


@needs_vectors
@pytest.mark.parametrize("name", OTHERS)
def test_each_file_has_its_verdict(name: str) -> None:
    """Without a profile, without a revocation list: told, not refused."""
    found = judge(name)
    verdict = TABLE[name][0]
    assert [reason.code for reason in found.reasons] == ([] if verdict == "accepted" else [verdict.strip("`")])
    if found.claims["report"] is not None:
        assert found.claims["report"]["product"] == "Milan"
        assert found.claims["report"]["simulated"] is False


@needs_vectors
@pytest.mark.parametrize("name", CERTIFICATES)
def test_each_certificate_leads_to_the_pinned_root(name: str) -> None:
    """A file of one is a VCEK, whose chain is beside it."""
    own = [read_certificate(der) for der in split((SNP / name).read_bytes())]
    if len(own) == 1:
        _, beside = reports(name)
        pool = [read_certificate(der) for der in beside]
        middle = next(one for one in pool if issued(own[0], one))
        own += [middle, next(one for one in pool if issued(middle, one))]
        assert chain_reasons(own, name, NOW) == ()
    assert issued(own[-2], own[-1])
    assert issued(own[-1], own[-1])
    assert fingerprint(own[-1]) in ARKS


@needs_vectors
def test_a_report_under_another_chips_certificate_is_refused() -> None:
    """T13: two real machines, one's report with the other's VCEK."""
    report, _ = reports(f"{GO}/attestation.bin")
    _, others = reports(f"{VIRTEE}/report_milan.hex")
    codes = [reason.code for reason in check_snp(SnpFiles(report, others), now=NOW).reasons]
    assert codes == ["certificate_mismatch", "certificate_mismatch", "report_signature"]  # chip, firmware


@needs_vectors
def test_every_file_is_in_the_table() -> None:
    """None is left out."""
    assert {str(path.relative_to(SNP)) for path in SNP.rglob("*") if path.is_file()} == set(TABLE)


def test_the_page_says_the_same() -> None:
    """docs/vectors.md, section AMD."""
    section = PAGE.read_text("utf-8").split("\n## AMD\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([^`|]+)` \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    assert rows == [(name, verdict, why) for name, (verdict, why) in TABLE.items()]
