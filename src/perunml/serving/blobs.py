"""PyTorch's tensors from and to the bytes of a request, in the engine's process."""

from __future__ import annotations

from typing import Any

from perunml.serving.codes import INFERENCE_FAILED, INPUTS_REFUSED
from perunml.serving.tensors import MAX_ELEMENTS, WIDTH, Tensor, TensorForm, checked
from perunml.wire.errors import refuse

NAMES = {
    "bool": "BOOL", "uint8": "UINT8", "int8": "INT8", "uint16": "UINT16", "int16": "INT16", "float16": "FP16", "bfloat16": "BF16",
    "uint32": "UINT32", "int32": "INT32", "float32": "FP32", "uint64": "UINT64", "int64": "INT64", "float64": "FP64",
}  # fmt: skip


def name_of(dtype: Any) -> str:
    """The protocol's name of a PyTorch type; "" for one that it has not (complex numbers)."""
    return NAMES.get(str(dtype).removeprefix("torch."), "")


def from_bytes(tensor: Tensor, dtype: Any, shape: list[Any]) -> Any:
    """A tensor of exactly the wanted form: `shape` has [least, most] for what may vary. Raises `UsageError` (inputs_refused), which shows no value."""
    import torch

    wanted = f"{name_of(dtype)} of shape {shape}"
    size = checked(tensor.name, tensor.datatype, tensor.shape)
    fits = len(tensor.shape) == len(shape) and all(
        seen == limit if isinstance(limit, int) else limit[0] <= seen <= limit[1]
        for seen, limit in zip(tensor.shape, shape, strict=True)
    )
    if tensor.datatype != name_of(dtype) or not fits or len(tensor.data) != size:
        seen = f"{tensor.datatype} of shape {list(tensor.shape)}"
        raise refuse(INPUTS_REFUSED, f"input {tensor.name!r} is of another form", expected=wanted, seen=seen)
    if tensor.datatype == "BOOL" and not set(bytes(tensor.data)) <= {0, 1}:
        raise refuse(INPUTS_REFUSED, f"input {tensor.name!r} has a value that is no truth value", expected=wanted)
    data = bytearray(tensor.data)
    made = torch.frombuffer(data, dtype=dtype).reshape(tensor.shape) if data else torch.empty(tensor.shape, dtype=dtype)
    if dtype.is_floating_point and not torch.isfinite(made).all():
        raise refuse(INPUTS_REFUSED, f"input {tensor.name!r} has a value that is not finite", expected=wanted)
    return made


def to_bytes(name: str, value: Any) -> Tensor:
    """Raises `JobFailed` (inference_failed): no tensor, too large, not finite, or of a type that cannot be sent."""
    import torch

    datatype = name_of(value.dtype) if isinstance(value, torch.Tensor) else ""
    if not datatype or value.numel() > MAX_ELEMENTS:
        raise refuse(INFERENCE_FAILED, "the model's output is not a tensor of real numbers, or too large")
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise refuse(INFERENCE_FAILED, "the model's output is not finite")
    plain = value.detach().cpu().contiguous()
    data = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    assert len(data) == plain.numel() * WIDTH[datatype]
    return Tensor(name, datatype, tuple(plain.shape), data)


def output_forms(program: Any) -> tuple[TensorForm, ...]:
    """What an exported program gives, as far as it says so: names as `engines` gives them."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    found: list[Any] = [values.get(name) for name in program.graph_signature.user_outputs]
    spec = program.call_spec.out_spec
    if spec.is_leaf():
        names = ["output"]
    elif spec.type is dict:
        names = [str(key) for key in spec.context]
    else:
        names = [f"output_{number}" for number in range(len(found))]
    if len(names) != len(found) or any(value is None or not name_of(getattr(value, "dtype", None)) for value in found):
        return ()
    forms = [
        TensorForm(name, name_of(value.dtype), tuple(size if isinstance(size, int) else -1 for size in value.shape))
        for name, value in zip(names, found, strict=True)
    ]
    return tuple(forms)
