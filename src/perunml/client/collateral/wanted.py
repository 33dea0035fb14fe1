"""What a bundle is to be made for: kinds of platforms, chips, devices, manifests; told by evidence or by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509
from cryptography.x509 import ocsp

from perunml.client.collateral.amd import Chips, chip_of, common_name, fetch_amd, read_product
from perunml.client.collateral.codes import COLLATERAL_LACKING
from perunml.client.collateral.intel import Platform, fetch_dcap, platform_of, read_platform
from perunml.client.collateral.nvidia import fetch_ocsp, fetch_rim, pairs, read_devices, read_name
from perunml.client.collateral.sort import Pile
from perunml.client.collateral.web import Web
from perunml.evidence.dcap.collateral import read_collateral
from perunml.evidence.endorsements import Collateral
from perunml.evidence.nvidia.rim import read_rim
from perunml.evidence.snp.keys import read_key
from perunml.evidence.x509 import read_certificate
from perunml.wire.errors import PerunError, error
from perunml.wire.rules import Reason

T = TypeVar("T")
MAX_HEX = 64 * 1024
"""Characters of a quote or report in hex."""
Pair = tuple[x509.Certificate, x509.Certificate]
"""A certificate and its issuer."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Kinds of platforms (Intel), chips and product lines (AMD), names of manifests and certificates to ask about (NVIDIA)."""

    platforms: tuple[Platform, ...] = ()
    chips: tuple[Chips, ...] = ()
    rims: tuple[str, ...] = ()
    asked: tuple[Pair, ...] = ()


def read_wanted(
    quotes: Iterable[bytes] = (),
    fmspcs: Iterable[str] = (),
    reports: Iterable[bytes] = (),
    products: Sequence[str] = (),
    certs: Iterable[bytes] = (),
    rim_ids: Iterable[str] = (),
) -> Wanted:
    """From evidence in files (bytes, or hex of them) and names. Raises with every reason why one of them cannot be told."""
    reasons: list[Reason] = []

    def each(read: Callable[..., T], given: Iterable[object], *more: object) -> list[T]:
        return [found for one in given if (found := _attempt(reasons, read, one, *more)) is not None]

    # a product line that is named beside reports is that of those which do not tell theirs
    line = products[0] if len(products) == 1 else ""
    platforms = [*each(platform_of, map(_unhex, quotes)), *each(read_platform, fmspcs)]
    chips = [*each(chip_of, map(_unhex, reports), line), *each(read_product, products)]
    devices = [device for listed in each(read_devices, certs) for device in listed]
    names = each(read_name, rim_ids)
    if reasons:
        raise error(reasons)
    names += [name for device in devices for name in device.rims]
    # a device issues its leaf itself: nobody answers for that one
    asked = [pair for device in devices for pair in pairs(device.chain, 1)]
    return Wanted(_distinct(platforms), _distinct(chips), _distinct(names), _distinct(asked))


def fetch(wanted: Wanted, web: Web, now: int) -> Collateral:
    """Everything from the vendors' services at `now` (seconds since 1970). Raises `Unreachable` (vendor_answer) with every
    reason: all of it, or nothing."""
    reasons: list[Reason] = []
    dcap = [_attempt(reasons, fetch_dcap, platform, web) for platform in wanted.platforms]
    amd = [_attempt(reasons, fetch_amd, chips, web) for chips in wanted.chips]
    rims = [_attempt(reasons, fetch_rim, name, web) for name in wanted.rims]
    signers = [pair for rim in rims if rim is not None for pair in pairs(read_rim(rim).chain, 0)]
    answers = [_attempt(reasons, fetch_ocsp, one, issuer, web) for one, issuer in _distinct([*wanted.asked, *signers])]
    if reasons:
        raise error(dict.fromkeys(reasons))
    return Collateral(
        now,
        _once(dcap),
        _once(der for found in amd if found is not None for der in found[0]),
        _once(found[1] for found in amd if found is not None),
        _once(rims),
        _once(answers),
    )


def joined(wanted: Wanted, pile: Pile, now: int) -> Collateral:
    """What lay in files. Raises `UsageError` (collateral_lacking) with everything wanted that they do not hold."""
    reasons = [Reason(COLLATERAL_LACKING, f"the folder has nothing for {what}") for what in _missing(wanted, pile)]
    if reasons:
        raise error(reasons)
    return Collateral(
        now, _once(pile.dcap), _once(pile.certificates), _once(pile.crls), _once(pile.rims), _once(pile.ocsp)
    )


def _missing(wanted: Wanted, pile: Pile) -> list[str]:
    items = [read_collateral(item) for item in pile.dcap]
    names = {common_name(der) for der in pile.certificates}
    chips = {read_key(read_certificate(der)).hardware.hex() for der in pile.certificates}
    serials = {ocsp.load_der_ocsp_response(answer).serial_number for answer in pile.ocsp}
    versions = {f"{rim.product}_{rim.version}" for rim in map(read_rim, pile.rims)}
    found = [str(platform) for platform in wanted.platforms if not any(map(platform.is_of, items))]
    for one in wanted.chips:
        authority = f"SEV-VLEK-{one.product}" if one.vlek else f"SEV-{one.product}"
        if not {authority, f"ARK-{one.product}"} <= names or (one.chip and one.chip not in chips):
            found.append(str(one))
    # a manifest's name ends in what it is of: product and version of a driver, version without dots of a firmware
    endings = {v.replace(".", "").rpartition("_")[2] for v in versions}
    found += [n for n in wanted.rims if not n.endswith(tuple(versions)) and n.rpartition("_")[2] not in endings]
    return found + [one.subject.rfc4514_string() for one, _ in wanted.asked if one.serial_number not in serials]


def _attempt(reasons: list[Reason], read: Callable[..., T], *given: object) -> T | None:
    """What `read` gives, or None when it refuses; its reasons are kept."""
    try:
        return read(*given)
    except PerunError as exc:
        reasons += exc.reasons
        return None


def _unhex(data: bytes) -> bytes:
    """The bytes as they are, or what they spell in hex."""
    try:
        return bytes.fromhex(data.decode("ascii")) if len(data) <= MAX_HEX else data
    except ValueError:
        return data


def _distinct(found: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(found))


def _once(found: Iterable[bytes | None]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(item for item in found if item is not None))
