"""The document of what a service answers: it is the published one, it is the protocol's, and whatever is asked by it, or beside it, is answered as it says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from perunml.client.proxy import Proxy
from perunml.client.tunnel import Service, Tunnel
from perunml.serving.openai_api import OpenAiApi
from perunml.serving.openapi import CODE_HEADER, document
from perunml.testing.service import AGREEMENT, RUN, World, pin_of
from perunml.testing.story.data import patient
from serving.test_openai_api import Parrot

pytestmark = pytest.mark.torch
PUBLISHED = Path(__file__).parents[2] / "docs/spec/service.openapi.json"
EXAMPLES = 40
"""Requests of each operation."""
ROWS = patient()["features"]
GOOD: dict[str, Any] = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [len(ROWS), 30], "data": ROWS}]}


def test_the_published_document_is_the_code_s() -> None:
    """``python -m perunml.serving.openapi > docs/spec/service.openapi.json``."""
    assert json.loads(PUBLISHED.read_text()) == document()


REQUIRED = {
    "ServerMetadata": {"name", "version", "extensions"},
    "ModelMetadata": {"name", "platform"},
    "InferenceRequest": {"inputs"},
    "InferenceResponse": {"model_name", "outputs"},
}
"""What the Open Inference Protocol's published description (open_inference_rest.yaml) demands of each object; of tensors name, shape, datatype and, but in metadata, data."""


def test_it_is_the_open_inference_protocol_s() -> None:
    """Each path and method of its published description is there, and each member that it demands is demanded."""
    made = document()
    paths = {
        ("/v2/health/live", "get"), ("/v2/health/ready", "get"), ("/v2/models/{model}/versions/{version}/ready", "get"), ("/v2", "get"),
        ("/v2/models/{model}/versions/{version}", "get"), ("/v2/models/{model}/versions/{version}/infer", "post"),
    }  # fmt: skip
    assert paths <= {(path, method) for path, methods in made["paths"].items() for method in methods}
    schemas = made["components"]["schemas"]
    for name, wanted in REQUIRED.items():
        assert wanted <= set(schemas[name]["required"])
    for name, place, wanted in (
        ("ModelMetadata", "inputs", {"name", "datatype", "shape"}),
        ("ModelMetadata", "outputs", {"name", "datatype", "shape"}),
        ("InferenceRequest", "inputs", {"name", "shape", "datatype", "data"}),
        ("InferenceRequest", "outputs", {"name"}),
        ("InferenceResponse", "outputs", {"name", "shape", "datatype", "data"}),
    ):
        assert wanted <= set(schemas[name]["properties"][place]["items"]["required"])


@contextmanager
def proxied(world: World) -> Iterator[str]:
    """The address of a proxy before a service of `world`."""
    tunnel = Tunnel(world.clinic, pin_of(world.manager), Service(world.endpoint, AGREEMENT, RUN))
    listening = Proxy(tunnel, "127.0.0.1:0")
    thread = threading.Thread(target=listening.serve)
    thread.start()
    try:
        yield listening.url
    finally:
        listening.stop()
        thread.join()


@pytest.fixture(scope="module")
def tensors(world: World) -> Iterator[str]:
    """A service of the story's model."""
    with proxied(world) as url:
        yield url


@pytest.fixture(scope="module")
def language() -> Iterator[str]:
    """A service of OpenAI's protocol."""
    engine: Any = Parrot()
    made = World(engine, handler=OpenAiApi(engine, "serve"))
    with made.gateway(), proxied(made) as url:
        yield url


def _operations(begin: str) -> list[tuple[str, str]]:
    return [
        (path, method) for path, methods in document()["paths"].items() for method in methods if path.startswith(begin)
    ]


def _asked(url: str, path: str, method: str) -> None:
    """Requests by the document, and beside it: the answer is of the document, no fault of the server's, and a refusal has its code."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed; `make setup` installs it")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    operation = schemathesis.openapi.from_dict(document())[path][method]
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        if mode is GenerationMode.NEGATIVE and method == "get" and "{" not in path:
            continue  # nothing of it can be wrong

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Any) -> None:
            answer = case.call(base_url=url)
            case.validate_response(answer, checks=checks)
            assert answer.status_code == 200 or answer.headers[CODE_HEADER]

        ask()


@pytest.mark.parametrize(("path", "method"), _operations("/v2"))
def test_whatever_is_asked_of_a_model_of_tensors(tensors: str, path: str, method: str) -> None:
    """Malformed tensors, wrong shapes and types: a coded 4xx, and the service stays up."""
    _asked(tensors, path, method)
    assert httpx.post(f"{tensors}/v2/models/serve/infer", json=GOOD).status_code == 200


@pytest.mark.parametrize(("path", "method"), _operations("/v1"))
def test_whatever_is_asked_of_a_language_model(language: str, path: str, method: str) -> None:
    """Conversations of any form."""
    _asked(language, path, method)
    assert httpx.get(f"{language}/v1/models").status_code == 200


ABSURD: dict[str, tuple[Any, int]] = {
    "a billion numbers announced": ({"inputs": [{"name": "features", "datatype": "FP32", "shape": [10**9, 30], "data": []}]}, 400),
    "a shape of many sizes": ({"inputs": [{"name": "features", "datatype": "FP32", "shape": [1] * 1000, "data": [1]}]}, 400),
    "a size past all numbers": ({"inputs": [{"name": "features", "datatype": "FP32", "shape": [10**30], "data": [1]}]}, 400),
    "a size below nothing": ({"inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, 30], "data": ROWS}]}, 400),
    "text for numbers": ({"inputs": [{"name": "features", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}, 400),
    "ten thousand inputs": ({"inputs": [GOOD["inputs"][0]] * 10_000}, 400),
    "the same input twice": ({"inputs": GOOD["inputs"] * 2}, 400),
    "binary data that is not there": ({"inputs": [{**GOOD["inputs"][0], "data": None, "parameters": {"binary_data_size": 10**12}}]}, 400),
    "seventy megabytes": (b" " * (70 * 2**20), 413),
}  # fmt: skip


@pytest.mark.parametrize("what", ABSURD)
def test_absurd_sizes_are_refused_and_the_service_stays_up(tensors: str, what: str) -> None:
    """By arithmetic, before anything of that size is made."""
    body, status = ABSURD[what]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        answer = httpx.post(f"{tensors}/v2/models/serve/infer", content=content, timeout=30)
    except httpx.WriteError:  # refused at the announcement, while the body was still on its way
        answer = None
    assert answer is None or (answer.status_code, bool(answer.headers[CODE_HEADER])) == (status, True)
    assert httpx.post(f"{tensors}/v2/models/serve/infer", json=GOOD).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
def test_other_methods_are_refused_with_a_code(tensors: str, method: str) -> None:
    """As JSON, as every refusal."""
    answer = httpx.request(method, f"{tensors}/v2/models/serve/infer")
    assert (answer.status_code, answer.headers[CODE_HEADER]) == (501, "malformed")
    assert answer.json()["error"].startswith("malformed")
