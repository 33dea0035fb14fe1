"""What a service answers inside its sealed requests, and so what `perunml proxy` shows, as OpenAPI 3.1: ``python -m perunml.serving.openapi`` prints docs/spec/service.openapi.json.

Paths and members of the Open Inference Protocol are those of its published description (https://github.com/kserve/open-inference-protocol, specification/protocol/open_inference_rest.yaml), narrowed to what is taken here;
those of OpenAI's protocol likewise.
"""

from __future__ import annotations

import json
from typing import Any

from perunml.serving.chats import MAX_STOP, MAX_STOPS
from perunml.serving.language import MAX_MESSAGES, MAX_TEXTS, MAX_TOKENS, ROLES
from perunml.serving.tensors import MAX_NAME, MAX_RANK, MAX_TENSORS, WIDTH

CODE_HEADER = "perunml-code"
_TEXT = {"type": "string"}
_SIZES = {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": MAX_RANK}
_NAME = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}


def document() -> dict[str, Any]:
    """The whole document; a service has the paths of its engine's protocol."""
    models = "/v2/models/{model}"
    versions = models + "/versions/{version}"
    paths: dict[str, Any] = {
        "/v2": {"get": _get("what the server is", "ServerMetadata")},
        "/v2/health/live": {"get": _get("whether it answers", "Live")},
        "/v2/health/ready": {"get": _get("whether its model is there", "Ready")},
        "/v1/models": {"get": _get("the one model there is", "Models")},
        "/v1/models/{model}": {"get": _get("the model", "OpenAiModel", "model")},
        "/v1/chat/completions": {
            "post": _post("continue a conversation", "ChatRequest", "ChatCompletion", events=True)
        },
        "/v1/embeddings": {"post": _post("texts as vectors", "EmbeddingRequest", "Embeddings")},
    }
    for base, names in ((models, ("model",)), (versions, ("model", "version"))):
        paths[base] = {"get": _get("what the model takes and gives", "ModelMetadata", *names)}
        paths[f"{base}/ready"] = {"get": _get("whether the model is there", "ModelReady", *names)}
        paths[f"{base}/infer"] = {"post": _post("ask the model", "InferenceRequest", "InferenceResponse", *names)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "perunml service",
            "version": "1",
            "description": "docs/spec/inference.md, sections 5a and 5b",
        },
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": _schemas()},
    }


def _operation(summary: str, answer: str, names: tuple[str, ...], events: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _ref(answer)}}
    if events:
        content["text/event-stream"] = {"schema": _TEXT}
    made: dict[str, Any] = {"summary": summary, "responses": {"200": {"description": "the answer", "content": content}}}
    refusal = {
        "description": "refused; docs/refusals.md has the code",
        "headers": {CODE_HEADER: {"required": True, "schema": _TEXT}},
        "content": {"application/json": {"schema": _ref("Refusal")}},
    }
    made["responses"] |= {"4XX": refusal, "5XX": refusal}
    if names:
        made["parameters"] = [{"name": name, "in": "path", "required": True, "schema": _NAME} for name in names]
    return made


def _get(summary: str, answer: str, *names: str) -> dict[str, Any]:
    return _operation(summary, answer, names)


def _post(summary: str, asked: str, answer: str, *names: str, events: bool = False) -> dict[str, Any]:
    body = {"required": True, "content": {"application/json": {"schema": _ref(asked)}}}
    return _operation(summary, answer, names, events) | {"requestBody": body}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None, *, closed: bool = True) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object", "properties": required | (optional or {}), "required": list(required)}
    return made | {"additionalProperties": False} if closed else made


def _list(of: Any, least: int = 0, most: int | None = None) -> dict[str, Any]:
    made = {"type": "array", "items": of}
    return made | ({"minItems": least} if least else {}) | ({"maxItems": most} if most is not None else {})


def _schemas() -> dict[str, Any]:
    """Of both protocols, and of refusals."""
    error = _object({"message": _TEXT, "type": {"const": "perunml"}, "param": {"type": "null"}, "code": _TEXT})
    return {"Refusal": _object({"error": {"anyOf": [_TEXT, error]}}), **_tensors(), **_language()}


