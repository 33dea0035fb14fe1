"""A manager's folder: settings, certificates, sealed root key, database, blobs.

manager.json    settings (nothing secret)      root.json       the sealed root key
tls.pem         the TLS certificate            host-ca.pem     the hosts' CA certificate
manager.sqlite  the database                   blobs/          ciphertext of assets
roots/          EK roots: vendor-*.pem, simulated-*.pem; development roots of TEEs: tee-*.pem (DER)
collateral/     bundles of what TEEs' and GPUs' vendors sign, *.json: put there by the operator at any time
device/         which TPM the manager's own evidence is of
revocations/    TPM vendors' revocation lists, *.crl (DER): put there by the operator, read when the manager starts
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from perunml.evidence.tpm.chain import Trust
from perunml.evidence.tpm.crl import parse_crl
from perunml.manager.codes import FOLDER_IN_USE
from perunml.manager.device import Device
from perunml.wire.canonical import Json, canonical, load_json
from perunml.wire.errors import refuse

FORMAT = "perunml/manager-v1"


@dataclass(frozen=True, slots=True)
class Config:
    """`url` as parties reach it: https://host:port. Roots are certificates, PEM or DER; `revocations` are lists in DER,
    `demand_revocations` whether an EK's chain without lists in force is refused; `device` proves the manager's own machine. What leads to one of
    `simulated_tee_roots` (DER) is `simulated`; `collateral_signers` (texts of keys) may sign bundles of collateral."""

    folder: Path
    url: str
    vendor_roots: tuple[bytes, ...]
    simulated_roots: tuple[bytes, ...]
    revocations: tuple[bytes, ...] = ()
    demand_revocations: bool = False
    device: Device = field(default_factory=Device)
    simulated_tee_roots: tuple[bytes, ...] = ()
    collateral_signers: tuple[str, ...] = ()

    @property
    def collateral(self) -> Path:
        """Where bundles of collateral lie."""
        return self.folder / "collateral"

    @property
    def trust(self) -> Trust:
        """What EK certificates are judged by."""
        return Trust(
            vendor=self.vendor_roots,
            simulated=self.simulated_roots,
            revocations=self.revocations,
            demand=self.demand_revocations,
        )

    @property
    def authority(self) -> str:
        return self.url.removeprefix("https://").lower()

    @property
    def database(self) -> Path:
        return self.folder / "manager.sqlite"

    @property
    def blobs(self) -> Path:
        return self.folder / "blobs"

    def save(self) -> None:
        """Write the settings and roots into the folder."""
        (self.folder / "roots").mkdir(mode=0o755)
        kinds = (("vendor", self.vendor_roots), ("simulated", self.simulated_roots), ("tee", self.simulated_tee_roots))
        for kind, roots in kinds:
            for number, root in enumerate(roots):
                write_file(self.folder / "roots" / f"{kind}-{number:03d}.pem", root, 0o644)
        self.save_settings()

    def save_settings(self) -> None:
        """Write the settings alone, in place of those that are there."""
        settings: dict[str, Json] = {"format": FORMAT, "url": self.url}
        if self.demand_revocations:
            settings["demand_revocations"] = True
        if device := self.device.as_json():
            settings["device"] = device
        if self.collateral_signers:
            settings["collateral_signers"] = list(self.collateral_signers)
        path = self.folder / "manager.json"
        path.unlink(missing_ok=True)
        write_file(path, canonical(settings), 0o644)

    @classmethod
    def load(cls, folder: Path) -> Config:
        """Raises `UsageError` (folder_in_use): not a manager's folder."""
        path = folder / "manager.json"
        settings = load_json(path.read_bytes()) if path.is_file() else None
        if not isinstance(settings, dict) or settings.get("format") != FORMAT:
            raise refuse(
                FOLDER_IN_USE, "not a manager's folder", seen=str(folder), command=f"perunml manager init {folder}"
            )
        roots = folder / "roots"
        return cls(
            folder,
            str(settings["url"]),
            _read(roots, "vendor-*.pem"),
            _read(roots, "simulated-*.pem"),
            _lists(folder / "revocations"),
            settings.get("demand_revocations", False) is not False,
            Device.from_json(settings.get("device", {})),
            _read(roots, "tee-*.pem"),
            tuple(map(str, settings.get("collateral_signers", []))),
        )


def _read(folder: Path, pattern: str) -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in sorted(folder.glob(pattern)))


def _lists(folder: Path) -> tuple[bytes, ...]:
    """The operator's revocation lists, DER or PEM. Raises `EvidenceRefusal` (non_canonical): said at the start, for an
    enrolment would only fail by it."""
    found = _read(folder, "*.crl")
    for one in found:
        parse_crl(one)
    return found


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Create `path` durably; it must not exist."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one manager runs on a folder (S5). Raises `UsageError` (folder_in_use)."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise refuse(FOLDER_IN_USE, "another manager runs on this folder", seen=str(folder)) from None
        yield
    finally:
        os.close(descriptor)
