"""Reports of NVIDIA's devices from its program `nvattest`: of GPUs where NVML is not to be had, of NVSwitches always.

Only `collect-evidence` is used, which asks the devices and nobody else. The program gets a list of arguments, no shell and none
of our environment but where programs and libraries lie; its answer is bounded in time and size.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

from perunml.attesters.codes import GPU_UNAVAILABLE, ODD_ANSWER
from perunml.attesters.nvidia import WAY, gpu_part
from perunml.evidence.parts import GpuPart
from perunml.wire.errors import PerunError, refuse

PROGRAM = "nvattest"
NAMES: dict[Literal["gpu", "switch"], str] = {"gpu": "gpu", "switch": "nvswitch"}
"""A part's `device` -> the program's word for it."""
TIMEOUT = 120.0
"""Seconds: a device takes one or two to sign, a node has some twenty."""
MAX_OUTPUT = 4 * 1024 * 1024
"""Bytes: twenty devices with 20 KB each, in base64."""
MAX_DEVICES = 32
KEPT = ("PATH", "LD_LIBRARY_PATH", "HOME")

Runner = Callable[[Sequence[str], float, int], tuple[int, bytes]]


def run_bounded(words: Sequence[str], seconds: float, limit: int) -> tuple[int, bytes]:
    """(exit code, standard output) of a program. Raises `OSError` where it does not start, `TimeoutError` where it does not
    end in time, `ValueError` where it writes more than `limit` bytes."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    late = threading.Event()
    with subprocess.Popen(
        list(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:

        def kill() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, kill)
        timer.start()
        try:
            assert process.stdout is not None
            found = process.stdout.read(limit + 1)
            if len(found) > limit:
                process.kill()
            code = process.wait()
        finally:
            timer.cancel()
    if late.is_set():
        raise TimeoutError
    if len(found) > limit:
        raise ValueError("too much")
    return code, found


class Nvattest:
    """A `DeviceSource` over the program, for one kind of device."""

    def __init__(self, device: Literal["gpu", "switch"], run: Runner = run_bounded) -> None:
        self._device, self._run = device, run

    def parts(self, nonce: bytes) -> Sequence[GpuPart]:
        """A part for each device, in the program's order."""
        words = [
            PROGRAM,
            "collect-evidence",
            "--device",
            NAMES[self._device],
            "--nonce",
            nonce.hex(),
            "--format",
            "json",
        ]
        try:
            code, output = self._run(words, TIMEOUT, MAX_OUTPUT)
        except TimeoutError:
            raise refuse(GPU_UNAVAILABLE, f"nvattest does not answer in {TIMEOUT:.0f} s", command=WAY) from None
        except ValueError:
            raise refuse(ODD_ANSWER, "nvattest writes too much", expected=f"{MAX_OUTPUT} bytes") from None
        except OSError as exc:
            raise refuse(GPU_UNAVAILABLE, f"nvattest does not start: {exc.strerror}", command=WAY) from None
        told = _answer(output)
        if code or told.get("result_code") != 0:
            said = str(told.get("result_message", f"exit code {code}"))
            raise refuse(GPU_UNAVAILABLE, f"nvattest gets no report of a {self._device}", seen=said, command=WAY)
        listed = told.get("evidences")
        if not isinstance(listed, list) or not 0 < len(listed) <= MAX_DEVICES:
            raise refuse(GPU_UNAVAILABLE, f"nvattest finds no {self._device}", command=WAY)
        return [self._part(item, nonce) for item in listed]

    def _part(self, item: Any, nonce: bytes) -> GpuPart:
        if not isinstance(item, dict):
            raise _odd()
        return gpu_part(self._device, _unb64(item, "evidence"), _unb64(item, "certificate"), nonce)


def _answer(output: bytes) -> dict[str, Any]:
    """The JSON object that the program prints; an empty one where it prints something else."""
    try:
        told = json.loads(output)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _unb64(item: dict[str, Any], name: str) -> bytes:
    text = item.get(name)
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        raise _odd() from None


def _odd() -> PerunError:
    return refuse(ODD_ANSWER, "nvattest's answer is not of its form", expected="evidences: [{evidence, certificate}]")
