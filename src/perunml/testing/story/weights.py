"""One digest of a trained model's weights, so that two trainings can be compared."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from perunml.serving.archive import check_pt2
from perunml.wire.canonical import canonical


def weights_digest(model: Path | bytes) -> str:
    """``sha256:`` over every parameter and buffer of a `.pt2` archive, by name: name, type, shape and bytes. Raises
    `IntegrityError` (model_refused) for an archive that is not safe to load."""
    import torch

    data = model if isinstance(model, bytes) else model.read_bytes()
    check_pt2(data)
    program = torch.export.load(io.BytesIO(data))
    whole = hashlib.sha256()
    for name, tensor in sorted(program.state_dict.items()):
        raw = bytes(tensor.detach().contiguous().flatten().view(torch.uint8).tolist())
        head = canonical({"name": name, "dtype": str(tensor.dtype), "shape": list(tensor.shape), "size": len(raw)})
        whole.update(len(head).to_bytes(4) + head + raw)
    return f"sha256:{whole.hexdigest()}"
