"""The Open Inference Protocol, version 2, over HTTP, with its binary tensor extension: from an inner request to an engine and back.

https://github.com/kserve/open-inference-protocol (specification/protocol/inference_rest.md) and the binary tensor data extension. One model, one
version; BYTES tensors, shared memory and sequences are refused. A refusal is raised, and becomes the protocol's error where the client's proxy opens it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from perunml.serving.codes import INPUTS_REFUSED, MODEL_UNKNOWN
from perunml.serving.engines import Engine
from perunml.serving.forms import forms_json
from perunml.serving.inner import Inner, Reply
from perunml.serving.tensors import MAX_TENSORS, Tensor, checked, from_numbers, to_numbers
from perunml.wire.canonical import load_json
from perunml.wire.errors import PerunError, refuse

VERSION = "1"
MAX_HEAD = 16 * 2**20
"""Bytes of a request's JSON; numbers in JSON take some eight times their binary size."""
LENGTH = "inference-header-content-length"
_MODEL = re.compile(r"/v2/models/([^/]{1,255})(?:/versions/([^/]{1,32}))?(/ready|/infer)?")
_JSON = {"content-type": "application/json"}
_BINARY = "application/octet-stream"
_REQUEST = {"id", "parameters", "inputs", "outputs"}
_INPUT = {"name", "shape", "datatype", "parameters", "data"}


