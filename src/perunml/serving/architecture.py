"""Weights in safetensors, and the code that computes with them: an asset of its own, agreed on as a training's code is.

The code's entry is a Python file with ``build()``, which gives a `torch.nn.Module`, and ``INPUTS``, which says what its `forward` takes by name: ``{"x": ("FP32", [-1, 30])}``, -1 for what may vary; ``OUTPUTS`` may say what it
gives. It runs in the engine's sandbox with the weights and the requests, and nothing else.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perunml.sealing.formats import check_format
from perunml.serving.archive import MAX_ARCHIVE
from perunml.serving.blobs import NAMES
from perunml.serving.codes import MODEL_REFUSED
from perunml.serving.engines import MAX_ELEMENTS, THREADS, TorchModel, device_name
from perunml.serving.forms import ModelForm
from perunml.serving.tensors import MAX_TENSORS, TensorForm, checked
from perunml.wire.errors import PerunError, refuse

MODULE = "architecture"
"""What the code's entry is called while it runs."""


class Architecture(TorchModel):
    """The module that `entry` builds, with the weights of one `.safetensors` file: all that it has, and no others."""

    def __init__(self, weights: Path, entry: Path, *, threads: int = THREADS) -> None:
        """Raises `IntegrityError` (model_refused): of another form, or code and weights that do not fit."""
        import torch
        from safetensors.torch import load_file

        torch.set_num_threads(threads)
        device = device_name()
        try:
            check_format(weights, "safetensors", MAX_ARCHIVE)
            code = _imported(entry)
            inputs, outputs = (_forms(getattr(code, name, None), name) for name in ("INPUTS", "OUTPUTS"))
            module = code.build()
            module.load_state_dict(load_file(weights), strict=True)
            module = module.to(device).eval()
        except PerunError as exc:
            raise refuse(MODEL_REFUSED, f"the model is not loaded: {exc.reasons[0].message}") from None
        except Exception as exc:
            # What code says when it fails may quote the weights, so the type must do.
            raise refuse(MODEL_REFUSED, f"code and weights make no model: {type(exc).__name__}") from None
        if not inputs:
            raise refuse(MODEL_REFUSED, "the code does not say what its model takes", expected="INPUTS")
        types = {name: dtype for dtype, name in NAMES.items()}
        takes = {
            form.name: (
                getattr(torch, types[form.datatype]),
                [size if size >= 0 else [0, MAX_ELEMENTS] for size in form.shape],
                True,
            )
            for form in inputs
        }
        super().__init__(module, takes, ModelForm("safetensors", inputs, outputs), device)


def _imported(entry: Path) -> Any:
    """The code, run once. Its folder is where it may import from."""
    sys.path.insert(0, str(entry.parent))
    spec = importlib.util.spec_from_file_location(MODULE, entry)
    if spec is None or spec.loader is None:
        raise refuse(MODEL_REFUSED, "the code's entry is no Python file", seen=entry.name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    return module


def _forms(said: Any, name: str) -> tuple[TensorForm, ...]:
    """``{"x": ("FP32", [-1, 30])}`` as forms. Raises `PerunError`: of another form."""
    if said is None:
        return ()
    if not isinstance(said, Mapping) or len(said) > MAX_TENSORS:
        raise refuse(MODEL_REFUSED, f"{name} is not of its form", expected='{"x": ("FP32", [-1, 30])}')
    made = []
    for key, value in said.items():
        if not isinstance(value, (tuple, list)) or len(value) != 2 or not isinstance(value[1], (tuple, list)):
            raise refuse(MODEL_REFUSED, f"{name} is not of its form", expected='{"x": ("FP32", [-1, 30])}')
        datatype, shape = value
        checked(key, datatype, [size if size != -1 else 0 for size in shape])
        made.append(TensorForm(key, datatype, tuple(shape)))
    return tuple(made)
