"""Readers of members that several parts of a bundle have. Each raises `UsageError` (malformed)."""

from __future__ import annotations

from typing import Any

from perunml.wire.codes import MALFORMED
from perunml.wire.encoding import unb64
from perunml.wire.errors import refuse

MAX_EVENT_LOG = 1024 * 1024
"""Bytes of a boot log: firmware reserves 64 KiB to 256 KiB."""
MAX_CMDLINE = 4096
"""Characters; Linux's COMMAND_LINE_SIZE is 2,048 on x86 and arm64."""


def members(data: Any, names: set[str]) -> None:
    """`data` is an object with exactly these members."""
    if not isinstance(data, dict) or set(data) != names:
        seen = sorted(str(k) for k in data) if isinstance(data, dict) else type(data).__name__
        raise refuse(MALFORMED, "evidence has other members", expected=", ".join(sorted(names)), seen=str(seen))


def blob(data: dict[str, Any], name: str, limit: int) -> bytes:
    """base64url of at most `limit` bytes."""
    found = data[name]
    if not isinstance(found, str) or len(found) > (limit * 4 + 2) // 3:
        raise refuse(MALFORMED, f"{name} is base64url of at most {limit} bytes")
    return unb64(found)


def text(data: dict[str, Any], name: str, limit: int) -> str:
    """At most `limit` characters."""
    found = data[name]
    if not isinstance(found, str) or len(found) > limit:
        raise refuse(MALFORMED, f"{name} is a text of at most {limit} characters")
    return found


def cmdline(found: Any) -> str:
    """A kernel's command line."""
    return text({"cmdline": found}, "cmdline", MAX_CMDLINE)
