"""Several roots of trust of one machine, joined for one exchange."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from attesters.devices import FakeNvattest, FakeNvml, spdm
from attesters.kernel import CHAIN, Kernel, snp_report, tdx_quote
from perunml.attesters.composite import Composite, TpmComposite
from perunml.attesters.nvattest import Nvattest
from perunml.attesters.nvidia import NvidiaAttester, Nvml
from perunml.attesters.tee import TeeAttester
from perunml.attesters.tpm import TpmAttester
from perunml.attesters.tsm import TsmReports
from perunml.evidence.binding import tpm_extra_data
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.parts import GpuPart, SnpPart, TdxPart
from perunml.evidence.tpm.attest import parse_attest
from perunml.testing.machine import SimulatedMachine
from perunml.wire.errors import PerunError, Unreachable

BINDINGS = [bytes([n]) * 48 for n in range(2)]


def test_a_confidential_vm_with_gpus_is_one_machine_without_a_name(tmp_path: Path) -> None:
    """TEE first, then GPUs and switches; it enrols as a TEE, and answers no TPM's challenge."""
    tee = TeeAttester(TsmReports(Kernel(tmp_path, "tdx_guest")))
    gpus = NvidiaAttester(Nvml(FakeNvml(count=2)), Nvattest("switch", FakeNvattest(nvswitch=1)))
    made = Composite([tee, gpus])
    found = made.collect_many(BINDINGS)
    for own in BINDINGS:
        nonce = hashlib.sha256(own).digest()
        first, *rest = found[own].parts
        assert first == TdxPart(tdx_quote(own + bytes(16)))
        assert [part.report for part in rest if isinstance(part, GpuPart)] == [
            spdm(nonce, name) for name in ("gpu 0", "gpu 1", "nvswitch 0")
        ]
    assert made.collect(BINDINGS[0]) == found[BINDINGS[0]]
    assert (made.machine, made.enrolment(), hasattr(made, "activate")) == ("", {"tee": True}, False)
    made.accepted(found[BINDINGS[0]])
    made.forget()


def test_every_part_that_fails_is_told(tmp_path: Path) -> None:
    """All reasons, not the first only; and nothing is sent of a machine that could prove half."""
    kernel = Kernel(tmp_path, "tdx_guest")
    library = FakeNvml()
    made = Composite([TeeAttester(TsmReports(kernel)), NvidiaAttester(Nvml(library))])
    kernel.fail, kernel.failures, library.cc = 5, 1, 0
    with pytest.raises(PerunError) as caught:
        made.collect(BINDINGS[0])
    assert [reason.code for reason in caught.value.reasons] == ["tee_refused", "gpu_not_confidential"]
    kernel.fail, kernel.failures = 5, 1
    library.cc = 1
    with pytest.raises(Unreachable):
        made.collect(BINDINGS[0])
    with pytest.raises(ValueError, match="made of something"):
        Composite([])


@pytest.mark.swtpm
def test_a_tpm_and_a_tee_are_bound_to_the_same_exchanges(machine: SimulatedMachine, tmp_path: Path) -> None:
    """One quote of the TPM for all, a report of the TEE for each; the machine has the TPM's name, and enrols by it."""
    tpm = TpmAttester(machine.tcti, tmp_path / "agent", machine.ima_log, machine.event_log)
    tee = TeeAttester(TsmReports(Kernel(tmp_path, "sev_guest", snp_report, CHAIN)))
    made = TpmComposite(tpm, [tee])
    found = made.collect_many(BINDINGS)
    for own in BINDINGS:
        quote, report = found[own].parts
        assert isinstance(quote, TpmPart)
        assert isinstance(report, SnpPart)
        assert parse_attest(quote.attest).extra_data == tpm_extra_data(*BINDINGS)
        assert own in report.report
    assert made.machine == tpm.machine
    assert made.enrolment() == tpm.enrolment()
    assert found[BINDINGS[0]] == Bundle.from_json(found[BINDINGS[0]].as_json())
    made.accepted(found[BINDINGS[0]])
    (part, _) = made.collect(BINDINGS[1]).parts
    assert isinstance(part, TpmPart)
    assert part.ima_offset > 0
    made.forget()
    (part, _) = made.collect(BINDINGS[1]).parts
    assert isinstance(part, TpmPart)
    assert part.ima_offset == 0
