"""Weights and code of two owners as an engine: what fits is computed, and what does not is refused without a word of either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perunml.serving.engines import load_engine
from perunml.serving.tensors import TensorForm, from_numbers, to_numbers
from perunml.testing.service import predict
from perunml.wire.errors import PerunError

pytestmark = pytest.mark.torch
CODE = """
import torch

INPUTS = {"x": ("FP32", [-1, 2]), "n": ("INT64", [])}
OUTPUTS = {"y": ("FP32", [-1])}


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, n, x):
        return {"y": self.drop(x @ self.weight) + n}


def build():
    return Net()
"""


def brought(folder: Path, code: str = CODE, **weights: Any) -> Any:
    """The engine of `code` with weights of [2, 3], or what `weights` says."""
    import torch
    from safetensors.torch import save_file

    save_file(weights or {"weight": torch.tensor([2.0, 3.0])}, folder / "w.safetensors")
    (folder / "net.py").write_text(code)
    return load_engine("safetensors", folder / "w.safetensors", folder / "net.py")


def test_weights_and_code_are_a_model(tmp_path: Path) -> None:
    """By name, in whatever order; dropout is off; what it takes and gives is told."""
    engine = brought(tmp_path)
    assert predict(engine, {"n": 5, "x": [[1, 1], [0, 2]]}) == {"y": [10, 11]}
    assert predict(engine, {"x": [], "n": 5} | {"x": [[0, 0]]}) == {"y": [5]}
    assert engine.forms().inputs == (TensorForm("x", "FP32", (-1, 2)), TensorForm("n", "INT64", ()))
    assert engine.forms().outputs == (TensorForm("y", "FP32", (-1,)),)
    assert engine.forms().platform == "safetensors"


@pytest.mark.parametrize(
    "inputs", [{"x": [[1, 1]]}, {"x": [[1, 1, 1]], "n": 1}, {"x": [1, 1], "n": 1}, {"x": [[1, 1]], "n": 1, "m": 1}]
)
def test_inputs_of_another_form_are_refused(tmp_path: Path, inputs: dict[str, Any]) -> None:
    """As the code says that they are."""
    with pytest.raises(PerunError) as refused:
        predict(brought(tmp_path), inputs)
    assert refused.value.code == "inputs_refused"


def test_a_value_of_another_type_is_refused(tmp_path: Path) -> None:
    """INT64 where FP32 is wanted."""
    with pytest.raises(PerunError) as refused:
        brought(tmp_path).infer([from_numbers("x", "INT64", (1, 2), [1, 1]), from_numbers("n", "INT64", (), [1])])
    assert refused.value.code == "inputs_refused"


def test_code_that_fails_at_a_request_fails_that_request(tmp_path: Path) -> None:
    """Without a word of what it says."""
    engine = brought(tmp_path, CODE.replace("return {", "assert int(n) != 13, f'secret {x}'; return {"))
    with pytest.raises(PerunError) as refused:
        predict(engine, {"x": [[1, 1]], "n": 13})
    assert refused.value.code == "inference_failed"
    assert "secret" not in str(refused.value)
    found = engine.infer([from_numbers("x", "FP32", (1, 2), [1, 1]), from_numbers("n", "INT64", (), [1])])
    assert to_numbers(found[0]) == [6]


def _weights() -> dict[str, dict[str, Any]]:
    import torch

    return {
        "other name": {"other": torch.zeros(2)},
        "more": {"weight": torch.zeros(2), "other": torch.zeros(2)},
        "other shape": {"weight": torch.zeros(3)},
    }


@pytest.mark.parametrize("which", ["other name", "more", "other shape"])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, which: str) -> None:
    """All that the code wants, and no others."""
    with pytest.raises(PerunError) as refused:
        brought(tmp_path, **_weights()[which])
    assert refused.value.code == "model_refused"


@pytest.mark.parametrize(
    "code",
    [
        "", "secret = 1/0", "def build(", CODE.replace("def build", "def made"), CODE.replace("INPUTS =", "TAKES ="), CODE.replace("return Net()", "return 1"),
        CODE.replace('"FP32", [-1, 2]', '"FP33", [-1, 2]'), CODE.replace("[-1, 2]", "[-2, 2]"), CODE.replace("[-1, 2]", "7"), CODE.replace('("INT64", [])', "()"),
        CODE.replace('"INT64", []', '"INT64", [1] * 9'), CODE.replace("INPUTS = {", "INPUTS = {} and {"),
    ],
    ids=range(12),
)  # fmt: skip
def test_code_that_is_no_architecture_is_refused(tmp_path: Path, code: str) -> None:
    """Nothing to build, nothing said of inputs, of types that there are not; and what it raises is not shown."""
    with pytest.raises(PerunError) as refused:
        brought(tmp_path, code)
    assert refused.value.code == "model_refused"
    assert "secret" not in str(refused.value)


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    """Looked at before anything reads it."""
    (tmp_path / "net.py").write_text(CODE)
    (tmp_path / "w.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(PerunError) as refused:
        load_engine("safetensors", tmp_path / "w.safetensors", tmp_path / "net.py")
    assert refused.value.code == "model_refused"
    with pytest.raises(PerunError) as refused:
        load_engine("safetensors", tmp_path / "w.safetensors")
    assert refused.value.code == "engine_unknown"
