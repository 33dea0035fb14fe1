"""A manager's settings, for a machine that nobody logs in to: made on its first boot, run on each.

A folder, the operator's disk, holds `manager.yaml` and perhaps `vendor-roots/`, `simulated-ek-roots/`, `simulated-tee-roots/` and
`ek-chain/`, certificates each:

    apiVersion: perunml/v1
    kind: Manager
    url: https://manager.example:7443
    attester: tpm                    # tpm, tdx, snp or sgx
    custody: tpm                     # optional: tpm or tee; by default who fits the attester
    listen: 0.0.0.0:7443             # optional: by default every address, at the url's port
    admit: [ed25519:…]               # optional: identity keys that may talk to it from the start
    demand_revocations: false        # optional

There is no passphrase: nobody is there to type it, and a disk is no place for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field

from perunml.api.base import Message
from perunml.api.codes import SETTINGS_ODD
from perunml.api.settings import files_of, read_settings
from perunml.manager import setup
from perunml.manager.custody import Kind
from perunml.manager.device import Device, make_custody
from perunml.wire.errors import refuse

SETTINGS, STATE, CHAIN = "manager.yaml", "manager", "ek-chain"
VENDORS, SIMULATED_EK, SIMULATED_TEE = "vendor-roots", "simulated-ek-roots", "simulated-tee-roots"
"""Names in the folder; `manager` is the manager's own folder."""
COMMAND = "perunml manager boot --help"
HTTPS = 443
EVERYWHERE = "0.0.0.0"  # noqa: S104 - a machine of its own, which others are to reach


class _File(Message):
    apiVersion: Literal["perunml/v1"]
    kind: Literal["Manager"]
    url: str
    attester: Literal["tpm", "tdx", "snp", "sgx"]
    custody: Literal["", "tpm", "tee"] = ""
    listen: str = ""
    admit: list[str] = Field(default_factory=list)
    demand_revocations: bool = False


@dataclass(frozen=True, slots=True)
class ManagerSettings:
    """What `manager.yaml` says, read."""

    folder: Path
    url: str
    device: Device
    custody: Kind
    listen: tuple[str, int]
    admit: tuple[str, ...]
    demand_revocations: bool

    @property
    def state(self) -> Path:
        """The manager's own folder."""
        return self.folder / STATE

    def prepare(self) -> None:
        """Make the manager where there is none, and let those in who are to be admitted. Raises as `setup.init` and `setup.admit`."""
        if not (self.state / "manager.json").exists():
            setup.init(
                self.state,
                make_custody(self.custody, self.device),
                url=self.url,
                vendor_roots=files_of(self.folder / VENDORS, COMMAND),
                simulated_ek_roots=files_of(self.folder / SIMULATED_EK, COMMAND),
                simulated_tee_roots=files_of(self.folder / SIMULATED_TEE, COMMAND),
                demand_revocations=self.demand_revocations,
                device=self.device,
            )
        if self.admit:
            setup.admit(self.state, self.admit)


def read(folder: Path) -> ManagerSettings:
    """Raises `UsageError` (settings_odd)."""
    found = read_settings(folder / SETTINGS, _File, COMMAND)
    device = Device.from_json(
        {"kind": found.attester, "ek_chain": [str(path.absolute()) for path in files_of(folder / CHAIN, COMMAND)]}
    )
    custody: Kind = found.custody or ("tpm" if found.attester == "tpm" else "tee")
    address = _address(found.listen, found.url)
    return ManagerSettings(folder, found.url, device, custody, address, tuple(found.admit), found.demand_revocations)


def _address(text: str, url: str) -> tuple[str, int]:
    """HOST:PORT, by default every address at the url's port. Raises `UsageError` (settings_odd)."""
    try:
        parts = urlsplit(f"//{text}" if text else url)
        port = parts.port or HTTPS
    except ValueError:
        raise refuse(SETTINGS_ODD, "`listen` is HOST:PORT", seen=text or url, command=COMMAND) from None
    return (parts.hostname or EVERYWHERE if text else EVERYWHERE, port)
