"""NVIDIA's devices: by the driver's library, by nvattest, and what either may answer."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import pytest

from attesters.devices import FakeNvattest, FakeNvml, chain, spdm
from perunml.attesters.nvattest import MAX_OUTPUT, Nvattest, run_bounded
from perunml.attesters.nvidia import GpuState, NvidiaAttester, Nvml, gpu_part
from perunml.evidence.bundle import Bundle
from perunml.evidence.parts import GpuPart
from perunml.wire.errors import EvidenceRefusal, PerunError, Unreachable

BINDING = bytes(range(48))
NONCE = hashlib.sha256(BINDING).digest()


def test_each_gpu_signs_the_bindings_hash() -> None:
    """One part for each, in the driver's order; the library is closed again."""
    library = FakeNvml(count=2)
    bundle = NvidiaAttester(Nvml(library)).collect(BINDING)
    assert bundle.parts == tuple(GpuPart("gpu", spdm(NONCE, f"gpu {n}"), chain(f"gpu {n}")) for n in range(2))
    assert library.open == 0
    assert Bundle.from_json(bundle.as_json()) == bundle


def test_each_exchange_has_reports_of_its_own() -> None:
    """A nonce binds one; nothing is named or remembered."""
    attester = NvidiaAttester(Nvml(FakeNvml()))
    found = attester.collect_many([b"a" * 48, b"b" * 48])
    assert found[b"a" * 48] != found[b"b" * 48]
    attester.accepted(found[b"a" * 48])
    attester.forget()
    assert attester.machine == ""


def test_gpus_out_of_confidential_mode_are_refused() -> None:
    """CC off, devices that know no such mode, and none at all."""
    off, old = FakeNvml(cc=0), FakeNvml()
    old.supported = False
    for library in (off, old):
        with pytest.raises(EvidenceRefusal, match="gpu_not_confidential"):
            NvidiaAttester(Nvml(library)).collect(BINDING)
    with pytest.raises(Unreachable, match="gpu_unavailable"):
        NvidiaAttester(Nvml(FakeNvml(count=0))).collect(BINDING)
    assert Nvml(old).state() == GpuState(1, confidential=False, development=False, ready=False)


def test_gpus_under_protected_pcie_are_confidential() -> None:
    """All GPUs of a node in one guest: the feature reads as off, the mode of several does not."""
    assert NvidiaAttester(Nvml(FakeNvml(cc=0, multi=1))).collect(BINDING).parts
    assert Nvml(FakeNvml(devtools=1, ready=0)).state() == GpuState(1, True, True, False)


def test_an_older_driver_without_the_newer_questions_is_asked_what_it_knows() -> None:
    """No settings of several GPUs, no ready state."""

    class Older(FakeNvml):
        def nvmlSystemGetConfComputeSettings(self, pointer: Any) -> int:
            raise self.NVMLError("Function Not Found")

        def nvmlSystemGetConfComputeGpusReadyState(self) -> int:
            raise self.NVMLError("Function Not Found")

    assert Nvml(Older(cc=0)).state() == GpuState(1, False, False, False)
    assert Nvml(Older()).state() == GpuState(1, True, False, False)


def test_certificates_that_are_none_are_refused() -> None:
    """Beside a report over the right nonce."""
    for chain_bytes in (b"", b"-----BEGIN CERTIFICATE-----\n%", b"0" * 9000, b"-----BEGIN CERTIFICATE-----\n"):
        with pytest.raises(EvidenceRefusal, match="odd_answer"):
            gpu_part("gpu", spdm(NONCE), chain_bytes, NONCE)


def test_a_driver_that_fails_is_told() -> None:
    """NVML's own words; the library is closed."""
    for name in ("installed", "failing"):
        library = FakeNvml()
        setattr(library, name, name == "failing")
        with pytest.raises(Unreachable, match="NVML: ") as caught:
            NvidiaAttester(Nvml(library)).collect(BINDING)
        assert caught.value.code == "gpu_unavailable"
        assert library.open == 0


def test_an_odd_answer_of_the_driver_is_refused() -> None:
    """A report over another nonce (G1, seen on the host already), or a length that is not in its array."""
    library = FakeNvml()
    library.spdm = lambda nonce, device: spdm(bytes(32), device)
    with pytest.raises(EvidenceRefusal, match="odd_answer"):
        NvidiaAttester(Nvml(library)).collect(BINDING)
    library = FakeNvml()
    library.odd_size = 0x2001
    with pytest.raises(EvidenceRefusal, match="odd_answer"):
        NvidiaAttester(Nvml(library)).collect(BINDING)


def test_nvattest_collects_gpus_and_switches() -> None:
    """With our nonce in hex, asking nobody but the devices."""
    program = FakeNvattest(gpu=2, nvswitch=4)
    parts = NvidiaAttester(Nvattest("gpu", program), Nvattest("switch", program)).collect(BINDING).parts
    assert [part.device for part in parts if isinstance(part, GpuPart)] == ["gpu"] * 2 + ["switch"] * 4
    assert parts[5] == GpuPart("switch", spdm(NONCE, "nvswitch 3"), chain("nvswitch 3"))
    assert program.words[0] == [
        "nvattest", "collect-evidence", "--device", "gpu", "--nonce", NONCE.hex(), "--format", "json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("output", "code", "rule"),
    [
        (b"", 1, "gpu_unavailable"),
        (b"no json", 0, "gpu_unavailable"),
        (b"[]", 0, "gpu_unavailable"),
        (b'{"result_code": 4, "result_message": "no driver", "evidences": null}', 4, "gpu_unavailable"),
        (b'{"result_code": 0, "evidences": []}', 0, "gpu_unavailable"),
        (b'{"result_code": 0, "evidences": ["x"]}', 0, "odd_answer"),
        (b'{"result_code": 0, "evidences": [{"evidence": "%", "certificate": ""}]}', 0, "odd_answer"),
        (b'{"result_code": 0, "evidences": [{"evidence": 1}]}', 0, "odd_answer"),
        (b"[" * 100_000, 0, "gpu_unavailable"),
    ],
)
def test_what_nvattest_may_answer_is_bounded(output: bytes, code: int, rule: str) -> None:
    """Nothing, something else, an error in its own words, devices without evidence."""
    program = FakeNvattest()
    program.output, program.code = output, code
    with pytest.raises(PerunError) as caught:
        Nvattest("gpu", program).parts(NONCE)
    assert caught.value.code == rule


