"""Engines: what computes a service's answers. One method after loading, so that others can come.

An engine gets a model that was unsealed into memory and inputs that a client sent; both are other people's. It checks
both, and what it raises never carries a value of either.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from perunml.serving.archive import check_pt2
from perunml.serving.blobs import from_bytes, name_of, output_forms, to_bytes
from perunml.serving.codes import ENGINE_UNKNOWN, INFERENCE_FAILED, INPUTS_REFUSED, MODEL_REFUSED
from perunml.serving.forms import ModelForm
from perunml.serving.tensors import Tensor, TensorForm
from perunml.wire.errors import PerunError, refuse

MAX_ELEMENTS = 4 * 2**20
"""Numbers in one request or answer; JSON of so many has about 80 MB."""
MAX_RANK = 8
THREADS = 2
"""PyTorch's threads within one operator: a service shares its host."""


class Engine(Protocol):
    """A loaded model. `predict` is called by one thread at a time."""

    def describe(self) -> dict[str, Any]:
        """Names, types and shapes of the inputs, for error messages and operators."""
        ...

    def forms(self) -> ModelForm:
        """The same for programs, with what it gives."""
        ...

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Outputs by name, as JSON: nested lists of numbers. Raises `UsageError` (inputs_refused) and `JobFailed`
        (inference_failed)."""
        ...

    def infer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """As `predict`, over tensors."""
        ...


def load_engine(name: str, model: Path) -> Engine:
    """The engine that the agreement names, with `model`: a `.pt2` or `.onnx` file, or a folder that holds exactly one. Raises
    `AgreementRefusal` (engine_unknown) and `IntegrityError` (model_refused)."""
    if name == "onnx":
        from perunml.serving.onnx import Onnx

        return Onnx(_model_file(model))
    if name != "torch-export":
        raise refuse(ENGINE_UNKNOWN, f"no engine {name!r} here", expected="torch-export, onnx", seen=name)
    return TorchExport(_model_file(model).read_bytes())


def _model_file(place: Path) -> Path:
    if place.is_file():
        return place
    files = [path for path in sorted(place.rglob("*")) if path.is_file()]
    if len(files) != 1:
        raise refuse(MODEL_REFUSED, "the model is not one file", expected="one file", seen=f"{len(files)} files")
    return files[0]


class TorchExport:
    """An exported program (`torch.export.save`) on the CPU. Inputs are tensors by the names of `forward`'s arguments;
    outputs have the names of the dictionary that `forward` returns, or ``output`` or ``output_0``, ``output_1``…"""

    def __init__(self, archive: bytes, *, threads: int = THREADS) -> None:
        """Raises `IntegrityError` (model_refused)."""
        import torch

        check_pt2(archive)
        torch.set_num_threads(threads)
        try:
            _check_sample_inputs(archive)
            with _quiet():
                program = torch.export.load(io.BytesIO(archive))
            self._inputs = _input_forms(program)
            self._module = program.module()
            self._given = output_forms(program)
        except PerunError:
            raise
        except Exception as exc:
            # The reader raises whatever its parts raise; the message may quote the archive, so the type must do.
            raise refuse(MODEL_REFUSED, f"the model is not loaded: {type(exc).__name__} in PyTorch's reader") from None

    def describe(self) -> dict[str, Any]:
        return {name: {"dtype": str(dtype), "shape": shape} for name, (dtype, shape, _) in self._inputs.items()}

    def forms(self) -> ModelForm:
        inputs = [TensorForm(name, name_of(dtype), _varying(shape)) for name, (dtype, shape, _) in self._inputs.items()]
        return ModelForm("torch-export", tuple(inputs), self._given)

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self._same_names(list(inputs))
        tensors = {name: _tensor(name, inputs[name], *form[:2]) for name, form in self._inputs.items()}
        return {name: _numbers(value) for name, value in self._run(tensors).items()}

    def infer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        self._same_names([tensor.name for tensor in inputs])
        given = {tensor.name: tensor for tensor in inputs}
        tensors = {name: from_bytes(given[name], *form[:2]) for name, form in self._inputs.items()}
        return [to_bytes(name, value) for name, value in self._run(tensors).items()]

    def _same_names(self, names: list[str]) -> None:
        if len(names) != len(self._inputs) or set(names) != set(self._inputs):
            raise refuse(
                INPUTS_REFUSED, "other inputs than the model's", expected=", ".join(self._inputs), seen=", ".join(names)
            )

    def _run(self, tensors: dict[str, Any]) -> dict[str, Any]:
        import torch

        arguments = [tensor for name, tensor in tensors.items() if not self._inputs[name][2]]
        keywords = {name: tensor for name, tensor in tensors.items() if self._inputs[name][2]}
        try:
            with torch.inference_mode():
                found = self._module(*arguments, **keywords)
        except Exception as exc:
            raise refuse(INFERENCE_FAILED, f"the model failed on these inputs ({type(exc).__name__})") from None
        return _outputs(found)


def _varying(shape: list[Any]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def _input_forms(program: Any) -> dict[str, tuple[Any, list[Any], bool]]:
    """Input name -> (dtype, shape with [min, max] for what may vary, whether it is passed by keyword)."""
    positional, named = program.call_spec.in_spec.children()
    names = list(program.graph_signature.user_inputs)
    if len(names) != positional.num_children + named.num_children or not all(
        spec.is_leaf() for spec in (*positional.children(), *named.children())
    ):
        raise refuse(MODEL_REFUSED, "the model takes something else than tensors by name")
    keywords = list(named.context) if named.num_children else []
    if keywords and names[positional.num_children :] != keywords:
        raise refuse(MODEL_REFUSED, "the model's keyword inputs have other names than its program")
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    ranges = {str(symbol): limits for symbol, limits in program.range_constraints.items()}
    forms: dict[str, tuple[Any, list[Any], bool]] = {}
    for index, name in enumerate(names):
        shape: list[Any] = []
        for size in values[name].shape:
            limits = ranges.get(str(size))
            if isinstance(size, int):
                shape.append(size)
            elif limits is None:
                shape.append([1, MAX_ELEMENTS])
            else:
                shape.append([max(0, int(limits.lower)), int(min(limits.upper, MAX_ELEMENTS))])
        forms[name] = (values[name].dtype, shape, index >= positional.num_children)
    return forms


def _tensor(name: str, value: Any, dtype: Any, shape: list[Any]) -> Any:
    """A tensor of exactly the wanted form, or `UsageError` (inputs_refused) that says the form and shows no value."""
    import torch

    wanted = f"{str(dtype).removeprefix('torch.')} of shape {shape}"
    flat, seen = _flatten(name, value, wanted)
    fits = len(seen) == len(shape) and all(
        size == limit if isinstance(limit, int) else limit[0] <= size <= limit[1]
        for size, limit in zip(seen, shape, strict=True)
    )
    if not fits:
        raise refuse(INPUTS_REFUSED, f"input {name!r} has another shape", expected=wanted, seen=str(seen))
    if dtype == torch.bool:
        good = all(type(item) is bool for item in flat)
    elif dtype.is_floating_point:
        good = all(type(item) in (int, float) and math.isfinite(item) for item in flat)
    else:
        limits = torch.iinfo(dtype) if not dtype.is_complex else None
        good = limits is not None and all(type(item) is int and limits.min <= item <= limits.max for item in flat)
    if not good:
        raise refuse(INPUTS_REFUSED, f"input {name!r} has a value of another type or range", expected=wanted)
    made = torch.tensor(flat, dtype=dtype).reshape(seen)
    if dtype.is_floating_point and not torch.isfinite(made).all():
        raise refuse(INPUTS_REFUSED, f"input {name!r} has a value too large for its type", expected=wanted)
    return made


def _flatten(name: str, value: Any, wanted: str) -> tuple[list[Any], list[int]]:
    """The numbers in row order and the shape of nested lists of equal lengths."""
    level: list[Any] = [value]
    shape: list[int] = []
    while level and isinstance(level[0], list):
        length = len(level[0])
        even = all(isinstance(item, list) and len(item) == length for item in level)
        if not even or len(shape) == MAX_RANK or len(level) * length > MAX_ELEMENTS:
            raise refuse(INPUTS_REFUSED, f"input {name!r} is not a block of numbers, or too large", expected=wanted)
        shape.append(length)
        level = [inner for item in level for inner in item]
    return level, shape


def _outputs(found: Any) -> dict[str, Any]:
    if isinstance(found, dict):
        return found
    if isinstance(found, (tuple, list)):
        return {f"output_{index}": value for index, value in enumerate(found)}
    return {"output": found}


def _numbers(value: Any) -> Any:
    import torch

    if not isinstance(value, torch.Tensor) or value.numel() > MAX_ELEMENTS or value.is_complex():
        raise refuse(INFERENCE_FAILED, "the model's output is not a tensor of real numbers, or too large")
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise refuse(INFERENCE_FAILED, "the model's output is not finite")
    return value.detach().cpu().tolist()


def _check_sample_inputs(archive: bytes) -> None:
    """PyTorch's reader tries its restricted unpickler first and a full pickle when that fails: so it must not fail."""
    import zipfile

    import torch

    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        name = next(name for name in members.namelist() if name.endswith("data/sample_inputs/model.pt"))
        sample = members.read(name)
    if sample:
        torch.load(io.BytesIO(sample), weights_only=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch's reader logs tracebacks, with the archive's text in them, before it raises."""
    import logging

    log = logging.getLogger("torch.export")
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before
