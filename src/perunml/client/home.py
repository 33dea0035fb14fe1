"""A party's folder: identity, pinned managers, sealed assets, agreements and the ledger as last seen.

    identity.json            both private keys, sealed under the passphrase (mode 600)
    identity.public.json     name and public keys
    managers/<host-port>.json    pins
    ledger/<identity>.note       newest checkpoint seen of each, and .json: how far its entries were checked
    assets/<name>/v<n>/      sealed assets with wrapped data keys
    agreements/<hex>.json    agreements proposed or approved from here
    receipts/<run>.json      receipts of pulled outputs
    recovery/<hex>.<manager>.json  shares of outputs' keys, each still sealed to its party

Everything but `identity.json` may be read by anybody; nothing is written in place (a crash leaves the old or the new).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from perunml.api.pin import Pin
from perunml.client.codes import NOT_FOUND, NOT_PINNED
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse

MAX_NAME = 63
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
VARIABLE = "PERUNML_HOME"


def default_home() -> Path:
    """``$PERUNML_HOME``, else ``~/.perunml``."""
    return Path(os.environ.get(VARIABLE) or Path.home() / ".perunml")


def checked_name(name: str) -> str:
    """`name` when it may stand as a file's name. Raises `UsageError` (malformed)."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise refuse(
            MALFORMED,
            "not a name",
            expected=f"a-z, 0-9, '_', '.', '-', at most {MAX_NAME}, beginning with a letter or digit",
            seen=str(name),
        )
    return name


def write_file(path: Path, data: bytes, *, mode: int = 0o644, replace: bool = True) -> None:
    """The whole file or none of it, durable. With `replace=False` raises `FileExistsError` instead of overwriting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as out:
            os.fchmod(out.fileno(), mode)
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # fails where `path` exists; rename would overwrite it
    finally:
        Path(temporary).unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def manager_name(url: str) -> str:
    """The file name of the manager at `url`: host and port where they make a name, else a digest of them."""
    parts = urlsplit(url)
    name = f"{parts.hostname}-{parts.port or 443}".lower()
    return name if _NAME.fullmatch(name) else f"manager-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


class Home:
    """Paths and files of one party; holds no secret."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def identity(self) -> Path:
        return self.folder / "identity.json"

    @property
    def public(self) -> Path:
        return self.folder / "identity.public.json"

    @property
    def assets(self) -> Path:
        return self.folder / "assets"

    def create(self) -> None:
        """The folder, for its owner alone."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def save_pin(self, pin: Pin) -> Path:
        path = self.folder / "managers" / f"{manager_name(pin.url)}.json"
        write_file(path, pin.to_file())
        return path

    def pins(self) -> dict[str, Pin]:
        """Every pinned manager by name, sorted."""
        found = sorted((self.folder / "managers").glob("*.json"))
        return {path.stem: Pin.from_file(path.read_bytes()) for path in found}

    def pin(self, manager: str = "") -> Pin:
        """The pin of `manager`, given as URL, name or identity key; the only one there is when empty. Raises
        `UsageError` (not_pinned)."""
        pins = self.pins()
        if not manager:
            if len(pins) == 1:
                return next(iter(pins.values()))
            seen = ", ".join(pins) or "no pinned manager"
            raise refuse(
                NOT_PINNED, "which manager?", expected="one", seen=seen, command="perunml trust URL --profile FILE"
            )
        for name, pin in pins.items():
            if manager in (name, pin.url, pin.identity):
                return pin
        raise refuse(
            NOT_PINNED,
            "this manager is not pinned",
            expected=", ".join(pins) or "a pinned manager",
            seen=manager,
            command="perunml trust URL --profile FILE",
        )

    def pin_path(self, manager: str = "") -> Path:
        """The file of `pin(manager)`. Raises as that."""
        return self.folder / "managers" / f"{manager_name(self.pin(manager).url)}.json"

    def checkpoint_path(self, pin: Pin) -> Path:
        """Where the newest checkpoint seen of a manager lies; named by its identity, for an address can move."""
        return self.folder / "ledger" / f"{_slug(pin.identity)}.note"

    @contextmanager
    def ledger_locked(self, pin: Pin) -> Iterator[Path]:
        """The path of the newest checkpoint, while nobody else of this party's processes looks at it or moves it on."""
        path = self.checkpoint_path(pin)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path

    def chains_path(self, pin: Pin) -> Path:
        """Where it lies how far each agreement's entries in a manager's ledger were checked."""
        return self.folder / "ledger" / f"{_slug(pin.identity)}.json"

    @property
    def receipts(self) -> Path:
        return self.folder / "receipts"

    def agreement_path(self, digest: str) -> Path:
        return self.folder / "agreements" / f"{digest.removeprefix('sha256:')}.json"

    @property
    def recovery(self) -> Path:
        return self.folder / "recovery"

    def shares_path(self, asset: str, manager: str) -> Path:
        """Of one asset every manager may have split the key; what one of them says takes nothing away that another one gave."""
        return (
            self.recovery / f"{asset.removeprefix('sha256:')}.{hashlib.sha256(manager.encode()).hexdigest()[:16]}.json"
        )

    def receipt_path(self, run: str) -> Path:
        return self.receipts / f"{checked_name(run)}.json"

    def asset_versions(self, name: str) -> dict[int, Path]:
        """Folders of a sealed asset by version."""
        found = {}
        for path in (self.assets / checked_name(name)).glob("v*"):
            if path.name[1:].isdecimal() and path.is_dir():
                found[int(path.name[1:])] = path
        return dict(sorted(found.items()))

    def asset(self, name: str, version: int | None = None) -> Path:
        """The newest version's folder, or the one asked for. Raises `UsageError` (not_found)."""
        versions = self.asset_versions(name)
        wanted = max(versions, default=0) if version is None else version
        if wanted not in versions:
            raise refuse(
                NOT_FOUND,
                f"no sealed asset {name!r}" + ("" if version is None else f" of version {version}"),
                expected=", ".join(sorted(p.name for p in self.assets.glob("[!.]*"))) or "an asset sealed here",
                seen=name,
                command=f"perunml seal FOLDER --name {name} --kind dataset",
            )
        return versions[wanted]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)