def test_evidence_that_comes_with_an_error_is_not_taken() -> None:
    """Whatever else the program printed."""
    program = FakeNvattest(gpu=1)
    told = program(["nvattest", "collect-evidence", "--device", "gpu", "--nonce", NONCE.hex()], 1, 1)[1]
    for program.code, program.output in ((1, told), (0, told.replace(b'"result_code": 0', b'"result_code": 7'))):
        with pytest.raises(Unreachable, match="gpu_unavailable"):
            Nvattest("gpu", program).parts(NONCE)


@pytest.mark.parametrize(
    ("error", "rule"),
    [
        (FileNotFoundError(2, "No such file"), "gpu_unavailable"),
        (TimeoutError(), "gpu_unavailable"),
        (ValueError(), "odd_answer"),
    ],
)
def test_an_nvattest_that_does_not_run_is_refused(error: Exception, rule: str) -> None:
    """Not installed, hanging, endless."""
    program = FakeNvattest()
    program.error = error
    with pytest.raises(PerunError) as caught:
        Nvattest("switch", program).parts(NONCE)
    assert caught.value.code == rule


def test_a_program_is_bounded_in_time_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """And sees nothing of our environment that it does not need."""
    monkeypatch.setenv("PERUNML_PASSPHRASE", "secret")
    python = sys.executable
    assert run_bounded([python, "-c", "print('x'); raise SystemExit(3)"], 60, 10) == (3, b"x\n")
    code, told = run_bounded([python, "-c", "import os; print(*os.environ)"], 60, MAX_OUTPUT)
    assert code == 0
    assert b"PERUNML_PASSPHRASE" not in told
    with pytest.raises(ValueError, match="too much"):
        run_bounded([python, "-c", "while True: print('x' * 1000)"], 60, 5000)
    with pytest.raises(TimeoutError):
        run_bounded([python, "-c", "import time; time.sleep(600)"], 0.2, 10)
    with pytest.raises(FileNotFoundError):
        run_bounded(["/no/such/program"], 60, 10)


def test_the_real_package_is_spoken_to_as_it_is() -> None:
    """nvidia-ml-py's own structures, over a library that answers as the driver does."""
    pynvml: Any = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed here")
    fake = FakeNvml(count=1)

    class Library:
        """Functions by their C names; each fills what it is pointed to."""

        def __getattr__(self, name: str) -> Any:
            return {
                "nvmlInit_v2": lambda: 0,
                "nvmlInitWithFlags": lambda flags: 0,
                "nvmlShutdown": lambda: 0,
                "nvmlDeviceGetCount_v2": lambda count: self.put(count, value=1),
                "nvmlDeviceGetHandleByIndex_v2": lambda index, handle: 0,
                "nvmlSystemGetConfComputeState": lambda state: self.put(state, ccFeature=1),
                "nvmlSystemGetConfComputeGpusReadyState": lambda state: self.put(state, value=1),
                "nvmlSystemGetConfComputeSettings": lambda settings: 3,
                "nvmlDeviceGetConfComputeGpuAttestationReport": self.report,
                "nvmlDeviceGetConfComputeGpuCertificate": self.certificate,
            }[name]

        def put(self, pointer: Any, **values: int) -> int:
            for name, value in values.items():
                setattr(pointer._obj, name, value)
            return 0

        def report(self, handle: Any, pointer: Any) -> int:
            told = fake.nvmlDeviceGetConfComputeGpuAttestationReport(0, bytes(pointer._obj.nonce))
            pointer._obj.attestationReport = told.attestationReport
            return self.put(pointer, attestationReportSize=told.attestationReportSize)

        def certificate(self, handle: Any, pointer: Any) -> int:
            told = fake.nvmlDeviceGetConfComputeGpuCertificate(0)
            pointer._obj.attestationCertChain = told.attestationCertChain
            return self.put(pointer, attestationCertChainSize=told.attestationCertChainSize)

    before, cache = pynvml.nvmlLib, dict(pynvml._nvmlGetFunctionPointer_cache)
    pynvml.nvmlLib = Library()
    pynvml._nvmlGetFunctionPointer_cache.clear()
    fake.open = 1
    try:
        assert Nvml(pynvml).state() == GpuState(1, True, False, True)
        (part,) = Nvml(pynvml).parts(NONCE)
        assert part == GpuPart("gpu", spdm(NONCE), chain())
    finally:
        pynvml.nvmlLib = before
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml._nvmlGetFunctionPointer_cache.update(cache)


def test_the_real_package_without_a_driver_is_refused() -> None:
    """No libnvidia-ml on this machine: told, not raised as something else."""
    pynvml: Any = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed here")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        with pytest.raises(Unreachable, match="gpu_unavailable"):
            Nvml(pynvml).state()
    else:
        pynvml.nvmlShutdown()
        pytest.skip("this machine has an NVIDIA driver; runs where there is none")
