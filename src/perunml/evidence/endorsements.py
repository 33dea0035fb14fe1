"""What vendors say about their hardware, as a verifier holds it: certificates, revocation lists, TCB levels, reference
values. All of it is signed by the vendors; nothing is fetched while evidence is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from perunml.wire.codes import MALFORMED
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import refuse
from perunml.wire.timestamps import format_time, parse_time

KIND = "Collateral"
"""Of the signed document (DSSE) that holds one set."""
MAX_BUNDLE = 64 * 1024 * 1024
"""Bytes of its payload: a fleet's certificates and manifests."""
MAX_ITEMS = 4096
"""Members of one list: a fleet's VCEKs, one for each chip and TCB."""
MAX_ITEM = 1024 * 1024
"""Bytes of one member; a vendor's largest revocation list has some hundred thousand."""
MAX_NUMBER = 2**53 - 1
"""The largest number that is told apart, which is the largest in canonical JSON; a revocation list's may have 20 octets (RFC 5280, 5.2.3)."""


@dataclass(frozen=True, slots=True)
class Collateral:
    """One dated set of endorsements (RFC 9334, 7.3).

    made          seconds since 1970 at which it was collected
    dcap          Intel's collateral, each in dcap-qvl's JSON form: TCB info, QE identity, CRLs, issuer chains
    certificates  AMD's: VCEK, VLEK, ASK, ASVK, ARK (DER)
    crls          revocation lists (DER)
    rims          NVIDIA's reference integrity manifests (SWID tags, XML)
    ocsp          OCSP responses (DER, RFC 6960)
    """

    made: int = 0
    dcap: tuple[bytes, ...] = ()
    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    rims: tuple[bytes, ...] = ()
    ocsp: tuple[bytes, ...] = ()

    def as_json(self) -> dict[str, Any]:
        lists = {name: [b64(item) for item in getattr(self, name)] for name in _LISTS}
        return {"made": format_time(self.made), **lists}

    @classmethod
    def from_json(cls, data: Any) -> Collateral:
        """Raises `UsageError` (malformed)."""
        if not isinstance(data, dict) or set(data) != {"made", *_LISTS} or not isinstance(data["made"], str):
            raise refuse(MALFORMED, "not a set of collateral", expected=", ".join(("made", *_LISTS)))
        return cls(parse_time(data["made"]), *(_items(name, data[name]) for name in _LISTS))


_LISTS = ("dcap", "certificates", "crls", "rims", "ocsp")


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest collateral that was judged by before: its number (tcbEvaluationDataNumber, crlNumber) and when its vendor
    issued it (seconds since 1970). Older collateral is refused, however validly signed."""

    number: int
    issued: int

    def __post_init__(self) -> None:
        # cut here and nowhere else, so that what was kept and what is shown are cut alike: then the date decides
        object.__setattr__(self, "number", min(self.number, MAX_NUMBER))


@dataclass(frozen=True, slots=True)
class Endorsements:
    """What evidence of vendors' hardware is judged with.

    collateral       the vendors' statements
    simulated_roots  development roots (DER). What leads to one is `simulated`, whatever it shows; there are none by default
    seen             name (``tdx:50806F000000``, ``crl:…``) -> the newest collateral judged by before
    """

    collateral: Collateral = field(default_factory=Collateral)
    simulated_roots: tuple[bytes, ...] = ()
    seen: Mapping[str, Seen] = field(default_factory=dict)


def _items(name: str, data: Any) -> tuple[bytes, ...]:
    if not isinstance(data, list) or len(data) > MAX_ITEMS:
        raise refuse(MALFORMED, f"`{name}` is a list of at most {MAX_ITEMS}")
    found = []
    for text in data:
        if not isinstance(text, str) or len(text) > (MAX_ITEM * 4 + 2) // 3:
            raise refuse(MALFORMED, f"an item of `{name}` is base64url of at most {MAX_ITEM} bytes")
        found.append(unb64(text))
    return tuple(found)
