"""Asking a confidential service for predictions: the inputs' types from the model's metadata, then one Open Inference Protocol request, both sealed (`tunnel`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from perunml.api.inference import ReceiptFile
from perunml.client.tunnel import Answer, Tunnel
from perunml.wire.canonical import load_json
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse

MAX_RANK = 8
MAX_NUMBERS = 64 * 2**20
"""Bytes of an answer in JSON."""
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Prediction:
    """Outputs by name as nested lists, the answer's body as it came, and the receipt over it, verified."""

    outputs: dict[str, Any]
    answer: bytes
    receipt: ReceiptFile


def infer(tunnel: Tunnel, inputs: dict[str, Any]) -> Prediction:
    """Ask once, as soon as the model's types are known. `inputs` are numbers in nested lists by name, or an Open Inference Protocol
    request (`inputs` a list of tensors). Raises `UsageError` (malformed), what the service refuses, and as `Tunnel.ask`."""
    tunnel.check()
    path = f"/v2/models/{tunnel.job}"
    request = inputs if _ready(inputs) else {"inputs": _tensors(inputs, _types(tunnel, path))}
    try:
        body = json.dumps(request, allow_nan=False).encode()
    except (ValueError, TypeError):
        raise refuse(MALFORMED, "the inputs are not JSON", expected="numbers in nested lists, by name") from None
    answer = tunnel.ask("POST", f"{path}/infer", _JSON, body)
    content, file = _whole(answer)
    return Prediction(dict(_outputs(load_json(content, limit=MAX_NUMBERS))), content, file)


def _ready(inputs: dict[str, Any]) -> bool:
    """Whether it is a request already, and no input that is called `inputs`."""
    rows = inputs.get("inputs")
    return isinstance(rows, list) and bool(rows) and all(isinstance(row, dict) for row in rows)


def _types(tunnel: Tunnel, path: str) -> dict[str, str]:
    """The model's inputs, and what each is of."""
    told = load_json(_whole(tunnel.ask("GET", path, {}))[0])
    with suppress(TypeError, KeyError):
        return {str(row["name"]): str(row["datatype"]) for row in told["inputs"]}
    raise refuse(
        MALFORMED, "the service does not say what its model takes", expected="metadata of the Open Inference Protocol"
    )


def _tensors(inputs: dict[str, Any], types: dict[str, str]) -> list[dict[str, Any]]:
    if set(inputs) != set(types):
        raise refuse(
            MALFORMED, "other inputs than the model's", expected=", ".join(types), seen=", ".join(map(str, inputs))
        )
    return [
        {
            "name": name,
            "datatype": types[name],
            "shape": _shape(name, value),
            "data": value if isinstance(value, list) else [value],
        }
        for name, value in inputs.items()
    ]


def _shape(name: str, value: Any) -> list[int]:
    """As its first elements have it; the service sees whether the others have it too."""
    shape: list[int] = []
    while isinstance(value, list):
        if len(shape) == MAX_RANK:
            raise refuse(MALFORMED, f"{name}: lists too deep", expected=f"at most {MAX_RANK}")
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _whole(answer: Answer) -> tuple[bytes, ReceiptFile]:
    """A body, and its receipt: an answer of another status is the service's fault, for it refuses otherwise."""
    content = answer.read()
    if answer.receipt is None or answer.status != 200:
        raise refuse(MALFORMED, "the service answers what no model does", seen=str(answer.status))
    return content, answer.receipt


def _outputs(told: Any) -> Iterator[tuple[str, Any]]:
    try:
        for row in told["outputs"]:
            yield str(row["name"]), _nested(row["data"], [int(size) for size in row["shape"]])
    except (TypeError, KeyError, ValueError, IndexError):
        raise refuse(
            MALFORMED, "the service's outputs are not of the Open Inference Protocol", expected="name, shape, data"
        ) from None


def _nested(values: list[Any], shape: list[int]) -> Any:
    """Nested lists of `shape`, or one number."""
    level = values
    for size in reversed(shape[1:]):
        level = [level[at : at + size] for at in range(0, len(level), size)] if size else []
    return level if shape else level[0]
