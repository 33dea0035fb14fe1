"""NVIDIA's captured evidence, as files of the folder of vectors."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from evidence.vectors import FOLDER
from perunml.evidence.parts import GpuPart

NVIDIA = FOLDER / "nvidia" / "NVIDIA__nvtrust"
HOPPER_NONCE = bytes.fromhex("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb")
NODE_NONCE = bytes.fromhex("4760e30534a0621357d458b1a7936551b5dc4cd1e69718adf7ed9fb0252a537e")


def certificates(pem: bytes) -> tuple[bytes, ...]:
    return tuple(one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(pem))


@cache
def hopper() -> GpuPart:
    """One H100 under driver 550.90.07."""
    report = bytes.fromhex((NVIDIA / "hopperAttestationReport.txt").read_text().strip())
    return GpuPart("gpu", report, certificates((NVIDIA / "hopperCertChain.txt").read_bytes()))


@cache
def node() -> tuple[GpuPart, ...]:
    """Eight GPUs and four NVSwitches of one node in protected PCIe mode."""
    found = []
    for name, device in (("gpu_evidence.json", "gpu"), ("switch_evidence.json", "switch")):
        for item in members(name):
            chain = certificates(base64.b64decode(item["certificate"]))
            found.append(GpuPart(device, base64.b64decode(item["evidence"]), chain))
    return tuple(found)


def members(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((NVIDIA / name).read_text())
    return found


def rim(name: str) -> bytes:
    return (NVIDIA / name).read_bytes()
