"""From a machine's files to a verdict: valid evidence under development roots, collected by the attesters and judged."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attesters.devices import FakeNvml, GramineTree
from attesters.kernel import CCEL, VCEK, Kernel, SevDriver, table
from attesters.machines import ground, write
from perunml.attesters.base import Attester
from perunml.attesters.detect import make
from perunml.evidence.bundle import Bundle
from perunml.evidence.composite import identify
from perunml.evidence.dcap.rules import TdxRules
from perunml.evidence.endorsements import Endorsements
from perunml.evidence.judge import Judgement, judge
from perunml.evidence.nvidia.rules import GpuRules
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.snp.rules import SnpRules
from perunml.testing.bootlog import Boot
from perunml.testing.ccel import ccel, ccel_rules
from perunml.testing.dcap import NOW as INTEL_NOW
from perunml.testing.dcap import TDX_FIELDS, ForgedIntel
from perunml.testing.nvidia import ForgedNvidia
from perunml.testing.nvidia_pki import NOW
from perunml.testing.snp import ForgedChip
from perunml.wire.errors import EvidenceRefusal

BINDING, OTHER = bytes(range(48)), bytes(48)
SNP = SnpRules.from_json({"measurement": ["11" * 48], "products": ["Milan"], "min_tcb": {"bootloader": 4}})


@cache
def chip() -> ForgedChip:
    return ForgedChip()


@cache
def intel() -> ForgedIntel:
    return ForgedIntel()


def no_tpm() -> Any:
    raise AssertionError("the TPM was not asked for")


def policy(**parts: Any) -> Policy:
    return Policy("simulated", "gpu-cc" if "gpu" in parts else "tee", None, True, written="sha256:" + "0" * 64, **parts)


def judged(bundle: Bundle, rules: Policy, known: Endorsements, now: int, binding: bytes = BINDING) -> Judgement:
    sent = Bundle.from_json(bundle.as_json())
    return judge(sent, machine=Machine("", False), policy=rules, binding=binding, now=now, endorsements=known)


def codes(found: Judgement) -> list[str]:
    return [reason.code for reason in found.appraisal.reasons]


def snp_attesters(root: Path) -> list[Attester]:
    """By configfs and by the device, with the hypervisor's certificate and without."""
    write(root, dev__sev_dash_guest="")
    handed = table([(VCEK, chip().certificate)])
    by_tsm = ground(root, Kernel(root / "tsm", "sev_guest", chip().report, handed))
    by_device = ground(root, ioctl=SevDriver(chip().report, handed))
    bare = ground(root, ioctl=SevDriver(chip().report, None))
    return [make(["snp"], no_tpm, each) for each in (by_tsm, by_device, bare)]


def test_an_snp_guests_evidence_is_accepted_by_either_interface(tmp_path: Path) -> None:
    """And for this exchange alone (T9): for another one the same bytes are refused."""
    for attester in snp_attesters(tmp_path):
        bundle = attester.collect(BINDING)
        assert codes(judged(bundle, policy(tee=SNP), chip().endorsements(), NOW)) == []
        again = judged(bundle, policy(tee=SNP), chip().endorsements(), NOW, OTHER)
        assert codes(again) == ["binding_mismatch"]


def test_a_trust_domains_evidence_is_accepted_with_its_event_log(tmp_path: Path) -> None:
    """RTMRs are explained by the CCEL table, padding and all, as the kernel shows it."""
    log, values = ccel(buffer=65536)
    fields = {f"rtmr{index}": value for index, value in enumerate(values)}
    tree = Kernel(tmp_path, "tdx_guest", lambda data: intel().tdx_quote(data, **fields))
    write(tmp_path, **{CCEL.replace("/", "__"): log, "proc__cmdline": Boot().cmdline + "\n"})
    bundle = make(["tdx"], no_tpm, ground(tmp_path, tree)).collect(BINDING)
    rules = TdxRules(mr_td=frozenset({TDX_FIELDS["mr_td"].hex()}), boot=ccel_rules())
    assert codes(judged(bundle, policy(tee=rules), intel().endorsements("tdx"), INTEL_NOW)) == []
    (tmp_path / CCEL).write_bytes(log[:2000])
    cut = make(["tdx"], no_tpm, ground(tmp_path, tree)).collect(BINDING)
    assert codes(judged(cut, policy(tee=rules), intel().endorsements("tdx"), INTEL_NOW)) != []


def test_an_enclaves_evidence_names_its_platform(tmp_path: Path) -> None:
    """What an enrolment records; evidence for another exchange enrols nothing."""
    tree = GramineTree(tmp_path)
    quote = tree.read

    def read(path: str, limit: int) -> bytes:
        return intel().sgx_quote(tree.data) if path.endswith("/quote") else quote(path, limit)

    tree.read = read  # type: ignore[method-assign]  # a quoting enclave that signs
    bundle = make(["sgx"], no_tpm, ground(tmp_path, tree)).collect(BINDING)
    known = intel().endorsements("sgx")
    found = identify(bundle, binding=BINDING, endorsements=known, now=INTEL_NOW)
    assert found.identity.startswith("platform:sha256:")
    with pytest.raises(EvidenceRefusal, match="binding_mismatch"):
        identify(bundle, binding=OTHER, endorsements=known, now=INTEL_NOW)


class Signing(FakeNvml):
    """NVML over devices that sign."""

    def __init__(self, vendor: ForgedNvidia, count: int) -> None:
        super().__init__(count)
        self.devices = [vendor.gpu(number) for number in range(count)]

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, handle: int, nonce: bytes) -> Any:
        data = self.devices[handle].report(nonce).report
        return SimpleNamespace(attestationReport=data.ljust(0x2000, b"\0"), attestationReportSize=len(data))

    def nvmlDeviceGetConfComputeGpuCertificate(self, handle: int) -> Any:
        from cryptography import x509

        listed = [x509.load_der_x509_certificate(der) for der in self.devices[handle].chain]
        data = b"".join(each.public_bytes(Encoding.PEM) for each in listed)
        return SimpleNamespace(attestationCertChain=data.ljust(0x1400, b"\0"), attestationCertChainSize=len(data))


def test_a_confidential_vm_with_gpus_is_accepted_and_each_gpu_counts(tmp_path: Path) -> None:
    """TEE and GPUs under one binding; one GPU fewer than agreed is refused (G7), and a machine without any (T22)."""
    vendor = ForgedNvidia()
    library = Signing(vendor, 2)
    write(tmp_path, dev__sev_dash_guest="", dev__nvidiactl="")
    seen = ground(tmp_path, ioctl=SevDriver(chip().report, None), nvml=lambda: library)
    of_chip, of_gpus = chip().endorsements(), vendor.endorsements(library.devices)
    known = Endorsements(
        replace(of_gpus.collateral, certificates=of_chip.collateral.certificates, crls=of_chip.collateral.crls),
        (*of_chip.simulated_roots, *of_gpus.simulated_roots),
    )
    two = policy(tee=SNP, gpu=GpuRules.from_json({"architectures": ["hopper"], "count": 2}))
    bundle = make(["auto"], no_tpm, seen).collect(BINDING)
    assert codes(judged(bundle, two, known, NOW)) == []
    assert "binding_mismatch" in codes(judged(bundle, two, known, NOW, OTHER))
    library.count = 1
    assert codes(judged(make(["auto"], no_tpm, seen).collect(BINDING), two, known, NOW)) == ["gpu_count"]
    library.cc = 0
    assert codes(judged(make(["auto"], no_tpm, seen).collect(BINDING), two, known, NOW)) == ["part_missing"]
