"""How a job failed is told by one class of a few; what it printed stays."""

from __future__ import annotations

import os
import threading

import pytest

from perunml.host.logs import TAIL, Tail, error_class

HEAD = (
    'Traceback (most recent call last):\n  File "/code/train.py", line 3, in <module>\n    loss.backward()\n    ^^^^\n'
)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("", "code_failed"),
        (HEAD, "code_failed"),
        (HEAD + "ValueError: patient-17", "code_failed"),
        (HEAD + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has\n", "gpu_out_of_memory"),
        (HEAD + "torch.cuda.OutOfMemoryError: HIP out of memory.", "gpu_out_of_memory"),
        (HEAD + "RuntimeError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", "gpu_out_of_memory"),
        (HEAD + "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "gpu_out_of_memory"),
        (HEAD + "RuntimeError: mat1 and mat2 shapes cannot be multiplied", "code_failed"),
        (HEAD + "MemoryError", "out_of_memory"),
        (HEAD + "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1. TiB", "out_of_memory"),
        (HEAD + "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 400000000000000 bytes. Error code 12 (Cannot allocate memory)", "out_of_memory"),
        (HEAD + "OSError: [Errno 12] Cannot allocate memory", "out_of_memory"),
        (HEAD + "OSError: [Errno 2] No such file or directory", "code_failed"),
        (HEAD + "ValueError: DefaultCPUAllocator: can't allocate memory", "code_failed"),
        (HEAD + "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "gpu_out_of_memory"),
        (HEAD + "RuntimeError: Caught OutOfMemoryError in DataLoader worker process 0.\nOriginal " + HEAD + "torch.OutOfMemoryError: CUDA out of memory.", "gpu_out_of_memory"),
        (HEAD + "MemoryError\n" + "\n" * TAIL, "code_failed"),
        (HEAD + "FloatingPointError: invalid value encountered in divide", "not_finite"),
        (HEAD + "MemoryError\n\nDuring handling of the above exception, another exception occurred:\n\n" + HEAD + "KeyError: 'x'", "code_failed"),
        ("MemoryError: said by a print, in no traceback", "code_failed"),
        (HEAD + "MemoryError: patient-17 \xff\x00", "out_of_memory"),
    ],
)  # fmt: skip
def test_the_last_exception_says_the_class(said: str, wanted: str) -> None:
    """And nothing else of it: whatever is said, one word of a fixed list leaves."""
    assert error_class(said.encode("latin-1")) == wanted


def test_only_the_end_is_kept_and_nobody_waits() -> None:
    """A job that prints for ever is not held up, and takes no memory."""
    tail = Tail()
    for _ in range(200):
        os.write(tail.descriptor, b"x" * 60_000)
    os.write(tail.descriptor, b"the end")
    assert len(tail._kept) <= 2 * TAIL + (1 << 16)
    kept = tail.close()
    assert kept.endswith(b"xthe end")
    assert len(kept) == TAIL


def test_one_without_a_word() -> None:
    """Nothing printed, nothing kept; no thread left."""
    before = threading.active_count()
    assert Tail().close() == b""
    assert threading.active_count() == before
