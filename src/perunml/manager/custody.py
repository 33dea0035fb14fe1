"""Who keeps the manager's root key while the manager does not run, and what ``root.json`` then holds.

passphrase  whoever knows it; protects against a thief of the disk and against nobody who runs the machine
tpm         a TPM, in one state of the machine: `custody_tpm`
tee         the processor, for one measurement of what runs: `custody_tee`

A TPM and a TEE give a *sealing key* that nobody else can have had, so that what opens under it was also sealed by what
runs there: a root key that an operator chose beforehand does not pass for one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import ValidationError

from perunml.api.trust import Origin
from perunml.manager.codes import CUSTODY_ELSEWHERE, STATE_DAMAGED
from perunml.wire.canonical import canonical, load_json
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import PerunError, refuse
from perunml.wire.passphrase import open_with_passphrase, seal_with_passphrase

Kind = Literal["passphrase", "tpm", "tee"]
ROOT_LABEL = "perunml/manager-root"
"""Label of the sealed root key, whoever keeps it."""
FORMAT = "perunml/root-v1"
MAX_ROOT_FILE = 64 * 1024
_SALT, _NONCE = 32, 12


@dataclass(frozen=True, slots=True)
class Kept:
    """How a root key is kept, as the manager tells it under its evidence. `pcrs` are those that a TPM demands, `origin` the managers
    that had the key before; `counted`, which is not told: a counter goes with the store, and one without its record is not this one's."""

    kind: Kind = "passphrase"
    pcrs: tuple[int, ...] = ()
    origin: tuple[Origin, ...] = ()
    counted: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "pcrs": list(self.pcrs),
            "origin": [one.model_dump(mode="json") for one in self.origin],
        }


class Custody(Protocol):
    """Whoever keeps a root key."""

    @property
    def kept(self) -> Kept:
        """How a key that is sealed now will be kept."""
        ...

    def seal(self, root: bytes, origin: Sequence[Origin] = (), *, counted: bool = False) -> bytes:
        """What ``root.json`` holds. `origin` are the managers that had the key before, `counted` whether a counter goes with the store."""
        ...

    def open(self, data: bytes) -> tuple[bytes, Kept]:
        """The root key out of ``root.json``, and how it was kept."""
        ...


class Passphrase:
    """For development: who knows the passphrase has all of the manager's keys."""

    def __init__(self, passphrase: bytes) -> None:
        self._passphrase = passphrase

    @property
    def kept(self) -> Kept:
        return Kept()

    def seal(self, root: bytes, origin: Sequence[Origin] = (), *, counted: bool = False) -> bytes:
        """Where it came from is not kept: whoever knows the passphrase knows the key."""
        return seal_with_passphrase(root, self._passphrase, ROOT_LABEL)

    def open(self, data: bytes) -> tuple[bytes, Kept]:
        """Raises `IntegrityError` (unseal_failed), `UsageError` (malformed)."""
        return open_with_passphrase(data, self._passphrase, ROOT_LABEL), Kept()

    def __repr__(self) -> str:
        return "<Passphrase>"


def kind_of(folder: Path) -> Kind:
    """Who keeps the root key of a manager's folder. Raises `IntegrityError` (state_damaged)."""
    found = _document((folder / "root.json").read_bytes())
    kind: Kind = found["kind"] if found.get("format") == FORMAT else "passphrase"
    if kind not in ("passphrase", "tpm", "tee"):
        raise _damaged(str(kind))
    return kind


def seal_under(
    key: bytes, root: bytes, head: dict[str, Any], origin: Sequence[Origin] = (), counted: bool = False
) -> bytes:
    """``root.json``: `root` by AES-256-GCM under HKDF-SHA256 of the sealing `key` and a fresh salt (RFC 5869), bound to `head`,
    to its `origin`, and to whether it is `counted`."""
    head = {"format": FORMAT, "label": ROOT_LABEL, **head, "salt": b64(os.urandom(_SALT))}
    if origin:
        head["origin"] = [one.model_dump(mode="json") for one in origin]
    if counted:
        head["counted"] = True
    nonce = os.urandom(_NONCE)
    sealed = AESGCM(_wrapping_key(key, head)).encrypt(nonce, root, canonical(head))
    return canonical({**head, "nonce": b64(nonce), "sealed": b64(sealed)})


def read_head(data: bytes, kind: Kind, names: set[str]) -> dict[str, Any]:
    """The document, of this kind and with exactly these further members. Raises `IntegrityError` (state_damaged)."""
    found = _document(data)
    if set(found) - {"origin", "counted"} != {"format", "label", "kind", "salt", "nonce", "sealed", *names}:
        raise _damaged("other members")
    if (found["format"], found["label"], found["kind"]) != (FORMAT, ROOT_LABEL, kind):
        raise _damaged(str(found["kind"]))
    return found


def open_under(key: bytes, document: dict[str, Any], where: str) -> bytes:
    """The root key again. Raises `IntegrityError` (custody_elsewhere)."""
    head = {name: value for name, value in document.items() if name not in ("nonce", "sealed")}
    try:
        nonce, sealed = unb64(document["nonce"], size=_NONCE), unb64(document["sealed"])
        return AESGCM(_wrapping_key(key, head)).decrypt(nonce, sealed, canonical(head))
    except (InvalidTag, PerunError, TypeError):
        raise refuse(
            CUSTODY_ELSEWHERE, f"root.json does not open under this {where}'s key: it is another's, or was altered"
        ) from None


def kept_as(document: dict[str, Any], kind: Kind, pcrs: tuple[int, ...] = ()) -> Kept:
    """How the key of a document that has opened is kept. Raises `IntegrityError` (state_damaged)."""
    try:
        origin = tuple(Origin.model_validate(one) for one in document.get("origin", []))
        return Kept(kind, pcrs, origin, document.get("counted", False) is not False)
    except (ValidationError, TypeError):
        raise _damaged("an origin of another form") from None


def _wrapping_key(key: bytes, head: dict[str, Any]) -> bytes:
    return HKDF(hashes.SHA256(), 32, unb64(head["salt"], size=_SALT), canonical({"label": ROOT_LABEL})).derive(key)


def _document(data: bytes) -> dict[str, Any]:
    try:
        found = load_json(data, limit=MAX_ROOT_FILE)
    except PerunError:
        found = None
    if not isinstance(found, dict):
        raise _damaged("no JSON object")
    return found


def _damaged(seen: str) -> PerunError:
    return refuse(STATE_DAMAGED, "root.json is not a sealed root key of this version", seen=seen)
