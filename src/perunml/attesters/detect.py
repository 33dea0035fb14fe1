"""Which attester this machine has: by what was told, or by looking at what is there.

A cloud whose paravisor hides the TEE behind a virtual TPM (Azure) is a kind of its own: TPM and TEE in one.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

from perunml.attesters.codes import NO_ROOT_OF_TRUST
from perunml.attesters.composite import Composite, TpmComposite
from perunml.attesters.findings import text
from perunml.attesters.gramine import DCAP, Gramine, attestation_type
from perunml.attesters.nvattest import PROGRAM, Nvattest, Runner, run_bounded
from perunml.attesters.nvidia import NvidiaAttester, Nvml
from perunml.attesters.sev_guest import DEVICE as SEV_GUEST
from perunml.attesters.sev_guest import Ioctl, SevGuest
from perunml.attesters.tee import TeeAttester, TeeKind, TeeSource
from perunml.attesters.tree import Files, Tree
from perunml.attesters.tsm import REPORTS, TsmReports
from perunml.wire.errors import PerunError, refuse

if TYPE_CHECKING:
    from perunml.attesters.azure import AzureAttester
    from perunml.attesters.base import Attester
    from perunml.attesters.composite import EnrolsByTpm

Kind = Literal["auto", "tpm", "tdx", "snp", "sgx", "azure", "gpu"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TEES: tuple[TeeKind, ...] = get_args(TeeKind)
TPM = "dev/tpmrm0"
AZURE = "sys/class/dmi/id/chassis_asset_tag"
AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"
"""The chassis' asset tag of every machine of that cloud."""
SWITCHES = "dev/nvidia-nvswitchctl"
"""There where the machine sees NVSwitches."""


def load_nvml() -> Any:
    """pynvml's functions. Raises `ImportError` where nvidia-ml-py is not installed."""
    return importlib.import_module("pynvml")


def paravisor() -> bool:
    """Whether the system's TPM holds the report of Azure's paravisor; not where it does not answer."""
    from perunml.attesters.azure import REPORT_INDEX
    from perunml.attesters.esys import open_tpm

    with suppress(PerunError), open_tpm(f"device:/{TPM}") as tpm:
        return tpm.has(REPORT_INDEX)
    return False


@dataclass(frozen=True, slots=True)
class Ground:
    """What a machine is seen through; all of it the real one's by default.

    root   where its file system begins
    tree   the kernel's files below it
    ioctl  of its devices
    nvml   gives NVML's functions, or raises `ImportError`
    which  where a program lies, or None
    run    runs one
    behind whether the system's TPM is a paravisor's, with a TEE's report in it
    """

    root: Path = Path("/")
    tree: Tree = field(default_factory=Files)
    ioctl: Ioctl = fcntl.ioctl
    nvml: Callable[[], Any] = load_nvml
    which: Callable[[str], str | None] = shutil.which
    run: Runner = run_bounded
    behind: Callable[[], bool] = paravisor

    def has(self, path: str) -> bool:
        return (self.root / path).exists()


def present(ground: Ground) -> tuple[Kind, ...]:
    """What this machine has and the agent may use, in a bundle's order. GPUs only where NVML says that they are in confidential
    mode; an enclave has nothing but itself."""
    tee = _tee_present(ground)
    if tee == "sgx":
        return (tee,)
    found: list[Kind] = ["tpm"] if os.access(ground.root / TPM, os.R_OK | os.W_OK) else []
    if found and tee is None and text(ground.root / AZURE).strip() == AZURE_TAG and ground.behind():
        found = ["azure"]
    found += [tee] if tee is not None else []
    if found and _confidential_gpus(ground):
        found.append("gpu")
    return tuple(found)


def no_azure() -> NoReturn:
    """For who makes no attester of Azure's."""
    raise ValueError("Azure's machines are not made here")


def make(
    kinds: Sequence[str],
    tpm: Callable[[], EnrolsByTpm],
    ground: Ground | None = None,
    azure: Callable[[], AzureAttester] = no_azure,
    key: str = "",
) -> Attester:
    """The attester of `kinds` (of `KINDS`; ``auto`` is whatever is `present`); `tpm` opens the TPM where there is to be one,
    `azure` one of Azure's that vouches for itself; `key` is what the TEE shows in the TPM's PCR 15 too, or empty.
    Raises `ValueError` for kinds that make no machine, `UsageError` (no_root_of_trust, tee_other), and what opening each raises.
    """
    ground = ground or Ground()
    check_kinds(kinds)
    if "auto" in kinds and not (kinds := present(ground)):
        raise refuse(NO_ROOT_OF_TRUST, "nothing here that the agent could prove by", command="perunml host doctor")
    if "azure" in kinds:
        alone: Attester = azure()
        return Composite([alone, gpus(ground)]) if "gpu" in kinds else alone
    others: list[Attester] = [TeeAttester(tee_source(kind, ground), key) for kind in kinds if kind in TEES]
    others += [gpus(ground)] if "gpu" in kinds else []
    if "tpm" in kinds:
        opened = tpm()
        return TpmComposite(opened, others) if others else opened
    return Composite(others) if len(others) > 1 else others[0]


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises `ValueError` unless these make one machine."""
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"no kind of attester: {', '.join(sorted(unknown))}")
    if "auto" in kinds and len(set(kinds)) > 1:
        raise ValueError("auto takes whatever is there, and nothing beside it")
    if len(set(kinds) & {*TEES, "azure"}) > 1:
        raise ValueError("a machine is in one TEE at most")
    if {"azure", "tpm"} <= set(kinds):
        raise ValueError("azure is the machine's TPM and TEE in one")
    if set(kinds) <= {"gpu"}:
        raise ValueError("a GPU alone is no machine: name its TPM or TEE too")


def tee_source(kind: TeeKind, ground: Ground) -> TeeSource:
    """The interface to this TEE: configfs where there is one, the older device where that is all."""
    if kind == "sgx":
        return Gramine(ground.tree)
    if kind == "snp" and ground.has(SEV_GUEST):
        if not ground.tree.exists(REPORTS):
            return SevGuest(ground.root, ground.ioctl)
        try:
            return TsmReports(ground.tree, kind)
        except PerunError as refusal:
            if refusal.code != "tee_unavailable":  # tsm is loaded, and nobody has registered behind it
                raise
            return SevGuest(ground.root, ground.ioctl)
    return TsmReports(ground.tree, kind)


def gpus(ground: Ground) -> NvidiaAttester:
    """GPUs by NVML, or by nvattest where Python has none; switches by nvattest, where there are any and it is there."""
    program = ground.which(PROGRAM) is not None
    try:
        devices: Nvml | Nvattest = Nvml(ground.nvml())
    except ImportError:
        devices = Nvattest("gpu", ground.run)
    switches = [Nvattest("switch", ground.run)] if program and ground.has(SWITCHES) else []
    return NvidiaAttester(devices, *switches)


def _tee_present(ground: Ground) -> TeeKind | None:
    with suppress(OSError):
        if attestation_type(ground.tree) == DCAP:
            return "sgx"
    if ground.tree.exists(REPORTS):
        with suppress(PerunError):
            return TsmReports(ground.tree).kind
    return "snp" if os.access(ground.root / SEV_GUEST, os.R_OK | os.W_OK) else None


def _confidential_gpus(ground: Ground) -> bool:
    try:
        state = Nvml(ground.nvml()).state()
    except (ImportError, PerunError):
        return False
    return state.confidential and state.count > 0
