"""Vendors' collateral that a party judges a manager's TEE with: of its own, or what the manager hands out.

Each statement in it is signed by its vendor and judged so, by the party's own clock; who collected it is of no weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perunml.api.trust import MAX_COLLATERAL
from perunml.evidence.endorsements import Collateral
from perunml.wire.canonical import canonical, load_json
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import Envelope
from perunml.wire.errors import refuse

KIND = "Collateral"
MAX_FILE = 64 * 1024 * 1024
_LISTS = ("dcap", "certificates", "crls", "rims", "ocsp")


def read_collateral(data: bytes) -> Collateral:
    """Out of a bundle of `perunml collateral bundle`, an envelope. Raises `UsageError` (malformed), `IntegrityError`
    (wrong_payload_type)."""
    body = Envelope.from_json(load_json(data, limit=2 * MAX_FILE)).unverified(KIND, limit=MAX_FILE)
    return Collateral.from_json({name: value for name, value in body.items() if name not in ("apiVersion", "kind")})


def joined(sets: Sequence[Collateral]) -> Collateral:
    """All of them in one, each item once."""
    lists: dict[str, Any] = {
        name: tuple(dict.fromkeys(item for one in sets for item in getattr(one, name))) for name in _LISTS
    }
    return Collateral(max((one.made for one in sets), default=0), **lists)


def from_manager(told: dict[str, Any] | None) -> Collateral:
    """What the manager hands out, or nothing. Raises `UsageError` (malformed) where that is more than `MAX_COLLATERAL`, or of no
    form."""
    if told is None:
        return Collateral()
    if len(canonical(told)) > MAX_COLLATERAL:
        raise refuse(MALFORMED, "the manager hands out too much collateral", expected=f"{MAX_COLLATERAL} bytes")
    return Collateral.from_json(told)
