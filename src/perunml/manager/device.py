"""What proves the machine that the manager runs on, and keeps its root key there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from perunml.attesters.simulated import SimulatedAttester
from perunml.manager.codes import CUSTODY_UNAVAILABLE
from perunml.manager.custody import Custody, Kind, Passphrase
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse
from perunml.wire.identity import SigningKey

if TYPE_CHECKING:
    from perunml.attesters.base import Attester
    from perunml.attesters.detect import Ground
    from perunml.attesters.tpm import TpmAttester

DeviceKind = Literal["simulated", "tpm", "tdx", "snp", "sgx"]
KINDS: tuple[DeviceKind, ...] = get_args(DeviceKind)
TEES: tuple[DeviceKind, ...] = ("tdx", "snp", "sgx")
PROFILES: dict[DeviceKind, str] = {"simulated": "simulated", "tpm": "measured", **dict.fromkeys(TEES, "tee")}
"""What a manager with such a device claims to prove; whether it does is for its clients to judge."""
TCTI = "device:/dev/tpmrm0"


@dataclass(frozen=True, slots=True)
class Device:
    """kind  what makes the manager's evidence
    tcti         how the TPM is reached
    ima_log, event_log, cmdline  files that the TPM's evidence is explained by; empty: the kernel's
    ek_chain     files with certificates between the EK's and its root
    """

    kind: DeviceKind = "simulated"
    tcti: str = TCTI
    ima_log: str = ""
    event_log: str = ""
    cmdline: str = ""
    ek_chain: tuple[str, ...] = ()

    @property
    def profile(self) -> str:
        return PROFILES[self.kind]

    def as_json(self) -> dict[str, Any]:
        """Without what is as by default."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in told.items() if v != getattr(_PLAIN, name)}

    @classmethod
    def from_json(cls, data: Any) -> Device:
        """Raises `UsageError` (malformed)."""
        names = {field.name for field in fields(cls)}
        if not isinstance(data, dict) or not set(data) <= names or data.get("kind", "simulated") not in KINDS:
            raise refuse(
                MALFORMED, "not a manager's device", expected=f"{', '.join(sorted(names))}; {' | '.join(KINDS)}"
            )
        chain = data.get("ek_chain", [])
        texts = [value for name, value in data.items() if name != "ek_chain"]
        if not isinstance(chain, list) or not all(isinstance(text, str) for text in [*chain, *texts]):
            raise refuse(MALFORMED, "a manager's device is written in texts")
        return cls(**{**data, "ek_chain": tuple(chain)})


_PLAIN = Device()


def make_attester(device: Device, state: Path, machine: SigningKey, ground: Ground | None = None) -> Attester:
    """The manager's attester; `state` is a folder of its own, `machine` the key that a simulated one is, `ground` what a TEE is seen through. Raises `Unreachable` or `EvidenceRefusal` for a device that
    is not there or cannot prove itself."""
    if device.kind == "tpm":
        from perunml.attesters.tpm import TpmAttester

        ima, boot, line = (Path(path) if path else None for path in (device.ima_log, device.event_log, device.cmdline))
        return TpmAttester(device.tcti, state, ima, boot, [Path(path) for path in device.ek_chain], line)
    if device.kind in TEES:
        from perunml.attesters import detect

        return detect.make([device.kind], tpm=_no_tpm, ground=ground)
    return SimulatedAttester.of(machine)


def _no_tpm() -> TpmAttester:
    raise AssertionError("a TEE's attester opens no TPM")


def make_custody(
    kind: Kind, device: Device, passphrase: bytes | None = None, pcrs: Sequence[int] | None = None
) -> Custody:
    """Who keeps, or kept, the root key. `pcrs` are for a new one. Raises `UsageError` (custody_unavailable), `ValueError`
    where a passphrase is missing, or given to who needs none."""
    if (kind == "passphrase") != (passphrase is not None):
        raise ValueError("a passphrase goes with the custody of that name, and with no other")
    if passphrase is not None:
        return Passphrase(passphrase)
    if kind == "tpm":
        from perunml.manager.custody_tpm import DEFAULT_PCRS, TpmCustody

        return TpmCustody(device.tcti, DEFAULT_PCRS if pcrs is None else pcrs)
    from perunml.manager.custody_tee import tee_custody

    if device.kind not in TEES:
        raise refuse(
            CUSTODY_UNAVAILABLE,
            "a TEE keeps the root key of a manager that it attests",
            expected="--attester sgx or snp",
            seen=device.kind,
        )
    return tee_custody(device.kind)
