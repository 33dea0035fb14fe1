"""Is a `.pt2` archive safe to load? Asked before torch is given a byte of it.

PyTorch's reader of exported programs trusts its input, and a model comes out of somebody else's code: what the reader would
act on is held against the lists of `sealing.pt2` and `sealing.pt2_program`, the same that it had to pass as an output.
"""

from __future__ import annotations

import io

from perunml.sealing.pt2 import inspect_pt2
from perunml.sealing.pt2_program import ProgramRefused
from perunml.serving.codes import MODEL_REFUSED
from perunml.wire.errors import refuse

MAX_ARCHIVE = 8 * 2**30
"""Bytes; larger models want an engine that does not hold them in one piece."""


def check_pt2(data: bytes) -> None:
    """Raises `IntegrityError` (model_refused), naming what is wrong, unless `data` is an archive of `torch.export.save`
    with plain tensors, ATen operators and nothing else."""
    try:
        if len(data) > MAX_ARCHIVE:
            raise ProgramRefused(f"the archive has {len(data)} bytes", expected=f"at most {MAX_ARCHIVE}")
        inspect_pt2(io.BytesIO(data), len(data))
    except ProgramRefused as exc:
        raise refuse(
            MODEL_REFUSED, f"the model is not loaded: {exc.what}", expected=exc.expected, seen=exc.seen
        ) from None
