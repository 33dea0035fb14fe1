"""The header of a ``.npy`` file (numpy.lib.format), read the same wherever it is wanted."""

from __future__ import annotations

import io
from tokenize import TokenError
from typing import Any, BinaryIO

MAX_HEADER = 1 << 16
"""Bytes of a header that are looked at (version 3 may be 4 GiB; rows of that many fields are no records)."""


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], Any, int]:
    """Shape, NumPy type and the first row's offset in bytes, of a file that is at its begin. Raises `ValueError`: no such file, of Python objects, or columns first."""
    import numpy as np

    file = io.BytesIO(file.read(MAX_HEADER))  # NumPy reads a header before it looks how long one may be

    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file, max_header_size=MAX_HEADER)
    except (
        ValueError,
        EOFError,
        SyntaxError,
        TokenError,
        TypeError,
        LookupError,
        ArithmeticError,
        MemoryError,
        RecursionError,
    ) as exc:
        # What `ast.literal_eval`, `tokenize` and `numpy.dtype` raise on text that is no array's.
        raise ValueError(f"not numpy.save's: {str(exc)[:80]}") from None
    if any(length < 0 for length in shape):
        raise ValueError("a negative length")
    if dtype.hasobject or fortran:
        raise ValueError("Python objects" if dtype.hasobject else "columns first")
    return shape, dtype, file.tell()
