"""Engines: what computes a service's answers. One method after loading, so that others can come.

An engine gets a model that was unsealed into memory and inputs that a client sent; both are other people's. It checks
both, and what it raises never carries a value of either.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from perunml.agreements.jobs import LANGUAGE
from perunml.serving.archive import check_pt2
from perunml.serving.blobs import from_bytes, name_of, output_forms, to_bytes
from perunml.serving.codes import ENGINE_UNKNOWN, INFERENCE_FAILED, INPUTS_REFUSED, MODEL_REFUSED
from perunml.serving.forms import ModelForm
from perunml.serving.language import LanguageEngine
from perunml.serving.tensors import Tensor, TensorForm
from perunml.wire.errors import PerunError, refuse

MAX_ELEMENTS = 4 * 2**20
"""Numbers in one request or answer; JSON of so many has about 80 MB."""
MAX_RANK = 8
THREADS = 2
"""PyTorch's threads within one operator: a service shares its host."""


class Engine(Protocol):
    """A loaded model, asked from several threads at once."""

    def forms(self) -> ModelForm:
        """What it takes and gives."""
        ...

    def infer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs for one request. Raises `UsageError` (inputs_refused) and `JobFailed` (inference_failed)."""
        ...


def load_engine(name: str, model: Path, entry: Path | None = None) -> Engine:
    """The engine that the agreement names, with `model`: a `.pt2`, `.onnx` or `.safetensors` file, or a folder that holds exactly one; `entry` is the architecture's file. Raises
    `AgreementRefusal` (engine_unknown) and `IntegrityError` (model_refused)."""
    if name == "safetensors" and entry is not None:
        from perunml.serving.architecture import Architecture

        return Architecture(_model_file(model), entry)
    if name == "onnx":
        from perunml.serving.onnx import Onnx

        return Onnx(_model_file(model))
    if name != "torch-export":
        raise refuse(ENGINE_UNKNOWN, f"no engine {name!r} here", expected="torch-export, onnx", seen=name)
    return TorchExport(_model_file(model).read_bytes())


def load_language(name: str, model: Path) -> LanguageEngine:
    """The language engine that the agreement names, with the model in the folder `model`. Raises as `load_engine`."""
    if name == "transformers":
        from perunml.serving.transformers import Transformers

        return Transformers(model)
    if name == "vllm":
        from perunml.serving.vllm import Vllm

        return Vllm(model)
    raise refuse(ENGINE_UNKNOWN, f"no engine {name!r} here", expected=", ".join(LANGUAGE), seen=name)


def _model_file(place: Path) -> Path:
    if place.is_file():
        return place
    files = [path for path in sorted(place.rglob("*")) if path.is_file()]
    if len(files) != 1:
        raise refuse(MODEL_REFUSED, "the model is not one file", expected="one file", seen=f"{len(files)} files")
    return files[0]


class TorchModel:
    """A PyTorch module and what it takes: each input's type, its shape with [least, most] for what may vary, and whether it is passed by keyword. Outputs have the names of the dictionary that it
    returns, or ``output`` or ``output_0``, ``output_1``…"""

    def __init__(
        self, module: Any, inputs: Mapping[str, tuple[Any, list[Any], bool]], form: ModelForm, device: str
    ) -> None:
        self._module, self._inputs, self._form, self._device = module, inputs, form, device

    def forms(self) -> ModelForm:
        return self._form

    def infer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        check_names(self._inputs, inputs)
        given = {tensor.name: tensor for tensor in inputs}
        tensors = {name: from_bytes(given[name], *form[:2]) for name, form in self._inputs.items()}
        return [to_bytes(name, value) for name, value in self._run(tensors).items()]

    def _run(self, tensors: dict[str, Any]) -> dict[str, Any]:
        import torch

        placed = {name: tensor.to(self._device) for name, tensor in tensors.items()}
        arguments = [tensor for name, tensor in placed.items() if not self._inputs[name][2]]
        keywords = {name: tensor for name, tensor in placed.items() if self._inputs[name][2]}
        try:
            with torch.inference_mode():
                found = self._module(*arguments, **keywords)
        except Exception as exc:
            raise refuse(INFERENCE_FAILED, f"the model failed on these inputs ({type(exc).__name__})") from None
        return _outputs(found)


class TorchExport(TorchModel):
    """An exported program (`torch.export.save`), on the GPU where the host shows one. Inputs are tensors by the names of `forward`'s arguments."""

    def __init__(self, archive: bytes, *, threads: int = THREADS) -> None:
        """Raises `IntegrityError` (model_refused)."""
        import torch

        check_pt2(archive)
        torch.set_num_threads(threads)
        device = device_name()
        try:
            _check_sample_inputs(archive)
            with _quiet():
                program = torch.export.load(io.BytesIO(archive))
                if device != "cpu":
                    program = torch.export.passes.move_to_device_pass(program, device)
            inputs = _input_forms(program)
            rows = [TensorForm(name, name_of(dtype), _varying(shape)) for name, (dtype, shape, _) in inputs.items()]
            form = ModelForm("torch-export", tuple(rows), output_forms(program))
            super().__init__(program.module(), inputs, form, device)
        except PerunError:
            raise
        except Exception as exc:
            # The reader raises whatever its parts raise; the message may quote the archive, so the type must do.
            raise refuse(MODEL_REFUSED, f"the model is not loaded: {type(exc).__name__} in PyTorch's reader") from None


def device_name() -> str:
    """Where PyTorch computes here: on a GPU that the sandbox shows, or on the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_names(known: Iterable[str], inputs: Sequence[Tensor]) -> None:
    """Raises `UsageError` (inputs_refused) unless the inputs are those that the model has, each once."""
    wanted, names = list(known), [tensor.name for tensor in inputs]
    if len(names) != len(wanted) or set(names) != set(wanted):
        raise refuse(INPUTS_REFUSED, "other inputs than the model's", expected=", ".join(wanted), seen=", ".join(names))


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


def _outputs(found: Any) -> dict[str, Any]:
    if isinstance(found, dict):
        return found
    if isinstance(found, (tuple, list)):
        return {f"output_{index}": value for index, value in enumerate(found)}
    return {"output": found}


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
