"""The Open Inference Protocol over a real engine: JSON, binary, metadata, and whatever a client may send instead."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.serving.forms import ModelForm
from perunml.serving.inner import Inner, Reply
from perunml.serving.oip import LENGTH, OpenInference
from perunml.serving.tensors import CODES, WIDTH, Tensor, TensorForm, from_numbers, to_numbers
from perunml.testing.service import load, predict
from perunml.testing.story.data import patient
from perunml.wire.errors import PerunError

pytestmark = pytest.mark.torch
INFER = "/v2/models/model/infer"


class Echo:
    """Gives back what it gets, under other names."""

    def forms(self) -> ModelForm:
        return ModelForm("echo", (TensorForm("a", "FP32", (-1, 2)),), ())

    def infer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [Tensor(f"{each.name}-out", each.datatype, each.shape, each.data) for each in inputs]


ECHO = OpenInference(Echo(), "model")


def ask(handler: OpenInference, path: str, value: Any = None, data: bytes = b"", **headers: str) -> Reply:
    if value is None:
        return handler(Inner("GET", path, {}, b""))
    head = value if isinstance(value, bytes) else json.dumps(value).encode()
    more = {LENGTH: str(len(head))} if data or headers.pop("binary", "") else {}
    return handler(Inner("POST", path, {"content-type": "application/json", **more, **headers}, head + data))


def read(reply: Reply) -> tuple[dict[str, Any], bytes]:
    body = b"".join(reply.parts)
    size = int(reply.headers.get(LENGTH, len(body)))
    found: dict[str, Any] = json.loads(body[:size])
    return found, body[size:]


@pytest.fixture(scope="module")
def served(model: Path) -> OpenInference:
    return OpenInference(load(model), "model")


def test_json_and_binary_give_the_same(served: OpenInference) -> None:
    """And the same as `perunml infer`'s numbers, to the last bit."""
    rows = patient()["features"]
    flat = [number for row in rows for number in row]
    wanted = predict(served._engine, patient())["probabilities"]
    tensor = {"name": "features", "datatype": "FP32", "shape": [len(rows), 30]}
    for data in (rows, flat):
        answer, more = read(ask(served, INFER, {"id": "one", "inputs": [{**tensor, "data": data}]}))
        assert (answer["model_name"], answer["model_version"], answer["id"], more) == ("model", "1", "one", b"")
        (output,) = [each for each in answer["outputs"] if each["name"] == "probabilities"]
        assert (output["datatype"], output["shape"]) == ("FP32", [len(rows), len(wanted[0])])
        assert output["data"] == [number for row in wanted for number in row]
    packed = struct.pack(f"<{len(flat)}f", *flat)
    binary = {**tensor, "parameters": {"binary_data_size": len(packed)}}
    answer, more = read(
        ask(
            served,
            INFER,
            {"inputs": [binary], "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]},
            packed,
        )
    )
    assert [each["name"] for each in answer["outputs"]] == ["probabilities"]
    assert answer["outputs"][0]["parameters"] == {"binary_data_size": len(more)}
    assert list(struct.unpack(f"<{len(more) // 4}f", more)) == [number for row in wanted for number in row]
    whole, all_more = read(ask(served, INFER, {"inputs": [binary], "parameters": {"binary_data_output": True}}, packed))
    assert sum(each["parameters"]["binary_data_size"] for each in whole["outputs"]) == len(all_more)


def test_metadata_and_health(served: OpenInference) -> None:
    """What a client asks first; the model's inputs and outputs with their types and what may vary."""
    assert read(ask(served, "/v2"))[0]["extensions"] == ["binary_tensor_data"]
    assert read(ask(served, "/v2/health/live"))[0] == {"live": True}
    assert read(ask(served, "/v2/models/model/versions/1/ready"))[0] == {"name": "model", "ready": True}
    told = read(ask(served, "/v2/models/model"))[0]
    assert told["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 30]}]
    assert told["platform"] == "torch-export"
    assert [each["name"] for each in told["outputs"]] == list(predict(served._engine, patient()))


@pytest.mark.parametrize(
    "path", ["/v2/models/other", "/v2/models/model/versions/2", "/v2/models/model/infer", "/", "/v2/x", "/v2/models/"]
)
def test_other_models_and_paths_are_refused(path: str) -> None:
    """One model, one version."""
    with pytest.raises(PerunError) as caught:
        ask(ECHO, path)
    assert caught.value.code == "model_unknown"


A = {"name": "a", "datatype": "FP32", "shape": [2], "data": [1, 2]}


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ([], b""), ({}, b""), ({"inputs": {}}, b""), ({"inputs": []}, b""), ({"inputs": [A] * 65}, b""), ({"inputs": [A], "x": 1}, b""),
        ({"inputs": [{**A, "name": ""}]}, b""), ({"inputs": [{**A, "name": 7}]}, b""), ({"inputs": [{**A, "name": "\x1b"}]}, b""),
        ({"inputs": [{**A, "datatype": "BYTES"}]}, b""), ({"inputs": [{**A, "datatype": "fp32"}]}, b""), ({"inputs": [{**A, "datatype": []}]}, b""),
        ({"inputs": [{**A, "shape": [3]}]}, b""), ({"inputs": [{**A, "shape": [-2]}]}, b""), ({"inputs": [{**A, "shape": "2"}]}, b""),
        ({"inputs": [{**A, "shape": [2**40, 2**40]}]}, b""), ({"inputs": [{**A, "shape": [1] * 9}]}, b""), ({"inputs": [{**A, "shape": [True, 2]}]}, b""),
        ({"inputs": [{**A, "data": ["1", 2]}]}, b""), ({"inputs": [{**A, "data": [1, None]}]}, b""), ({"inputs": [{**A, "data": [[1], 2]}]}, b""),
        ({"inputs": [{**A, "data": [1, 1e40]}]}, b""), ({"inputs": [{**A, "data": 1}]}, b""), ({"inputs": [{**A, "data": [True, 2]}]}, b""),
        ({"inputs": [{**A, "datatype": "INT8", "data": [1, 200]}]}, b""), ({"inputs": [{**A, "datatype": "INT64", "data": [1, 2.0]}]}, b""),
        ({"inputs": [{**A, "datatype": "BOOL", "data": [1, 0]}]}, b""), ({"inputs": [{**A, "datatype": "BF16"}]}, b""),
        ({"inputs": [{**A, "parameters": {"binary_data_size": 8}}]}, b"12345678"), ({"inputs": [{**A, "parameters": []}]}, b""),
        ({"inputs": [{"name": "a", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 7}}]}, b"1234567"),
        ({"inputs": [{"name": "a", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}]}, b"1234567"),
        ({"inputs": [A]}, b"left over"), ({"inputs": [A], "outputs": [{"name": "b"}]}, b""), ({"inputs": [A], "outputs": "a"}, b""),
        ({"inputs": [A], "outputs": [{"name": "a-out", "parameters": {"classification": 3}}]}, b""), ({"inputs": [A], "id": 7}, b""),
        ({"inputs": [A], "parameters": 7}, b""), (b"\xff", b""), (b"[" * 100_000, b""), (b'{"inputs": [NaN]}', b""),
    ],
)  # fmt: skip
def test_malformed_requests_are_refused_by_code(value: Any, data: bytes) -> None:
    """Wrong shapes, types, sizes, numbers that are none, bytes that are nobody's: inputs_refused, before an engine sees anything."""
    with pytest.raises(PerunError) as caught:
        ask(ECHO, INFER, value, data)
    assert caught.value.code == "inputs_refused"


