"""Devices for these tests: NVML with GPUs, the program nvattest, Gramine's pseudo-files, each as the real one behaves."""

from __future__ import annotations

import base64
import ctypes
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from attesters.kernel import der
from perunml.attesters.tree import Files


def spdm(nonce: bytes, device: str = "gpu 0") -> bytes:
    """A request with the nonce, and something behind it."""
    return b"\x11\xe0\x01\xff" + nonce + b"\0" + b"\x11\x60\0\0" + device.encode().ljust(500, b".")


def chain_pem(device: str = "gpu 0") -> bytes:
    """Five certificates, the leaf first."""
    return b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(each) + b"-----END CERTIFICATE-----\n"
        for each in chain(device)
    )


def chain(device: str = "gpu 0") -> tuple[bytes, ...]:
    return tuple(der(f"{device} {n}") for n in range(5))


class NvmlError(Exception):
    """NVMLError."""


class Settings(ctypes.Structure):
    """nvmlSystemConfComputeSettings_v1_t."""

    _fields_ = (
        ("version", ctypes.c_uint),
        ("environment", ctypes.c_uint),
        ("ccFeature", ctypes.c_uint),
        ("devToolsMode", ctypes.c_uint),
        ("multiGpuMode", ctypes.c_uint),
    )


class FakeNvml:
    """pynvml, as far as it is used. `supported`: whether the devices know of the mode at all."""

    NVMLError = NvmlError
    c_nvmlSystemConfComputeSettings_v1_t = Settings

    def __init__(self, count: int = 1, cc: int = 1, devtools: int = 0, ready: int = 1, multi: int = 0) -> None:
        self.count, self.cc, self.devtools, self.ready, self.multi = count, cc, devtools, ready, multi
        self.supported, self.installed, self.failing = True, True, False
        self.open = 0
        self.spdm = spdm
        self.odd_size = 0

    def nvmlInit(self) -> None:
        if not self.installed:
            raise NvmlError("NVML Shared Library Not Found")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        assert self.open
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        assert 0 <= index < self.count
        return index

    def nvmlSystemGetConfComputeState(self) -> Any:
        if not self.supported:
            raise NvmlError("Not Supported")
        return SimpleNamespace(environment=2, ccFeature=self.cc, devToolsMode=self.devtools)

    def nvmlSystemGetConfComputeSettings(self, pointer: Any) -> int:
        pointer._obj.multiGpuMode = self.multi
        return 0

    def nvmlSystemGetConfComputeGpusReadyState(self) -> int:
        return self.ready

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, handle: int, nonce: bytes) -> Any:
        if self.failing:
            raise NvmlError("GPU is lost")
        assert len(nonce) == 32
        data = self.spdm(nonce, f"gpu {handle}")
        return SimpleNamespace(
            attestationReport=(ctypes.c_uint8 * 0x2000)(*data[:0x2000]),
            attestationReportSize=self.odd_size or len(data),
        )

    def nvmlDeviceGetConfComputeGpuCertificate(self, handle: int) -> Any:
        data = chain_pem(f"gpu {handle}") + b"\0"
        return SimpleNamespace(
            attestationCertChain=(ctypes.c_uint8 * 0x1400)(*data), attestationCertChainSize=len(data)
        )


class FakeNvattest:
    """The program: `devices` by its own words for them."""

    def __init__(self, **devices: int) -> None:
        self.devices = devices
        self.words: list[list[str]] = []
        self.code, self.output = 0, b""
        self.error: Exception | None = None

    def __call__(self, words: Sequence[str], seconds: float, limit: int) -> tuple[int, bytes]:
        self.words.append(list(words))
        if self.error is not None:
            raise self.error
        if self.output or self.code:
            return self.code, self.output
        told = dict(zip(words[2::2], words[3::2], strict=True))
        nonce, kind = bytes.fromhex(told["--nonce"]), told["--device"]
        listed = [
            {
                "arch": "HOPPER",
                "nonce": nonce.hex(),
                "evidence": base64.b64encode(spdm(nonce, f"{kind} {n}")).decode(),
                "certificate": base64.b64encode(chain_pem(f"{kind} {n}")).decode(),
            }
            for n in range(self.devices.get(kind, 0))
        ]
        return 0, json.dumps({"evidences": listed, "result_code": 0, "result_message": "Ok"}).encode()


class GramineTree(Files):
    """Gramine's /dev/attestation below `root`: the quote is of what was written last."""

    def __init__(self, root: Path, kind: str = "dcap") -> None:
        super().__init__(root)
        self.data = b""
        self.failing = 0
        (root / "dev/attestation").mkdir(parents=True, exist_ok=True)
        (root / "dev/attestation/attestation_type").write_text(kind)

    def write(self, path: str, data: bytes) -> None:
        assert path == "/dev/attestation/user_report_data"
        self.data = data

    def read(self, path: str, limit: int) -> bytes:
        if path != "/dev/attestation/quote":
            return super().read(path, limit)
        if self.failing:
            raise OSError(self.failing, os.strerror(self.failing), path)
        return b"\x03\x00\x02\x00" + bytes(364) + self.data + bytes(100) if self.data else b""
