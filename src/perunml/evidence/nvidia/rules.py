"""What a profile demands of NVIDIA's devices, as an agreement writes it.

Every member is optional, and a default is never written: one spelling per meaning. The default demands one GPU, no switch, and
excuses nothing. An architecture that is not named is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perunml.evidence.nvidia.fields import CC, MODES, MPT, SPT
from perunml.evidence.tee.rules import (
    DURATION,
    EMPTY_TABLE,
    Form,
    Rules,
    number,
    rule,
    seconds,
    table,
    word,
    words,
)
from perunml.wire.timestamps import format_time, parse_time

MAX_GPUS, MAX_SWITCHES = 16, 16
"""Devices of one node: the largest have 16 GPUs, and fewer switches."""
NAMES = ("blackwell", "hopper")
"""Architectures of GPUs; switches are demanded by their number."""
DEFAULT_MODES = frozenset({CC, MPT, SPT})
"""Modes in which all memory and links of the GPU are protected; protected PCIe leaves NVLink in the clear, and has to be named."""
OCSP = "ocsp"
"""What is excused where OCSP's answers are missing or too old."""
_VERSION = r"[0-9A-F]{1,8}(\.[0-9A-F]{1,8}){1,7}"
_DRIVER = r"[0-9]{1,8}(\.[0-9]{1,8}){1,7}"
_EXCUSABLE = re.compile(rf"ocsp|(driver|vbios):{_VERSION}")


def _excusable(name: str) -> str:
    if not _EXCUSABLE.fullmatch(name):
        raise ValueError
    return name


def _until(value: Any) -> int:
    if not isinstance(value, str):
        raise ValueError
    return parse_time(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_GPUS:
        raise ValueError
    return value


_COUNT = Form(_count, lambda value: value, f"a whole number from 1 to {MAX_GPUS}")
_UNTIL = Form(_until, format_time, "driver:<version>, vbios:<version> or ocsp, and times as 2027-06-30T00:00:00Z")
_VERSIONS = words(_VERSION, "versions as 550.90.07 or 96.00.9F.00.01")


@dataclass(frozen=True, slots=True)
class GpuRules(Rules):
    """What the devices of one machine must be.

    count          GPUs, exactly; each counts once
    switches       NVSwitches, exactly; where there are any, they and the GPUs must be wired to one another and to nothing else
    architectures  of the GPUs: ``hopper``, ``blackwell``
    drivers        versions admitted; any that has a signed manifest where none is listed
    vbios          firmware versions admitted, of GPUs and switches alike
    min_driver     the lowest driver version admitted, or empty
    modes          see `fields.MODES`
    max_age        how old an OCSP answer may be (``7d``), instead of its own nextUpdate; empty: until its nextUpdate
    excused        what need not be there, and until when (seconds since 1970): ``driver:<version>`` or ``vbios:<version>`` for a
                   reference manifest, ``ocsp`` for OCSP's answers. Without a manifest nothing is known of that firmware, nor
                   whether it is a development one
    """

    count: int = rule(_COUNT, 1)
    switches: int = rule(number(MAX_SWITCHES), 0)
    architectures: frozenset[str] = rule(words("|".join(NAMES), "architectures: " + ", ".join(NAMES)), frozenset())
    drivers: frozenset[str] = rule(_VERSIONS, frozenset())
    vbios: frozenset[str] = rule(_VERSIONS, frozenset())
    min_driver: str = rule(word(_DRIVER, "a driver's version as 550.90.07"), "")
    modes: frozenset[str] = rule(words("|".join(MODES), "modes: " + ", ".join(MODES)), DEFAULT_MODES)
    max_age: str = rule(DURATION, "")
    excused: Mapping[str, int] = rule(table(_excusable, _UNTIL), EMPTY_TABLE)

    def excuses(self, what: str, now: int) -> bool:
        """Whether `what` (see `excused`) need not be there at `now`."""
        return bool(self.excused.get(what, 0) > now)

    def oldest(self, now: int) -> int | None:
        """Seconds since 1970 before which an OCSP answer is too old, or None: its own date says it."""
        return now - seconds(self.max_age) if self.max_age else None


def version_key(version: str) -> tuple[int, ...]:
    """Driver versions in their order: ``550.90.07`` before ``550.144.03``. Raises `ValueError` for one that is not of digits."""
    return tuple(int(part) for part in version.split("."))
