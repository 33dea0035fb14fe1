"""ONNX models as an engine: the same checks at the door as for PyTorch's, and nothing but tensors of numbers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perunml.serving.engines import load_engine
from perunml.serving.tensors import Tensor, from_numbers, to_numbers
from perunml.testing.service import predict
from perunml.wire.errors import PerunError

onnx = pytest.importorskip("onnx", reason="onnx is not installed; `make setup` installs it")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed; `make setup` installs it")
from onnx import TensorProto, helper  # noqa: E402 - after it is known to be there


def write(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], domains: tuple[str, ...] = ("",)
) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, 17) for domain in domains], ir_version=9)
    path.write_bytes(made.SerializeToString())
    return path


@pytest.fixture
def scaled(tmp_path: Path) -> Path:
    """y = x + x, and how many rows there are."""
    return write(
        tmp_path / "model.onnx",
        [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Shape", ["x"], ["n"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3]), helper.make_tensor_value_info("n", TensorProto.INT64, [2])],
    )  # fmt: skip


def test_a_graph_computes_by_name(scaled: Path) -> None:
    """Over tensors and over JSON; the forms are the graph's own."""
    engine = load_engine("onnx", scaled)
    form = engine.forms()
    assert (form.platform, form.inputs[0].shape, form.inputs[0].datatype) == ("onnx", (-1, 3), "FP32")
    assert [(each.name, each.datatype) for each in form.outputs] == [("y", "FP32"), ("n", "INT64")]
    y, n = engine.infer([from_numbers("x", "FP32", (2, 3), [1, 2, 3, 4, 5, 6])])
    assert (to_numbers(y), y.shape, to_numbers(n)) == ([2, 4, 6, 8, 10, 12], (2, 3), [2, 3])
    assert predict(engine, {"x": [[1, 2, 3]]}) == {"y": [[2, 4, 6]], "n": [1, 3]}


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("z", "FP32", (1, 3), bytes(12)), Tensor("x", "FP64", (1, 3), bytes(24)), Tensor("x", "FP32", (3,), bytes(12)),
        Tensor("x", "FP32", (1, 4), bytes(16)), Tensor("x", "FP32", (1, 3), bytes(11)), Tensor("x", "FP32", (1, 3), b"\xff" * 12),
        Tensor("x", "BF16", (1, 3), bytes(6)),
    ],
)  # fmt: skip
def test_inputs_of_another_form_are_refused(scaled: Path, tensor: Tensor) -> None:
    """Name, type, rank, size, bytes, NaN."""
    engine = load_engine("onnx", scaled)
    with pytest.raises(PerunError) as caught:
        engine.infer([tensor])
    assert caught.value.code == "inputs_refused"
    with pytest.raises(PerunError) as caught:
        predict(engine, {"x": [[1, "a", 3]]})
    assert caught.value.code == "inputs_refused"


def test_what_is_not_finite_does_not_leave(tmp_path: Path) -> None:
    """Of 1/0 nothing is said but that the model failed."""
    path = write(
        tmp_path / "m.onnx", [helper.make_node("Reciprocal", ["x"], ["y"])], [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )  # fmt: skip
    with pytest.raises(PerunError) as caught:
        predict(load_engine("onnx", path), {"x": [0]})
    assert caught.value.code == "inference_failed"


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    """Junk, unknown operators, text tensors, weights that would lie in other files."""
    path = tmp_path / "model.onnx"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    outside = helper.make_tensor("w", TensorProto.FLOAT, [2], bytes(8), raw=True)
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    entry = outside.external_data.add()
    entry.key, entry.value = "location", "../../etc/hostname"
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])], [outside])  # fmt: skip
    far = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    text = helper.make_tensor_value_info("x", TensorProto.STRING, [1])
    odd = write(path, [helper.make_node("Evil", ["x"], ["y"], domain="evil")], [x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])], ("", "evil")).read_bytes()  # fmt: skip
    words = write(path, [helper.make_node("Identity", ["x"], ["y"])], [text], [helper.make_tensor_value_info("y", TensorProto.STRING, [1])]).read_bytes()  # fmt: skip
    for data in (b"", b"junk" * 100, far, odd, words):
        path.write_bytes(data)
        with pytest.raises(PerunError) as caught:
            load_engine("onnx", path)
        assert caught.value.code == "model_refused"
        assert "hostname" not in str(caught.value)


def test_a_scikit_learn_model_is_served_through_onnx(tmp_path: Path) -> None:
    """A pipeline of a scaler and a classifier, converted; probabilities as its own, labels that are text left out."""
    convert = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed; `make setup` installs it")
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    import numpy as np
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(1)
    rows = rng.random((200, 4)).astype(np.float32)
    model = make_pipeline(StandardScaler(), linear.LogisticRegression()).fit(
        rows, np.where(rows[:, 0] > 0.5, "ill", "well")
    )
    from skl2onnx.common.data_types import FloatTensorType

    made = convert.convert_sklearn(
        model, initial_types=[("x", FloatTensorType([None, 4]))], options={"zipmap": False}, target_opset=17
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    engine = load_engine("onnx", path)
    (output,) = engine.infer([from_numbers("x", "FP32", (5, 4), rows[:5].tolist())])
    assert output.name == "probabilities"
    assert np.allclose(np.reshape(to_numbers(output), (5, 2)), model.predict_proba(rows[:5]), atol=1e-5)


@pytest.mark.sandbox
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("bwrap") is None, reason="the runner makes mounts, as root, with bubblewrap"
)
def test_the_runtime_works_in_the_sandbox(scaled: Path) -> None:
    """As a service starts it: a process without network, files or keys."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("confined.py")), str(scaled.parent), "onnx"], input='{"x": [[1, 2, 3]]}\n', capture_output=True,
        text=True, env=env, timeout=240, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    told, answer = [json.loads(line) for line in done.stdout.splitlines()]
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert answer == {"y": [[2, 4, 6]], "n": [1, 3]}
