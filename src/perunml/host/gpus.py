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

DEV = Path("/dev")
LOCK = Path("/run/perunml-gpus.lock")
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
    """What one run has of the GPUs, until it ends. `nodes` is empty where there are none, or another run has them (`taken`)."""

    nodes: dict[str, Path]
    taken: bool
    _lock: int | None

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def claim(dev: Path = DEV, lock: Path = LOCK) -> Claim:
    """The GPUs, if they are nobody's now. The kernel lets go of them when this process ends, however it does."""
    found = nodes(dev)
    if not found:
        return Claim({}, False, None)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return Claim({}, True, None)
    return Claim(found, False, descriptor)