class OpenInference:
    """Serves `engine` as the model `name` (its digest's first digits, or what the service likes). A `Handler`."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name

    def __call__(self, request: Inner) -> Reply:
        """Raises `UsageError` (inputs_refused, model_unknown), and what the engine raises."""
        if request.method == "GET":
            return _reply(self._shown(request.path))
        match = _MODEL.fullmatch(request.path)
        if request.method != "POST" or match is None or match[3] != "/infer":
            raise _unknown(request)
        self._check_model(match)
        return self._inferred(request)

    def _shown(self, path: str) -> Any:
        if path in ("/v2/health/live", "/v2/health/ready"):
            return {"live" if path.endswith("live") else "ready": True}
        if path in ("/v2", "/v2/"):
            return {"name": "perunml", "version": VERSION, "extensions": ["binary_tensor_data"]}
        match = _MODEL.fullmatch(path)
        if match is None or match[3] == "/infer":
            raise _unknown(Inner("GET", path, {}, b""))
        self._check_model(match)
        if match[3] == "/ready":
            return {"name": self._name, "ready": True}
        return {"name": self._name, "versions": [VERSION], **forms_json(self._engine.forms())}

    def _check_model(self, match: re.Match[str]) -> None:
        if match[1] != self._name or match[2] not in (None, VERSION):
            raise refuse(
                MODEL_UNKNOWN,
                "the service has no such model",
                expected=f"{self._name}, version {VERSION}",
                seen=match[1],
            )

    def _inferred(self, request: Inner) -> Reply:
        head, data = _split(request)
        if not isinstance(head, dict) or set(head) - _REQUEST or not isinstance(head.get("inputs"), list):
            raise refuse(
                INPUTS_REFUSED, "not an inference request", expected="inputs, and perhaps id, parameters, outputs"
            )
        if not 0 < len(head["inputs"]) <= MAX_TENSORS:
            raise refuse(INPUTS_REFUSED, "no inputs, or too many", expected=f"1 to {MAX_TENSORS}")
        name = head.get("id", "")
        parameters = _object(head.get("parameters", {}), "parameters")
        if not isinstance(name, str) or len(name) > 256:
            raise refuse(INPUTS_REFUSED, "the request's id is no short text")
        tensors, at = [], 0
        for row in head["inputs"]:
            tensor, at = _input(row, data, at)
            tensors.append(tensor)
        if at != len(data):
            raise refuse(
                INPUTS_REFUSED, "binary data that no input names", expected=f"{at} bytes", seen=f"{len(data)} bytes"
            )
        wanted = _wanted(head.get("outputs"), parameters)
        found = self._engine.infer(tensors)
        return self._answer(name, found, wanted)

    def _answer(self, name: str, found: list[Tensor], wanted: Mapping[str, bool] | bool) -> Reply:
        rows: list[dict[str, Any]] = []
        parts: list[bytes | memoryview] = []
        if isinstance(wanted, bool):
            chosen = {tensor.name: wanted for tensor in found}
        elif missing := set(wanted) - {tensor.name for tensor in found}:
            raise refuse(
                INPUTS_REFUSED,
                "the model has no such output",
                expected=", ".join(t.name for t in found),
                seen=sorted(missing)[0],
            )
        else:
            chosen = dict(wanted)
        for tensor in found:
            if tensor.name not in chosen:
                continue
            row: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
            if chosen[tensor.name]:
                row["parameters"] = {"binary_data_size": len(tensor.data)}
                parts.append(tensor.data)
            else:
                row["data"] = to_numbers(tensor)
            rows.append(row)
        value = {"model_name": self._name, "model_version": VERSION, **({"id": name} if name else {}), "outputs": rows}
        return _reply(value, parts)


def _reply(value: Any, parts: list[bytes | memoryview] | None = None, status: int = 200) -> Reply:
    import json  # floats as Python writes them: canonical JSON would write 1.0 as 1

    head = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    if parts is None or not parts:
        return Reply(status, {**_JSON}, [head])
    return Reply(status, {"content-type": _BINARY, LENGTH: str(len(head))}, [head, *parts])


def _split(request: Inner) -> tuple[Any, memoryview]:
    """The JSON and the binary data behind it. Raises `UsageError` (inputs_refused)."""
    body = memoryview(request.body)
    length = request.headers.get(LENGTH)
    if length is not None and (not length.isascii() or not length.isdigit() or int(length[:12]) > len(body)):
        raise refuse(INPUTS_REFUSED, f"{LENGTH} is not the length of a part of the body", seen=length[:20])
    size = len(body) if length is None else int(length[:12])
    try:
        return load_json(bytes(body[:size]), limit=MAX_HEAD), body[size:]
    except PerunError:
        raise refuse(
            INPUTS_REFUSED, "the request is not JSON, or too large", expected=f"at most {MAX_HEAD} bytes"
        ) from None


def _input(row: Any, data: memoryview, at: int) -> tuple[Tensor, int]:
    if not isinstance(row, dict) or set(row) - _INPUT:
        raise refuse(
            INPUTS_REFUSED, "an input has other members than the protocol's", expected=", ".join(sorted(_INPUT))
        )
    name, datatype, shape = row.get("name"), row.get("datatype"), row.get("shape")
    size = checked(name, datatype, shape)
    parameters = _object(row.get("parameters", {}), f"{name}: parameters")
    if "binary_data_size" not in parameters:
        return from_numbers(str(name), str(datatype), tuple(shape or ()), row.get("data")), at
    if "data" in row or parameters["binary_data_size"] != size or at + size > len(data):
        raise refuse(INPUTS_REFUSED, f"{name}: its binary data is not of its shape", expected=f"{size} bytes")
    return Tensor(str(name), str(datatype), tuple(shape or ()), data[at : at + size]), at + size


def _wanted(outputs: Any, parameters: dict[str, Any]) -> Mapping[str, bool] | bool:
    """Whether binary, by output; or for all of them."""
    default = parameters.get("binary_data_output", False)
    if outputs is None or outputs == []:
        return default is True
    if not isinstance(outputs, list) or len(outputs) > MAX_TENSORS:
        raise refuse(INPUTS_REFUSED, "outputs are no list of names")
    found: dict[str, bool] = {}
    for row in outputs:
        if not isinstance(row, dict) or set(row) - {"name", "parameters"} or not isinstance(row.get("name"), str):
            raise refuse(INPUTS_REFUSED, "a wanted output has a name and perhaps parameters")
        said = _object(row.get("parameters", {}), "an output's parameters")
        if "classification" in said or "shared_memory_region" in said:
            raise refuse(INPUTS_REFUSED, "classification and shared memory are not taken")
        found[row["name"]] = said.get("binary_data", default) is True
    return found


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise refuse(INPUTS_REFUSED, f"{what}: not an object")
    return value


def _unknown(request: Inner) -> PerunError:
    return refuse(
        MODEL_UNKNOWN,
        "not a path of the Open Inference Protocol",
        expected="/v2/models/NAME/infer",
        seen=request.path[:80],
    )
