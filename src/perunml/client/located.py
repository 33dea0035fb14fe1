"""Where a sealed asset lies and which home opens it: what views in other processes are told. It holds no key.

A key that was unlocked stays in this process's memory alone. A worker that is forked has it too; one that is started anew reads the passphrase from the file that
was named, or is refused.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from perunml.client.assets import load_sealed
from perunml.client.codes import PASSPHRASE_MISSING
from perunml.client.home import Home, default_home
from perunml.client.identity import Identity
from perunml.sealing.keys import wipe
from perunml.sealing.manifest import Manifest, open_manifest
from perunml.sealing.reader import SealedReader
from perunml.sealing.store import FolderStore
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

MAX_PASSPHRASE = 4096
_Unlocked = tuple[tuple[PublicKey, ...], bytearray]
"""The keys that may have signed the manifest, and the data key."""


class OpenAsset(SealedReader):
    """A reader that closes its store with itself."""

    def close(self) -> None:
        super().close()
        store = self._source
        if isinstance(store, FolderStore):
            store.close()


@dataclass(frozen=True)
class Located:
    """A version of an asset (the newest one there is when this was made) in the home folder `home`."""

    home: Path
    name: str
    version: int
    passphrase_file: Path | None = None

    @functools.cached_property
    def chunk_size(self) -> int:
        """Bytes that are opened together, from the manifest; its signature is checked when it is opened."""
        with FolderStore(Home(self.home).asset(self.name, self.version)) as store:
            return Manifest.from_json(store.manifest().unverified("Manifest")).chunk_size

    def unlock(self, passphrase: bytes) -> Located:
        """This asset's key is in memory from now on, in this process and those forked from it. Raises `IntegrityError` (unseal_failed)."""
        _KEYS[self] = self._key(passphrase)
        return self

    def open(self) -> OpenAsset:
        """Raises `UsageError` (passphrase_missing, not_found), `IntegrityError`."""
        if self not in _KEYS:
            if self.passphrase_file is None:
                raise refuse(
                    PASSPHRASE_MISSING, f"{self.name} is not unlocked in this process", seen="a process that was not forked",
                    expected="a passphrase_file, or workers that are forked",
                )  # fmt: skip
            passphrase = bytearray(self.passphrase_file.read_bytes()[: MAX_PASSPHRASE + 1].rstrip(b"\n"))
            try:
                self.unlock(bytes(passphrase))
            finally:
                wipe(passphrase)
        owners, key = _KEYS[self]
        store = FolderStore(Home(self.home).asset(self.name, self.version))
        return OpenAsset(open_manifest(store.manifest(), list(owners)), key, store)

    def __getstate__(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("home", "name", "version", "passphrase_file")}

    def __setstate__(self, state: dict[str, object]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def _key(self, passphrase: bytes) -> _Unlocked:
        home = Home(self.home)
        identity = Identity.open(home, passphrase)
        sealed, _ = load_sealed(home, identity, self.name, self.version)
        with FolderStore(sealed.folder) as store:
            return tuple(identity.own_keys), identity.data_key(store.keys(), sealed.manifest)


_KEYS: dict[Located, _Unlocked] = {}


def located(
    name: str,
    *,
    home: Path | None = None,
    version: int | None = None,
    passphrase: bytes | None = None,
    passphrase_file: Path | None = None,
) -> Located:
    """An asset that was sealed in a home folder (default: ``$PERUNML_HOME``, then ``~/.perunml``). Raises `UsageError` (not_found), `IntegrityError`
    (unseal_failed)."""
    place = Home(home or default_home())
    folder = place.asset(name, version)
    made = Located(place.folder.resolve(), name, int(folder.name[1:]), passphrase_file)
    return made.unlock(passphrase) if passphrase is not None else made
