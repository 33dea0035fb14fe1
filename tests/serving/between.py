"""Who stands between client and service, and services that were changed: for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx

from perunml.api.inference import ReceiptFile
from perunml.client.infer import Prediction, infer
from perunml.client.tunnel import Service as TunnelService
from perunml.client.tunnel import Tunnel
from perunml.serving.engines import Engine
from perunml.serving.service import Service
from perunml.serving.tensors import Tensor
from perunml.testing.service import AGREEMENT, RUN, World, pin_of
from perunml.testing.story.data import patient
from perunml.wire.streams import StreamOpener


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
    found = predicted(world, **changes)
    return found.outputs, found.receipt


def predicted(world: World, **changes: Any) -> Prediction:
    """The same, with the answer as it came."""
    identity, inputs = changes.pop("identity", world.clinic), changes.pop("inputs", None) or patient()
    pin = changes.pop("pin", None) or pin_of(world.manager)
    wanted = {
        name: changes.pop(name, default) for name, default in (("agreement", AGREEMENT), ("run", RUN), ("model", ""))
    }
    service = TunnelService(changes.pop("endpoint", world.endpoint), **wanted)
    with Tunnel(identity, pin, service, **changes) as tunnel:
        return infer(tunnel, inputs)


def opened(answer: tuple[bytes, Iterator[bytes] | None], request: str) -> dict[str, Any]:
    """What an answer to a request of `World.request` says: outputs by name, or the refusal."""
    first, rest = answer
    chunks = [plain for plain, _ in StreamOpener(bytes(range(32)), request).feed(first + b"".join(rest or ()))]
    last: dict[str, Any] = json.loads(chunks[-1])
    if "refusal" in last:
        return last
    body = json.loads(b"".join(chunks[1:-1]))
    return {"outputs": {row["name"]: row.get("data") for row in body["outputs"]}, **last}


class Wrapped:
    """The real engine, with something that happens while it computes."""

    def __init__(self, inner: Engine, meanwhile: Callable[[list[Tensor]], list[Tensor]]) -> None:
        self.forms, self._inner, self._meanwhile = inner.forms, inner, meanwhile

    def infer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return self._meanwhile(self._inner.infer(inputs))


def lying(world: World, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Service:
    """A service that holds its genuine keys and ends its answers with `change` of what an honest one would: a receipt."""
    service = world.service()
    honest = service._receipt

    class Lie:
        def __init__(self, value: Any) -> None:
            self._value = value

        def as_json(self) -> Any:
            return self._value

    def receipt(*arguments: Any) -> Any:
        return Lie(change(honest(*arguments).as_json()))

    service._receipt = receipt  # type: ignore[method-assign]  # a service changed by whoever runs it
    return service
