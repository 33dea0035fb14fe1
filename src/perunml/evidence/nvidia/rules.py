"""What a profile demands of NVIDIA's devices, as an agreement writes it.

Every member is optional, and a default is never written: one spelling per meaning. The default demands one GPU, no switch, and
excuses nothing. An architecture that is not named is refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from perunml.evidence.nvidia.fields import CC, MODES, MPT, SPT
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import PerunError, refuse
from perunml.wire.quantities import parse_duration
from perunml.wire.timestamps import format_time, parse_time

MAX_GPUS, MAX_SWITCHES = 16, 16
"""Devices of one node: the largest have 16 GPUs, and fewer switches."""
MAX_LISTED = 256
"""Versions in one list."""
NAMES = ("blackwell", "hopper")
"""Architectures of GPUs; switches are demanded by their number."""
DEFAULT_MODES = frozenset({CC, MPT, SPT})
"""Modes in which all memory and links of the GPU are protected; protected PCIe leaves NVLink in the clear, and has to be named."""
OCSP = "ocsp"
"""What is excused where OCSP's answers are missing or too old."""
_VERSION = re.compile(r"[0-9A-F]{1,8}(\.[0-9A-F]{1,8}){1,7}")
_EXCUSABLE = re.compile(r"ocsp|(driver|vbios):[0-9A-F]{1,8}(\.[0-9A-F]{1,8}){1,7}")
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


@dataclass(frozen=True, slots=True)
class GpuRules:
    """What the devices of one machine must be.

    count          GPUs, exactly; each counts once
    switches       NVSwitches, exactly; where there are any, they and the GPUs must be wired to one another and to nothing else
    architectures  of the GPUs: ``hopper``, ``blackwell``
    drivers        versions admitted; any that has a signed manifest where none is listed
    vbios          firmware versions admitted, of GPUs and switches alike
    min_driver     the lowest driver version admitted, or empty
    modes          see `fields.MODES`
    max_age        seconds that an OCSP answer may be old, instead of its own nextUpdate; 0: its nextUpdate
    excused        what need not be there, and until when (seconds since 1970): ``driver:<version>`` or ``vbios:<version>`` for a
                   reference manifest, ``ocsp`` for OCSP's answers. Without a manifest nothing is known of that firmware, nor
                   whether it is a development one
    """

    count: int = 1
    switches: int = 0
    architectures: frozenset[str] = frozenset()
    drivers: frozenset[str] = frozenset()
    vbios: frozenset[str] = frozenset()
    min_driver: str = ""
    modes: frozenset[str] = DEFAULT_MODES
    max_age: int = 0
    excused: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def as_json(self) -> dict[str, Any]:
        plain = GpuRules()
        return {
            f.name: _WRITERS.get(f.name, _same)(value)
            for f in fields(self)
            if (value := getattr(self, f.name)) != getattr(plain, f.name)
        }

    @classmethod
    def from_json(cls, data: Any) -> GpuRules:
        """Raises `UsageError` (malformed) for an unknown member, a wrong type, an unsorted list, or a default written out."""
        if not isinstance(data, dict):
            raise _bad("`gpu` is an object", str(type(data).__name__))
        for name in data:
            if name not in _READERS:
                near = difflib.get_close_matches(str(name), _READERS, 1) or sorted(_READERS)
                raise _bad("`gpu` has no such member", str(name), expected=", ".join(near))
        found = cls(**{name: _READERS[name](name, value) for name, value in data.items()})
        plain = cls()
        for name in data:
            if getattr(found, name) == getattr(plain, name):
                raise _bad(f"`{name}` is left out where it has its default", str(data[name]))
        return found

    def excuses(self, what: str, now: int) -> bool:
        """Whether `what` (see `excused`) need not be there at `now`."""
        return self.excused.get(what, 0) > now


def version_key(version: str) -> tuple[int, ...]:
    """Driver versions in their order: ``550.90.07`` before ``550.144.03``. Raises `ValueError` for one that is not of digits."""
    return tuple(int(part) for part in version.split("."))


def _same(value: Any) -> Any:
    return value


def _span(seconds: int) -> str:
    """The largest unit that divides it: one spelling."""
    size, unit = next((size, unit) for size, unit in _UNITS if seconds % size == 0)
    return f"{seconds // size}{unit}"


_WRITERS: dict[str, Callable[[Any], Any]] = {
    "architectures": sorted,
    "drivers": sorted,
    "vbios": sorted,
    "modes": sorted,
    "max_age": _span,
    "excused": lambda found: {what: format_time(until) for what, until in sorted(found.items())},
}


def _count(most: int, least: int) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _bad(f"`{name}` is a number of {least} to {most}", str(value))
        return value

    return read


def _names(known: tuple[str, ...]) -> Callable[[str, Any], frozenset[str]]:
    def read(name: str, value: Any) -> frozenset[str]:
        for item in _list(name, value):
            if item not in known:
                near = difflib.get_close_matches(str(item), known, 1) or known
                raise _bad(f"`{name}` has an unknown item", str(item), expected=", ".join(near))
        return frozenset(value)

    return read


def _versions(name: str, value: Any) -> frozenset[str]:
    for item in _list(name, value):
        if not isinstance(item, str) or not _VERSION.fullmatch(item):
            raise _bad(f"`{name}` has something else than a version", str(item), expected="550.90.07, 96.00.9F.00.01")
    return frozenset(value)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_LISTED or not all(isinstance(i, str) for i in value):
        raise _bad(f"`{name}` is a list of 1 to {MAX_LISTED} texts", str(type(value).__name__))
    if sorted(set(value)) != value:
        raise _bad(f"`{name}` is sorted, each item once", ", ".join(value))
    return value


def _driver(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,8}(\.[0-9]{1,8}){1,7}", value):
        raise _bad(f"`{name}` is a driver's version", str(value), expected="550.90.07")
    return value


def _age(name: str, value: Any) -> int:
    seconds = parse_duration(value)
    if not seconds or _span(seconds) != value:
        raise _bad(f"`{name}` is a duration in its largest unit", str(value), expected=_span(seconds or 86400))
    return seconds


def _excused(name: str, value: Any) -> Mapping[str, int]:
    if not isinstance(value, dict) or not 0 < len(value) <= MAX_LISTED:
        raise _bad(f"`{name}` is an object: what is excused, until when", str(type(value).__name__))
    for what in value:
        if not isinstance(what, str) or not _EXCUSABLE.fullmatch(what):
            raise _bad(
                f"`{name}` excuses what cannot be", str(what), expected="driver:<version>, vbios:<version>, ocsp"
            )
    return MappingProxyType({what: parse_time(until) for what, until in value.items()})


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "count": _count(MAX_GPUS, 1),
    "switches": _count(MAX_SWITCHES, 0),
    "architectures": _names(NAMES),
    "drivers": _versions,
    "vbios": _versions,
    "min_driver": _driver,
    "modes": _names(MODES),
    "max_age": _age,
    "excused": _excused,
}


def _bad(why: str, seen: str, *, expected: str = "") -> PerunError:
    return refuse(MALFORMED, why, expected=expected, seen=seen)
