"""A job's contract with its environment (DESIGN section 8): folders, a file of parameters, environment variables.

The contract is the environment's: training code imports nothing of Perun, and runs the same outside. `environment` is all
a job's process has; the same function makes the environment for running the code unsealed, byte for byte the same result.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from perunml.host.codes import DELIVERY_MISMATCH
from perunml.wire.canonical import canonical
from perunml.wire.errors import refuse

IN, OUT, CODE, CHECKPOINTS, TMP, SHM = "/in", "/out", "/code", "/checkpoints", "/tmp", "/dev/shm"  # noqa: S108 - the sandbox's own, empty at first
PARAMETERS = "/run/perunml/parameters.json"
_MOUNT = re.compile(r"/in/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_ENTRY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}){0,8}")


def environment(
    mounts: Mapping[str, str],
    parameters: Mapping[str, Any],
    *,
    threads: int,
    path: str = "/usr/local/bin:/usr/bin:/bin",
    roots: Mapping[str, str] | None = None,
    checkpoints: bool = False,
) -> dict[str, str]:
    """The whole environment of a job's process. `mounts` maps input names to where they lie; `threads` is for OpenMP and
    MKL, whose own guess differs between machines and with it the order of sums; `roots` puts other folders into the
    place of /in, /out, /checkpoints and the parameters' file (keys ``in``, ``out``, ``checkpoints``, ``parameters``, ``tmp``), for a run
    without the sandbox. Only where the agreement allows `checkpoints` there is a PERUNML_CHECKPOINTS.

    PYTHONHASHSEED is 0: the order of a set of strings must not make two runs of one seed differ.
    """
    at = {"in": IN, "out": OUT, "checkpoints": CHECKPOINTS, "parameters": PARAMETERS, "tmp": TMP} | dict(roots or {})
    made = {
        "PATH": path,
        "HOME": at["tmp"],
        "LANG": "C.UTF-8",
        "PERUNML_IN": at["in"],
        "PERUNML_OUT": at["out"],
        "PERUNML_PARAMS": at["parameters"],
        "SM_MODEL_DIR": at["out"],
        "SM_HPS": canonical(dict(parameters)).decode(),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }
    if checkpoints:
        made["PERUNML_CHECKPOINTS"] = at["checkpoints"]
    for name, where in sorted(mounts.items()):
        made["SM_CHANNEL_" + re.sub(r"[^A-Z0-9]", "_", name.upper())] = where
    return made


def thread_count() -> int:
    """As many as this process may use processors."""
    return len(os.sched_getaffinity(0))


def input_folder(mount: str) -> str:
    """``scans`` of ``/in/scans``. Raises `IntegrityError` (delivery_mismatch) for a mount anywhere else."""
    if not _MOUNT.fullmatch(mount):
        raise refuse(DELIVERY_MISMATCH, "an input's mount is not /in/<name>", seen=mount)
    return mount.removeprefix("/in/")


def entry_path(entry: str) -> str:
    """The path of the code's entry in the sandbox. Raises `IntegrityError` (delivery_mismatch) unless `entry` is a relative
    path without dots, which agreements allow alone."""
    if not _ENTRY.fullmatch(entry) or ".." in PurePosixPath(entry).parts:
        raise refuse(DELIVERY_MISMATCH, "the code's entry is not a path inside it", seen=entry)
    return f"{CODE}/{entry}"
