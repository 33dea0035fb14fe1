"""One forged vendor for all tests of NVIDIA's evidence, and the shortest way to ask what a machine of its devices is worth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from perunml.evidence.endorsements import Endorsements
from perunml.evidence.nvidia.appraise import appraise_gpus
from perunml.evidence.nvidia.rules import GpuRules
from perunml.evidence.nvidia.verify import GpuReport, verify_gpu
from perunml.evidence.parts import GpuPart
from perunml.evidence.types import Verified
from perunml.testing.nvidia import ForgedDevice, ForgedNvidia
from perunml.testing.nvidia_pki import NOW
from perunml.wire.errors import EvidenceRefusal
from perunml.wire.rules import Reason

NONCE = b"\x4e" * 32
ONE: dict[str, Any] = {"architectures": ["hopper"]}
"""The rules that a single GPU meets."""
NODE: dict[str, Any] = {"architectures": ["hopper"], "count": 2, "modes": ["ppcie"], "switches": 1}
"""The rules that the forge's node meets."""


@cache
def vendor() -> ForgedNvidia:
    return ForgedNvidia()


@cache
def card() -> ForgedDevice:
    """An honest GPU: not to be changed."""
    return vendor().gpu()


@cache
def honest() -> Endorsements:
    """What the honest GPU is judged by."""
    return vendor().endorsements([card()])


def verify(part: GpuPart, endorsements: Endorsements | None = None, now: int = NOW) -> Verified[GpuReport]:
    return verify_gpu(part, endorsements or honest(), nonce=NONCE, now=now)


def refused(part: GpuPart, endorsements: Endorsements | None = None, now: int = NOW) -> list[str]:
    """The codes that verification refuses a part with, sorted; empty when it does not."""
    try:
        verify(part, endorsements, now)
    except EvidenceRefusal as exc:
        return sorted({reason.code for reason in exc.reasons})
    return []


def reasons(
    devices: Sequence[ForgedDevice],
    rules: dict[str, Any] = ONE,
    endorsements: Endorsements | None = None,
    now: int = NOW,
) -> tuple[Reason, ...]:
    """Why the rules are not met by devices that are verified first."""
    known = endorsements if endorsements is not None else vendor().endorsements(devices)
    gpus = [verify(device.report(NONCE), known, now) for device in devices]
    return appraise_gpus(gpus, GpuRules.from_json(rules), endorsements=known, now=now)


def codes(
    devices: Sequence[ForgedDevice],
    rules: dict[str, Any] = ONE,
    endorsements: Endorsements | None = None,
    now: int = NOW,
) -> list[str]:
    return sorted({reason.code for reason in reasons(devices, rules, endorsements, now)})
