"""What a job prints: the end of it, kept in the run's own memory, to tell by how the job failed.

Of it one class of errors leaves, of a fixed list (`api.runs.ERRORS`), and the text itself only where the agreement says `logs: {level: full}`, sealed.
"""

from __future__ import annotations

import os
import re
import threading

TAIL = 64 * 1024
"""Bytes kept at the least: a traceback of some hundred frames."""
_BEGIN = b"Traceback (most recent call last):"
_LAST_LINE = re.compile(rb"^(?P<name>[A-Za-z_][A-Za-z0-9_.]*)(?::(?P<said>.*))?$")
_GPU = re.compile(
    rb"\s*(CUDA|HIP)( error:)? out of memory|.*(CUDA_ERROR_OUT_OF_MEMORY|CU(BLAS|DNN)_STATUS_ALLOC_FAILED)"
)
_HOST = re.compile(rb".*DefaultCPUAllocator: (can't allocate|not enough) memory|\s*\[Errno 12\]")
"""PyTorch's own words for memory that is not the GPU's (c10/core/impl/alloc_cpu.cpp), and Linux's ENOMEM."""


class Tail:
    """The last `size` bytes of what is written to `descriptor`, a pipe of the `owner`'s (a user's id), who opens it again as /dev/stdout or /dev/stderr. `close` ends it when nobody writes any more."""

    def __init__(self, size: int = TAIL, owner: int = -1) -> None:
        self._size = size
        self._kept = bytearray()
        self._out, self.descriptor = os.pipe()
        os.fchown(self.descriptor, owner, -1)
        self._thread = threading.Thread(target=self._read, name="perunml-log", daemon=True)
        self._thread.start()

    def close(self) -> bytes:
        """What was kept. The job's processes must be gone."""
        os.close(self.descriptor)
        self._thread.join()
        os.close(self._out)
        return bytes(self._kept)

    def _read(self) -> None:
        while part := os.read(self._out, 1 << 16):
            self._kept += part
            if len(self._kept) > 2 * self._size:
                del self._kept[: -self._size]
        del self._kept[: -self._size]


def error_class(said: bytes) -> str:
    """The class that the last traceback's exception is of: ``gpu_out_of_memory``, ``out_of_memory``, ``not_finite``, or ``code_failed`` for
    all others."""
    said = said[-TAIL:]  # however much of it an agreement lets out
    place = said.rfind(_BEGIN)
    if place < 0:
        return "code_failed"
    for line in said[place + len(_BEGIN) :].splitlines():
        found = None if line.startswith((b" ", b"\t")) else _LAST_LINE.match(line)
        if found:
            return _class(found["name"].rpartition(b".")[2], found["said"] or b"")
    return "code_failed"


def _class(name: bytes, said: bytes) -> str:
    if name == b"OutOfMemoryError" or (name in (b"RuntimeError", b"AcceleratorError") and _GPU.match(said)):
        return "gpu_out_of_memory"
    if name in (b"MemoryError", b"_ArrayMemoryError") or (name in (b"RuntimeError", b"OSError") and _HOST.match(said)):
        return "out_of_memory"
    return "not_finite" if name == b"FloatingPointError" else "code_failed"
