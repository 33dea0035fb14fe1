"""Machines for these tests: trees of the same files as theirs, and what stands behind those files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attesters.devices import FakeNvattest, FakeNvml, GramineTree
from attesters.kernel import CCEL, REPORTS, Kernel, SevDriver, snp_report
from perunml.attesters.detect import Ground
from perunml.testing.bootlog import boot

OLD, NEW = "6.2.0-1018-azure\n", "6.12.3\n"
MOUNTS = "securityfs /sys/kernel/security securityfs rw 0 0\nconfigfs /sys/kernel/config configfs rw 0 0\n"
AZURE = "7783-7084-3265-9085-8269-3286-77\n"


def write(root: Path, **files: str | bytes) -> Path:
    """Files by path, `__` for a slash and `_dash_` for what no name may hold."""
    for name, data in files.items():
        path = root / name.replace("__", "/").replace("_dash_", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


def no_nvml() -> Any:
    raise ImportError("pynvml")


def ground(root: Path, tree: Any = None, **more: Any) -> Ground:
    """A machine of `root` without devices but those handed in."""
    given = {
        "nvml": no_nvml,
        "which": lambda name: None,
        "run": FakeNvattest(),
        "ioctl": SevDriver(),
        "behind": lambda: False,
        **more,
    }
    return Ground(root=root, tree=tree or Kernel(root), **given)


def bare(root: Path) -> Ground:
    """A laptop: nothing at all."""
    return ground(write(root, proc__mounts="", proc__cpuinfo="flags : fpu sse\n", proc__sys__kernel__osrelease=NEW))


def tpm_server(root: Path) -> Ground:
    """A server as the documents ask for it."""
    files = {
        "dev__tpmrm0": "",
        "proc__mounts": MOUNTS,
        "proc__cmdline": "quiet ima_policy=tcb lockdown=confidentiality",
        "proc__swaps": "Filename Type Size Used Priority\n",
        "sys__kernel__security__ima__binary_runtime_measurements": "",
        "sys__kernel__security__lockdown": "none integrity [confidentiality]\n",
        "sys__kernel__security__lsm": "capability,landlock,yama",
        "sys__fs__cgroup__cgroup.controllers": "memory pids",
        "sys__kernel__security__tpm0__binary_bios_measurements": boot().encoded,
        "sys__class__tpm__tpm0__tpm_version_major": "2\n",
    }
    return ground(write(root, **files))


def tdx_guest(root: Path) -> Ground:
    """A trust domain with a kernel of today."""
    write(root, dev__tdx_guest="", proc__mounts=MOUNTS, proc__cpuinfo="flags\t: fpu tdx_guest\n", proc__cmdline="ro\n")
    write(root, **{CCEL.replace("/", "__"): b"log", "proc__sys__kernel__osrelease": NEW})
    return ground(root, Kernel(root, "tdx_guest"))


def old_tdx_guest(root: Path) -> Ground:
    """A trust domain whose kernel has no configfs-tsm yet."""
    return ground(write(root, dev__tdx_guest="", proc__mounts=MOUNTS, proc__sys__kernel__osrelease=OLD))


def snp_guest(root: Path) -> Ground:
    """An SNP guest with a kernel of today."""
    write(root, dev__sev_dash_guest="", proc__mounts=MOUNTS, proc__sys__kernel__osrelease=NEW)
    return ground(root, Kernel(root, "sev_guest", snp_report, b""))


def old_snp_guest(root: Path) -> Ground:
    """An SNP guest with nothing but the device."""
    return ground(write(root, dev__sev_dash_guest="", proc__mounts=MOUNTS, proc__sys__kernel__osrelease=OLD))


def enclave(root: Path) -> Ground:
    """Inside of Gramine."""
    return ground(root, GramineTree(root))


def gpu(machine: Callable[[Path], Ground], **state: int) -> Callable[[Path], Ground]:
    """The machine with an H100, its driver and NVML."""

    def made(root: Path) -> Ground:
        below = machine(root)
        write(root, dev__nvidiactl="", proc__driver__nvidia__version="NVRM version: 570\n")
        library = FakeNvml(**state)
        return Ground(below.root, below.tree, below.ioctl, lambda: library, below.which, below.run, below.behind)

    return made


def reports_folder(root: Path) -> Path:
    return root / REPORTS.removeprefix("/")
