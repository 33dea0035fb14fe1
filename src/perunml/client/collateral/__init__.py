"""Bundles of vendors' collateral (docs/spec/collateral.md): collected from the vendors' services or from files, signed, read again.

Only whoever makes a bundle asks anybody. Judging evidence reads bundles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perunml.client.codes import LOCAL_FILE
from perunml.client.collateral.codes import COLLATERAL_LACKING
from perunml.client.collateral.show import Item, describe, first_to_end, past
from perunml.client.collateral.sort import sort_files
from perunml.client.collateral.wanted import Wanted, fetch, joined, read_wanted
from perunml.client.collateral.web import Services, Web
from perunml.evidence import pem
from perunml.evidence.endorsements import KIND, MAX_BUNDLE, MAX_ITEM, MAX_ITEMS, Collateral
from perunml.wire.canonical import load_json
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey, Signer

MAX_FILES = 4096
LISTS = ("dcap", "certificates", "crls", "rims", "ocsp")

__all__ = [
    "LISTS", "Bundle", "Item", "Services", "Wanted", "describe", "first_to_end", "make_bundle", "past", "read_bundle", "read_wanted",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bundle:
    """A signed set. `signers` are texts of keys whose signatures verify; whether one may sign is for the manager. `left_out`
    pairs names of files with why they were of no use."""

    envelope: Envelope
    collateral: Collateral
    signers: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...] = ()


def make_bundle(
    wanted: Wanted, signer: Signer, *, now: int, folder: Path | None = None, services: Services | None = None
) -> Bundle:
    """Collect at `now` (seconds since 1970) and sign: from the vendors' `services`, or without a network from the files of a
    `folder`, which may hold more than is wanted. Raises `Unreachable` (vendor_answer), `UsageError` (collateral_lacking,
    local_file, extra_missing)."""
    left_out: tuple[tuple[str, str], ...] = ()
    if folder is not None:
        pile = sort_files(_files(folder))
        collateral, left_out = joined(wanted, pile, now), tuple(pile.left_out)
    else:
        with Web(services or Services()) as web:
            collateral = fetch(wanted, web, now)
    found = [item for name in LISTS for item in getattr(collateral, name)]
    if not found:
        raise refuse(
            COLLATERAL_LACKING, "nothing to collect was named, or nothing was found", expected="--quote, --report, …"
        )
    if max(map(len, found)) > MAX_ITEM or any(len(getattr(collateral, name)) > MAX_ITEMS for name in LISTS):
        raise refuse(
            COLLATERAL_LACKING, "more than a bundle holds: make several", expected=f"{MAX_ITEMS} items of a kind"
        )
    envelope = signed(KIND, collateral.as_json(), signer)
    if len(envelope.payload) > MAX_BUNDLE:
        raise refuse(COLLATERAL_LACKING, "more than a bundle holds: make several", expected=f"{MAX_BUNDLE} bytes")
    return Bundle(envelope, collateral, (signer.public.text,), left_out)


def read_bundle(data: bytes) -> Bundle:
    """Raises `UsageError` (malformed), `IntegrityError` (bad_signature, wrong_payload_type): a signature that is there is bad,
    or none is there."""
    envelope = Envelope.from_json(load_json(data, limit=2 * MAX_BUNDLE))
    keys = envelope.verify(KIND, [PublicKey(text) for text, _ in envelope.signatures])
    body = envelope.unverified(KIND, limit=MAX_BUNDLE)
    collateral = Collateral.from_json({name: body[name] for name in body if name not in ("apiVersion", "kind")})
    return Bundle(envelope, collateral, tuple(sorted(key.text for key in keys)))


def _files(folder: Path) -> Sequence[tuple[str, bytes]]:
    try:
        paths = [path for path in sorted(folder.iterdir())[:MAX_FILES] if path.is_file()]
        found = []
        for path in paths:
            with path.open("rb") as file:
                found.append((path.name, file.read(pem.MAX_FILE + 1)))
    except OSError as exc:
        raise refuse(LOCAL_FILE, exc.strerror or type(exc).__name__, seen=str(exc.filename or folder)) from None
    return found