def _tensors() -> dict[str, Any]:
    number = {"anyOf": [{"type": "number"}, {"type": "boolean"}, _ref("Data")]}
    tensor = {"name": _NAME, "datatype": {"enum": list(WIDTH)}, "shape": _SIZES}
    form = {**tensor, "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}}}
    free = {"type": "object"}
    return {
        "Live": _object({"live": {"const": True}}),
        "Ready": _object({"ready": {"const": True}}),
        "ServerMetadata": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
        "ModelReady": _object({"name": _TEXT, "ready": {"const": True}}),
        "ModelMetadata": _object(
            {"name": _TEXT, "versions": _list(_TEXT), "platform": _TEXT, "inputs": _list(_object(form)), "outputs": _list(_object(form))}
        ),
        "Data": _list(number),
        "InferenceRequest": _object(
            {"inputs": _list(_object({**tensor, "data": _ref("Data")}, {"parameters": free}), 1, MAX_TENSORS)},
            {"id": {"type": "string", "maxLength": 256}, "parameters": free, "outputs": _list(_object({"name": _NAME}, {"parameters": free}), 0, MAX_TENSORS)},
        ),
        "InferenceResponse": _object(
            {"model_name": _TEXT, "model_version": _TEXT, "outputs": _list(_object({**tensor, "data": _ref("Data")}))}, {"id": _TEXT}
        ),
    }  # fmt: skip


def _language() -> dict[str, Any]:
    model = _object({"id": _TEXT, "object": {"const": "model"}, "created": {"type": "integer"}, "owned_by": _TEXT})
    usage = _object({name: {"type": "integer"} for name in ("prompt_tokens", "completion_tokens", "total_tokens")})
    said = _object({"role": {"const": "assistant"}, "content": _TEXT, "refusal": {"type": "null"}})
    choice = _object(
        {
            "index": {"const": 0},
            "message": said,
            "finish_reason": {"enum": ["stop", "length"]},
            "logprobs": {"type": "null"},
        }
    )
    part = _object({"type": {"const": "text"}, "text": _TEXT})
    message = _object({"role": {"enum": list(ROLES)}, "content": {"anyOf": [_TEXT, _list(part)]}}, {"name": _TEXT})
    tokens = {"type": "integer", "minimum": 1, "maximum": MAX_TOKENS}
    stop = {"type": "string", "minLength": 1, "maxLength": MAX_STOP}
    chat = {
        "stream": {"type": "boolean"}, "max_tokens": tokens, "max_completion_tokens": tokens, "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_p": {"type": "number", "minimum": 0, "maximum": 1}, "stop": {"anyOf": [stop, _list(stop, 0, MAX_STOPS)]},
        "seed": {"type": "integer", "minimum": -(2**53), "maximum": 2**53}, "user": _TEXT, "n": {"const": 1},
    }  # fmt: skip
    text = {"type": "string", "minLength": 1}
    vector = {"anyOf": [_list({"type": "number"}), _TEXT]}
    row = _object({"object": {"const": "embedding"}, "index": {"type": "integer"}, "embedding": vector})
    counted = _object({"prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}})
    return {
        "OpenAiModel": model,
        "Models": _object({"object": {"const": "list"}, "data": _list(model)}),
        "ChatRequest": _object({"model": _TEXT, "messages": _list(message, 1, MAX_MESSAGES)}, chat),
        "ChatCompletion": _object(
            {"id": _TEXT, "object": {"const": "chat.completion"}, "created": {"type": "integer"}, "model": _TEXT, "choices": _list(choice, 1, 1), "usage": usage}
        ),
        "EmbeddingRequest": _object(
            {"model": _TEXT, "input": {"anyOf": [text, _list(text, 1, MAX_TEXTS)]}}, {"encoding_format": {"enum": ["float", "base64"]}, "user": _TEXT}
        ),
        "Embeddings": _object({"object": {"const": "list"}, "model": _TEXT, "data": _list(row), "usage": counted}),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(document(), indent=2))
