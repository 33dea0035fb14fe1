"""Reports of NVIDIA's GPUs and NVSwitches: from the driver's library (NVML), or from the program `nvattest` where that is not to
be had from Python. Each device signs the same nonce; whether it is in a state that anybody wants is for the judge to say.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from perunml.attesters.codes import GPU_NOT_CONFIDENTIAL, GPU_UNAVAILABLE, ODD_ANSWER
from perunml.evidence import pem
from perunml.evidence.binding import gpu_nonce
from perunml.evidence.bundle import Bundle
from perunml.evidence.parts import MAX_CERTIFICATE, MAX_CERTIFICATES, MAX_REPORT, GpuPart
from perunml.wire.errors import PerunError, refuse

WAY = "perunml host doctor"
ENABLED = 1
"""NVML_CC_SYSTEM_FEATURE_ENABLED, NVML_CC_SYSTEM_DEVTOOLS_MODE_ON, NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE."""


@dataclass(frozen=True, slots=True)
class GpuState:
    """What the driver says of the machine's GPUs; the machine's own word, good for its doctor alone.

    confidential  memory and bus are protected (CC mode, or protected PCIe for several)
    development   the mode that lets debuggers in
    ready         jobs may begin, as somebody said after checking the devices
    """

    count: int
    confidential: bool
    development: bool
    ready: bool


class DeviceSource(Protocol):
    """One way to one kind of device."""

    def parts(self, nonce: bytes) -> Sequence[GpuPart]:
        """Every device's report over these 32 bytes. Raises `Unreachable` (gpu_unavailable) or `EvidenceRefusal`
        (gpu_not_confidential, odd_answer)."""
        ...


class Nvml:
    """GPUs through NVML. `library` has pynvml's functions (package nvidia-ml-py), whose structures are the driver's."""

    def __init__(self, library: Any) -> None:
        self._nvml = library

    def state(self) -> GpuState:
        """Raises `Unreachable` (gpu_unavailable)."""
        with self._open():
            count = int(self._nvml.nvmlDeviceGetCount())
            try:
                told = self._nvml.nvmlSystemGetConfComputeState()
            except self._nvml.NVMLError:  # no such mode on these devices
                return GpuState(count, confidential=False, development=False, ready=False)
            return GpuState(
                count,
                confidential=told.ccFeature == ENABLED or self._protected(),
                development=told.devToolsMode == ENABLED,
                ready=self._ready(),
            )

    def parts(self, nonce: bytes) -> Sequence[GpuPart]:
        """A part for each GPU, in the driver's order."""
        if not (state := self.state()).count:
            raise refuse(GPU_UNAVAILABLE, "the driver knows of no GPU", command=WAY)
        if not state.confidential:
            raise refuse(GPU_NOT_CONFIDENTIAL, "the GPUs are not in confidential mode", seen=f"{state.count} GPUs", command=WAY)  # fmt: skip
        with self._open():
            handles = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(state.count)]
            return [self._part(handle, nonce) for handle in handles]

    def _part(self, handle: Any, nonce: bytes) -> GpuPart:
        told = self._nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce)
        certificates = self._nvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
        report = _front(told.attestationReport, told.attestationReportSize)
        chain = _front(certificates.attestationCertChain, certificates.attestationCertChainSize)
        return gpu_part("gpu", report, chain.rstrip(b"\0"), nonce)

    def _protected(self) -> bool:
        """Protected PCIe, for machines that give all their GPUs to one guest: told by newer drivers only."""
        try:
            settings = self._nvml.c_nvmlSystemConfComputeSettings_v1_t()
            failed = self._nvml.nvmlSystemGetConfComputeSettings(ctypes.byref(settings))
        except (AttributeError, self._nvml.NVMLError):
            return False
        return not failed and settings.multiGpuMode != 0

    def _ready(self) -> bool:
        try:
            return bool(self._nvml.nvmlSystemGetConfComputeGpusReadyState() == ENABLED)
        except self._nvml.NVMLError:
            return False

    @contextmanager
    def _open(self) -> Iterator[None]:
        try:
            self._nvml.nvmlInit()
            try:
                yield
            finally:
                self._nvml.nvmlShutdown()
        except self._nvml.NVMLError as exc:
            raise refuse(GPU_UNAVAILABLE, f"NVML: {exc}", command=WAY) from None


class NvidiaAttester:
    """A machine's NVIDIA devices as an `Attester`: a part of a composite, for a GPU alone is no machine."""

    def __init__(self, *sources: DeviceSource) -> None:
        self._sources = sources

    @property
    def machine(self) -> str:
        return ""

    def collect(self, binding: bytes) -> Bundle:
        """Every device's report over SHA-256 of the binding."""
        nonce = gpu_nonce(binding)
        return Bundle(tuple(part for source in self._sources for part in source.parts(nonce)))

    def collect_many(self, bindings: Sequence[bytes]) -> Mapping[bytes, Bundle]:
        """Reports for each: a nonce binds one exchange only."""
        return {binding: self.collect(binding) for binding in bindings}

    def accepted(self, bundle: Bundle) -> None:
        """There is no log that grows."""

    def forget(self) -> None:
        """Nothing is remembered."""


def gpu_part(device: str, report: bytes, chain: bytes, nonce: bytes) -> GpuPart:
    """A device's report and its certificates (PEM or DER), as they came. Raises `EvidenceRefusal` (odd_answer) for a report over
    another nonce, or bytes that cannot be what they should be."""
    if not 0 < len(report) <= MAX_REPORT or nonce not in report:
        raise refuse(ODD_ANSWER, f"the {device}'s report is not over the nonce that was asked for", seen=f"{len(report)} bytes")  # fmt: skip
    try:
        certificates = pem.split(chain)
    except PerunError:
        certificates = []
    if not 0 < len(certificates) <= MAX_CERTIFICATES or not all(
        0 < len(der) <= MAX_CERTIFICATE for der in certificates
    ):
        raise refuse(ODD_ANSWER, f"the {device}'s certificates are none", seen=f"{len(chain)} bytes")
    return GpuPart(device, report, tuple(certificates))


def _front(array: Any, size: int) -> bytes:
    """The first bytes of one of the driver's fixed arrays."""
    data = bytes(array)
    if not 0 < size <= len(data):
        raise refuse(ODD_ANSWER, "the driver tells a length that its answer has not", seen=str(size))
    return data[:size]
