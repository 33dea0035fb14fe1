"""ONNX Runtime as an engine: models of PyTorch, scikit-learn, XGBoost and others, exported to ONNX.

A graph of known operators and nothing else: no custom operators are registered, no file but the model is in the sandbox, and what the runtime says when it refuses stays
there. Outputs that are no tensors of numbers (scikit-learn's labels as text, maps) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perunml.sealing.formats import check_format
from perunml.serving.archive import MAX_ARCHIVE
from perunml.serving.codes import ENGINE_UNKNOWN, INFERENCE_FAILED, INPUTS_REFUSED, MODEL_REFUSED
from perunml.serving.engines import check_names
from perunml.serving.forms import ModelForm
from perunml.serving.tensors import MAX_ELEMENTS, Tensor, TensorForm, checked
from perunml.wire.errors import PerunError, refuse

THREADS = 2
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
"""In this order, as far as the installed runtime has them."""
_TYPES = {
    "tensor(bool)": "BOOL", "tensor(uint8)": "UINT8", "tensor(int8)": "INT8", "tensor(uint16)": "UINT16", "tensor(int16)": "INT16",
    "tensor(float16)": "FP16", "tensor(uint32)": "UINT32", "tensor(int32)": "INT32", "tensor(float)": "FP32", "tensor(uint64)": "UINT64",
    "tensor(int64)": "INT64", "tensor(double)": "FP64",
}  # fmt: skip
_NUMPY = {
    "BOOL": "?", "UINT8": "u1", "INT8": "i1", "UINT16": "<u2", "INT16": "<i2", "FP16": "<f2", "UINT32": "<u4", "INT32": "<i4", "FP32": "<f4",
    "UINT64": "<u8", "INT64": "<i8", "FP64": "<f8",
}  # fmt: skip


class Onnx:
    """A loaded model. Inputs and outputs have the graph's own names."""

    def __init__(self, model: Path, *, threads: int = THREADS) -> None:
        """Raises `IntegrityError` (model_refused), `AgreementRefusal` (engine_unknown): the runtime is not installed."""
        try:
            import onnxruntime
        except ImportError:
            raise refuse(
                ENGINE_UNKNOWN, "ONNX Runtime is not installed on this host", expected="pip install 'perunml[onnx]'"
            ) from None
        try:
            check_format(model, "onnx", MAX_ARCHIVE)
            onnxruntime.set_default_logger_severity(4)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
            providers = [name for name in PROVIDERS if name in onnxruntime.get_available_providers()]
            self._session = onnxruntime.InferenceSession(model.read_bytes(), options, providers=providers)
        except PerunError as exc:
            raise refuse(MODEL_REFUSED, f"the model is not loaded: {exc.reasons[0].message}") from None
        except Exception as exc:
            # The runtime quotes the model in what it says, so the type must do.
            raise refuse(MODEL_REFUSED, f"the model is not loaded: {type(exc).__name__} in ONNX Runtime") from None
        self._inputs = {
            each.name: TensorForm(each.name, _TYPES.get(each.type, ""), _shape(each.shape))
            for each in self._session.get_inputs()
        }
        outputs = [
            TensorForm(each.name, _TYPES.get(each.type, ""), _shape(each.shape)) for each in self._session.get_outputs()
        ]
        self._outputs = [form for form in outputs if form.datatype]
        if not self._outputs or any(not form.datatype for form in self._inputs.values()):
            raise refuse(
                MODEL_REFUSED,
                "the model takes or gives no tensors of numbers",
                expected="tensors of numbers (scikit-learn: zipmap off)",
            )

    def forms(self) -> ModelForm:
        return ModelForm("onnx", tuple(self._inputs.values()), tuple(self._outputs))

    def infer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        check_names(self._inputs, inputs)
        given = {tensor.name: self._array(tensor) for tensor in inputs}
        try:
            found = self._session.run([form.name for form in self._outputs], given)
        except Exception as exc:
            raise refuse(INFERENCE_FAILED, f"the model failed on these inputs ({type(exc).__name__})") from None
        return [self._tensor(form, value) for form, value in zip(self._outputs, found, strict=True)]

    def _array(self, tensor: Tensor) -> Any:
        import numpy as np

        form, size = self._inputs[tensor.name], checked(tensor.name, tensor.datatype, tensor.shape)
        fits = len(tensor.shape) == len(form.shape) and all(
            want in (-1, seen) for want, seen in zip(form.shape, tensor.shape, strict=True)
        )
        wanted = f"{form.datatype} of shape {list(form.shape)}"
        if tensor.datatype != form.datatype or not fits or len(tensor.data) != size:
            seen = f"{tensor.datatype} of shape {list(tensor.shape)}"
            raise refuse(INPUTS_REFUSED, f"input {tensor.name!r} is of another form", expected=wanted, seen=seen)
        if form.datatype == "BOOL" and not set(bytes(tensor.data)) <= {0, 1}:
            raise refuse(INPUTS_REFUSED, f"input {tensor.name!r} has a value that is no truth value", expected=wanted)
        made = np.frombuffer(tensor.data, np.dtype(_NUMPY[form.datatype])).reshape(tensor.shape)
        if made.dtype.kind == "f" and not np.isfinite(made).all():
            raise refuse(INPUTS_REFUSED, f"input {tensor.name!r} has a value that is not finite", expected=wanted)
        return made

    def _tensor(self, form: TensorForm, value: Any) -> Tensor:
        import numpy as np

        if not isinstance(value, np.ndarray) or math.prod(value.shape) > MAX_ELEMENTS:
            raise refuse(INFERENCE_FAILED, "the model's output is not a tensor of numbers, or too large")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise refuse(INFERENCE_FAILED, "the model's output is not finite")
        plain = np.ascontiguousarray(value).astype(np.dtype(_NUMPY[form.datatype]), copy=False)
        return Tensor(form.name, form.datatype, tuple(value.shape), plain.tobytes())


def _shape(shape: Sequence[Any]) -> tuple[int, ...]:
    """Names, and sizes that are not known, may vary."""
    return tuple(size if isinstance(size, int) and size >= 0 else -1 for size in shape)
