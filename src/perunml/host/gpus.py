"""The machine's NVIDIA GPUs, for one run at a time.

A job sees the driver's device nodes; the CUDA libraries that go with the driver lie below /usr, which it sees anyway. A second run meanwhile sees none, and is told so.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from perunml.ledger.devices import Devices
from perunml.wire.errors import PerunError

DEV = Path("/dev")
LOCK = Path("/run/perunml-gpus.lock")
DRIVER = Path("/proc/driver/nvidia")
"""What the driver tells of itself (NVIDIA driver's README, "Using the /proc file system interface")."""
_VERSION = re.compile(r"^NVRM version:.*?Kernel Module\b.*?\s([0-9]+(?:\.[0-9]+)+)\s", re.MULTILINE)
_MODEL = re.compile(r"^Model:\s*(\S.*?)\s*$", re.MULTILINE)
_UUID = re.compile(r"^GPU UUID:\s*(\S+)\s*$", re.MULTILINE)
_MINOR = re.compile(r"^Device Minor:\s*([0-9]{1,3})\s*$", re.MULTILINE)
_GPU = re.compile(r"nvidia[0-9]{1,3}")
_SHARED = ("nvidiactl", "nvidia-uvm")
"""What CUDA opens besides each GPU's own node (NVIDIA driver's README, "Interaction with the nouveau driver and device nodes")."""


def nodes(dev: Path = DEV) -> dict[str, Path]:
    """Device nodes by the path at which a job sees them; none where there is no GPU, or the driver is not whole."""
    found = {name: dev / name for name in os.listdir(dev) if _GPU.fullmatch(name) or name in _SHARED}
    real = {name: path for name, path in found.items() if stat.S_ISCHR(path.lstat().st_mode)}
    if not any(_GPU.fullmatch(name) for name in real) or not set(_SHARED) <= set(real):
        return {}
    return {f"/dev/{name}": path for name, path in sorted(real.items())}


@dataclass(slots=True)
class Claim:
    """What one run has of the GPUs, until it ends. `nodes` is empty where there are none, or another run has them (`taken`); `devices` says which
    they are, as far as the driver tells."""

    nodes: dict[str, Path]
    taken: bool
    devices: Devices | None
    _lock: int | None

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def describe(shown: Collection[str], driver: Path = DRIVER) -> Devices | None:
    """The driver's version, model and UUID of each GPU whose node (nvidia0) is `shown`, from what the kernel module tells below /proc, which may be of more of them. None where it tells nothing,
    or does not name all that are shown in its usual form."""
    try:
        version = _VERSION.search(_text(driver / "version"))
        told = [_text(path / "information") for path in sorted((driver / "gpus").iterdir())]
    except OSError:
        return None
    found = {}
    for text in told:
        minor, model, uuid = _MINOR.search(text), _MODEL.search(text), _UUID.search(text)
        if minor and f"nvidia{minor[1]}" in shown:
            found[f"nvidia{minor[1]}"] = {"name": model[1] if model else "", "uuid": uuid[1] if uuid else ""}
    if version is None or found.keys() != set(shown):
        return None
    try:
        return Devices.from_json({"driver": version[1], "gpus": sorted(found.values(), key=lambda gpu: gpu["uuid"])})
    except PerunError:
        return None


def _text(path: Path) -> str:
    return path.read_text("ascii", "replace")


def claim(dev: Path = DEV, lock: Path = LOCK, driver: Path = DRIVER) -> Claim:
    """The GPUs, if they are nobody's now. The kernel lets go of them when this process ends, however it does."""
    found = nodes(dev)
    if not found:
        return Claim({}, False, None, None)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return Claim({}, True, None, None)
    return Claim(
        found, False, describe([node.name for node in found.values() if _GPU.fullmatch(node.name)], driver), descriptor
    )
