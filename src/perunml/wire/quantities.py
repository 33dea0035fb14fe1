"""Sizes (``500MiB``), durations (``8h``) and rates (``10000/day``) as people write them."""

from __future__ import annotations

import re

from perunml.wire.canonical import MAX_SAFE_INTEGER
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse

_SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WINDOWS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_NUMBER = re.compile(r"([1-9][0-9]{0,11}|0)([A-Za-z]+)")
_RATE = re.compile(r"([1-9][0-9]{0,11}|0)/([a-z]+)")


def parse_size(text: str) -> int:
    """Bytes of ``500MiB``. Raises `UsageError` (malformed)."""
    return _scaled(text, _SIZES, "size", "500MiB")


def parse_duration(text: str) -> int:
    """Seconds of ``8h``. Raises `UsageError` (malformed)."""
    return _scaled(text, _SPANS, "duration", "30s, 8h")


def parse_rate(text: str) -> tuple[int, int]:
    """(count, window in seconds) of ``10000/day``. Raises `UsageError` (malformed)."""
    found = _RATE.fullmatch(text) if isinstance(text, str) else None
    if not found or found[2] not in _WINDOWS:
        raise refuse(MALFORMED, "not a rate", expected="as 10000/day", seen=str(text))
    return int(found[1]), _WINDOWS[found[2]]


def format_size(size: int) -> str:
    """``1.5 MiB``: for people, not for documents."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _scaled(text: str, units: dict[str, int], what: str, example: str) -> int:
    found = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    if not found or found[2] not in units:
        raise refuse(MALFORMED, f"not a {what}", expected=f"as {example}", seen=str(text))
    value = int(found[1]) * units[found[2]]
    if value > MAX_SAFE_INTEGER:
        raise refuse(MALFORMED, f"a {what} past 2^53", seen=text)
    return value