@pytest.mark.parametrize("length", ["-1", "x", "999999999999999", "", "１"])
def test_a_header_length_that_is_none_is_refused(length: str) -> None:
    """It says where the JSON ends."""
    with pytest.raises(PerunError) as caught:
        ask(ECHO, INFER, {"inputs": [A]}, **{LENGTH: length})
    assert caught.value.code == "inputs_refused"


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data_size", "inputs", "x"]), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(VALUE, st.binary(max_size=20))
def test_whatever_comes_is_answered_or_refused_by_code(value: Any, data: bytes) -> None:
    """No exception of any other kind."""
    for body in (
        value,
        {"inputs": [value]},
        {"inputs": [{**A, "parameters": value}]},
        {"inputs": [{**A, "data": value}]},
    ):
        code = "inputs_refused"
        try:
            read(ask(ECHO, INFER, json.dumps(body).encode(), data))
        except PerunError as exc:
            code = exc.code
        assert code == "inputs_refused"


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(CODES)), st.data())
def test_numbers_of_every_type_come_back(datatype: str, data: st.DataObject) -> None:
    """Through bytes and lists."""
    if datatype == "BOOL":
        element: st.SearchStrategy[Any] = st.booleans()
    elif datatype.startswith("FP"):
        element = st.floats(allow_nan=False, allow_infinity=False, width=8 * WIDTH[datatype])
    else:
        most = 8 * WIDTH[datatype]
        element = (
            st.integers(0, 2**most - 1)
            if datatype.startswith("U")
            else st.integers(-(2 ** (most - 1)), 2 ** (most - 1) - 1)
        )
    values = data.draw(st.lists(element, max_size=12))
    tensor = from_numbers("x", datatype, (len(values),), values)
    assert to_numbers(tensor) == values
    answer, _ = read(ask(ECHO, INFER, {"inputs": [{"name": "x", "datatype": datatype, "shape": [len(values)], "parameters": {"binary_data_size": len(tensor.data)}}]}, bytes(tensor.data), binary="yes"))  # fmt: skip
    assert answer["outputs"][0]["data"] == values
