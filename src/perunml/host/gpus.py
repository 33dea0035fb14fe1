"""The machine's NVIDIA GPUs, for one run at a time.

A job sees the driver's device nodes; the CUDA libraries that go with the driver lie below /usr, which it sees anyway. A second run meanwhile sees none, and is told so.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
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


def describe(driver: Path = DRIVER) -> Devices | None:
    """The driver's version and each GPU's model and UUID, from what the kernel module shows below /proc; None where it shows none, or not all of them
    in its usual form."""
    try:
        version = _VERSION.search((driver / "version").read_text())
        told = [(path / "information").read_text() for path in sorted((driver / "gpus").iterdir())]
    except OSError:
        return None
    found = [(_MODEL.search(text), _UUID.search(text)) for text in told]
    gpus = [{"name": model[1], "uuid": uuid[1]} for model, uuid in found if model and uuid]
    if version is None or len(gpus) != len(told):
        return None
    try:
        return Devices.from_json({"driver": version[1], "gpus": sorted(gpus, key=lambda gpu: gpu["uuid"])})
    except PerunError:
        return None


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
    return Claim(found, False, describe(driver), descriptor)
