"""Says what a bundle holds: each item, from when until when it holds, and which ends first."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import ocsp

from perunml.client.collateral.amd import common_name
from perunml.evidence.dcap.collateral import read_collateral
from perunml.evidence.endorsements import Collateral
from perunml.evidence.nvidia.rim import read_rim
from perunml.evidence.x509 import read_certificate, read_crl
from perunml.wire.errors import PerunError
from perunml.wire.rules import printable
from perunml.wire.timestamps import format_time

LAST = 253_402_300_799
"""9999-12-31T23:59:59Z, the last time that certificates can name (RFC 5280, 4.1.2.5)."""


@dataclass(frozen=True, slots=True)
class Item:
    """One statement of a vendor. `until` is None where it has no end; both times are 0 and None where it cannot be read."""

    kind: str
    what: str
    issued: int
    until: int | None

    def as_json(self) -> dict[str, str | None]:
        until = format_time(min(self.until, LAST)) if self.until is not None else None
        return {"kind": self.kind, "what": self.what, "issued": format_time(self.issued), "until": until}


def describe(collateral: Collateral) -> list[Item]:
    """Every item, in the order of the bundle. Whether it is genuine is judged with the evidence, never here."""
    readers: dict[str, Callable[[bytes], Item]] = {
        "dcap": _dcap,
        "certificates": _certificate,
        "crls": _crl,
        "rims": _rim,
        "ocsp": _ocsp,
    }
    return [_read(reader, name, data) for name, reader in readers.items() for data in getattr(collateral, name)]


def first_to_end(items: list[Item]) -> Item | None:
    """The item that ends first."""
    return min((item for item in items if item.until is not None), key=lambda item: item.until or 0, default=None)


def past(items: list[Item], now: int) -> Iterator[Item]:
    """Those that hold no more at `now` (seconds since 1970)."""
    return (item for item in items if item.until is not None and item.until < now)


def _read(reader: Callable[[bytes], Item], name: str, data: bytes) -> Item:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return reader(data)
    except (PerunError, ValueError) as exc:
        why = exc.reasons[0].message if isinstance(exc, PerunError) else type(exc).__name__
        return Item(name, f"cannot be read: {why}", 0, None)


def _dcap(data: bytes) -> Item:
    found = read_collateral(data)
    issuer = printable(found.issuer.partition("CN=")[2].partition(",")[0], 64)
    what = f"{found.tee} {found.fmspc}, {issuer}: TCB {found.number}, QE {found.qe_number}"
    return Item("dcap", what, found.collected, found.until)


def _certificate(data: bytes) -> Item:
    found = read_certificate(data)
    about = f"{printable(common_name(data), 64)}, serial {found.serial_number:x}"
    begin, end = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    return Item("certificates", about, int(begin), int(end))


def _crl(data: bytes) -> Item:
    crl = read_crl(data).crl
    until = crl.next_update_utc
    what = f"{printable(crl.issuer.rfc4514_string(), 128)}: {len(crl)} revoked"
    return Item("crls", what, int(crl.last_update_utc.timestamp()), int(until.timestamp()) if until else None)


def _rim(data: bytes) -> Item:
    found = read_rim(data)
    begin = found.chain[0].not_valid_before_utc.timestamp()
    end = min(each.not_valid_after_utc.timestamp() for each in found.chain)
    return Item("rims", f"{found.edition} {found.product} {found.version}", int(begin), int(end))


def _ocsp(data: bytes) -> Item:
    found = ocsp.load_der_ocsp_response(data)
    until = found.next_update_utc
    what = f"certificate {found.serial_number:x}: {found.certificate_status.name.lower()}"
    return Item("ocsp", what, int(found.this_update_utc.timestamp()), int(until.timestamp()) if until else None)
