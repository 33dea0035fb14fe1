"""Judging NVIDIA GPUs: reports of one device, and of a whole node, each for a nonce of its own, with manifests and OCSP answers."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from perunml.evidence.endorsements import Endorsements
from perunml.evidence.nvidia import rim
from perunml.evidence.nvidia.appraise import appraise_gpus
from perunml.evidence.nvidia.rules import GpuRules
from perunml.evidence.nvidia.verify import verify_gpu
from perunml.testing.nvidia import ForgedDevice, ForgedNvidia
from perunml.testing.nvidia_pki import NOW
from perunml.wire.errors import EvidenceRefusal

ROUNDS, CALLS = 30, 20
"""Rounds of judgements; the median over rounds is told."""
TARGET = 200
"""Devices a second on one core."""


def judge(devices: list[ForgedDevice], known: Endorsements, rules: GpuRules) -> Callable[[int], None]:
    """Verifies and appraises what the devices sign for the nonce of a number; reports are made beforehand."""
    made = [[device.report(nonce(number)) for device in devices] for number in range(CALLS)]

    def call(number: int) -> None:
        gpus = [verify_gpu(part, known, nonce=nonce(number), now=NOW) for part in made[number]]
        if appraise_gpus(gpus, rules, endorsements=known, now=NOW):
            raise AssertionError("honest devices were refused")

    try:  # a check that cannot fail is none
        verify_gpu(made[0][0], known, nonce=nonce(1), now=NOW)
        raise AssertionError("a report for another nonce was accepted")
    except EvidenceRefusal:
        pass
    return call


def nonce(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def rate(call: Callable[[int], None]) -> float:
    """Calls a second, the median over rounds; the first round warms up what is remembered of certificates and manifests."""
    found = []
    for number in range(ROUNDS + 1):
        begin = time.perf_counter()
        for each in range(CALLS):
            call(each)
        if number:
            found.append(CALLS / (time.perf_counter() - begin))
    return statistics.median(found)


def cold_manifest(vendor: ForgedNvidia) -> float:
    """Milliseconds to read a manifest for the first time: XML, signature, certificates."""
    found = []
    for number in range(ROUNDS):
        data = vendor.driver_rim(f"550.{number}.1")
        begin = time.perf_counter()
        rim.read_rim(data)
        found.append(1000 * (time.perf_counter() - begin))
    return statistics.median(found)


def run() -> dict[str, Any]:
    vendor = ForgedNvidia()
    one = [vendor.gpu()]
    node = vendor.node(8, 4)
    single = rate(judge(one, vendor.endorsements(one), GpuRules.from_json({"architectures": ["hopper"]})))
    demanded = {"architectures": ["hopper"], "count": 8, "modes": ["ppcie"], "switches": 4}
    whole = rate(judge(node, vendor.endorsements(node), GpuRules.from_json(demanded)))
    results: list[dict[str, Any]] = [
        {"name": "one GPU", "value": round(single), "unit": "/s", "higher_is_better": True, "target": TARGET},
        {"name": "8 GPUs and 4 switches: devices", "value": round(12 * whole), "unit": "/s", "higher_is_better": True,
         "target": TARGET},
        {"name": "8 GPUs and 4 switches: nodes", "value": round(whole), "unit": "/s", "higher_is_better": True},
        {"name": "a manifest, read for the first time", "value": round(cold_manifest(vendor), 1), "unit": "ms",
         "higher_is_better": False},
    ]  # fmt: skip
    return {
        "title": "A GPU's report judged on one core (form, nonce, signature, chain, firmware, OCSP, measurements by two manifests); "
        "certificates, OCSP answers and manifests seen before are remembered by their bytes.",
        "results": results,
    }
