"""Who stands between client and service, and services that were changed: for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from perunml.api.inference import InferenceAnswer, ReceiptFile
from perunml.client.infer import infer
from perunml.serving.engines import Engine
from perunml.serving.service import Service
from perunml.testing.service import World, pin_of
from perunml.testing.story.data import patient
from perunml.wire.answers import open_answer
from perunml.wire.canonical import canonical


class Between(httpx.HTTPTransport):
    """Something on the way that changes answers: `change(path, body) -> body`."""

    def __init__(self, change: Callable[[str, bytes], bytes]) -> None:
        super().__init__()
        self.change = change

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        body = self.change(request.url.path, answer.read())
        return httpx.Response(answer.status_code, stream=httpx.ByteStream(body))


def ask(world: World, **changes: Any) -> tuple[dict[str, Any], ReceiptFile]:
    """`infer` as the clinic, for the story's patient, unless `changes` say otherwise."""
    identity = changes.pop("identity", world.clinic)
    run = changes.pop("run", None) or world.run()
    inputs = changes.pop("inputs", None) or patient()
    return infer(identity, changes.pop("pin", None) or pin_of(world.manager), run, inputs, **changes)


def opened(answer: InferenceAnswer, request: str) -> dict[str, Any]:
    """The plaintext of an answer to a request of `World.request`."""
    body: dict[str, Any] = json.loads(open_answer(answer.nonce, answer.chunks, bytes(range(32)), request))
    return body


class Wrapped:
    """The real engine, with something that happens while it computes."""

    def __init__(self, inner: Engine, meanwhile: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.forms, self.infer = inner.forms, inner.infer
        self.describe, self._inner, self._meanwhile = inner.describe, inner, meanwhile

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return self._meanwhile(self._inner.predict(inputs))


def lying(world: World, change: Callable[[dict[str, Any]], Any]) -> Service:
    """A service that holds its genuine keys and answers with `change` of what an honest one would."""
    service = world.service()
    honest = service._answered

    def answered(*arguments: Any) -> bytes:
        return canonical(change(json.loads(honest(*arguments))))

    service._answered = answered  # type: ignore[method-assign]  # a service changed by whoever runs it
    return service
