"""OpenAI's protocol over a language model: `/v1/models`, `/v1/chat/completions` with streaming, `/v1/embeddings`.

https://platform.openai.com/docs/api-reference (chat, embeddings, models). What a request says and this service cannot do is refused, never left out silently; what has no effect (who asks, tags, prices) is
passed over. A refusal is raised, and becomes the protocol's error where the client's side opens it.
"""

from __future__ import annotations

import base64
import json
import secrets
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from perunml.serving.chats import asked_for_chat, asked_for_vectors
from perunml.serving.codes import INFERENCE_FAILED, INPUTS_REFUSED, MODEL_UNKNOWN
from perunml.serving.inner import Inner, Reply
from perunml.serving.language import Finish, LanguageEngine
from perunml.wire.canonical import load_json
from perunml.wire.errors import PerunError, refuse

MAX_REQUEST = 16 * 2**20
"""Bytes of a request's JSON."""
_JSON = {"content-type": "application/json"}
_EVENTS = {"content-type": "text/event-stream"}


@dataclass(frozen=True, slots=True)
class OpenAiApi:
    """Serves `engine` as the model `name`. A `Handler`; `clock` tells seconds since 1970 for `created`."""

    engine: LanguageEngine
    name: str
    clock: Callable[[], float] = time.time

    def __call__(self, request: Inner) -> Reply:
        """Raises `UsageError` (inputs_refused, model_unknown), and what the engine raises."""
        ways: dict[tuple[str, str], Callable[[Inner], Reply]] = {
            ("GET", "/v1/models"): lambda asked: _reply({"object": "list", "data": [self._model()]}),
            ("GET", f"/v1/models/{self.name}"): lambda asked: _reply(self._model()),
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/embeddings"): self._embeddings,
        }
        way = ways.get((request.method, request.path))
        if way is None:
            raise refuse(
                MODEL_UNKNOWN,
                "not a path of this service",
                expected=", ".join(path for _, path in ways),
                seen=request.path[:80],
            )
        return way(request)

    def _model(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": 0, "owned_by": "perunml"}

    def _body(self, request: Inner) -> dict[str, Any]:
        try:
            value = load_json(bytes(request.body), limit=MAX_REQUEST)
        except PerunError:
            value = None
        if not isinstance(value, dict):
            raise refuse(
                INPUTS_REFUSED, "the request is no JSON object, or too large", expected=f"at most {MAX_REQUEST} bytes"
            )
        if value.get("model") != self.name:
            raise refuse(MODEL_UNKNOWN, "the service has no such model", expected=self.name)
        return value

    def _chat(self, request: Inner) -> Reply:
        asked = asked_for_chat(self._body(request))
        pieces = self.engine.chat(asked.messages, asked.sampling)
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(self.clock()), "model": self.name}
        if asked.stream:
            # The first piece is waited for: what is wrong with the request is then told as such, and not in the middle.
            first = next(pieces, None)
            return Reply(200, _EVENTS, _events(head, first, pieces, asked.include_usage))
        text: list[str] = []
        for piece in pieces:
            if isinstance(piece, Finish):
                message = {"role": "assistant", "content": "".join(text), "refusal": None}
                choice = {"index": 0, "message": message, "finish_reason": piece.reason, "logprobs": None}
                return _reply({**head, "object": "chat.completion", "choices": [choice], "usage": _usage(piece)})
            text.append(piece)
        raise refuse(INFERENCE_FAILED, "the model's answer has no end")

    def _embeddings(self, request: Inner) -> Reply:
        asked = asked_for_vectors(self._body(request))
        found = self.engine.embed(asked.texts)
        if len(found.values) != len(asked.texts):
            raise refuse(INFERENCE_FAILED, "the model gives other vectors than were asked for")
        rows = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if asked.packed else list(vector)}
            for index, vector in enumerate(found.values)
        ]
        usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
        return _reply({"object": "list", "data": rows, "model": self.name, "usage": usage})


def _events(
    head: dict[str, Any], first: str | Finish | None, pieces: Iterator[str | Finish], include_usage: bool
) -> Iterator[bytes]:
    """A stream's events, each a chunk of its own (Server-Sent Events)."""

    def event(choices: list[dict[str, Any]], usage: Finish | None = None) -> bytes:
        value = {**head, "object": "chat.completion.chunk", "choices": choices}
        if include_usage:
            value["usage"] = _usage(usage) if usage else None
        return b"data: " + _text(value) + b"\n\n"

    def choice(delta: dict[str, str], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]

    yield event(choice({"role": "assistant", "content": ""}))
    piece = first
    while piece is not None:
        if isinstance(piece, Finish):
            yield event(choice({}, piece.reason))
            if include_usage:
                yield event([], piece)
            yield b"data: [DONE]\n\n"
            return
        yield event(choice({"content": piece}))
        piece = next(pieces, None)
    raise refuse(INFERENCE_FAILED, "the model's answer has no end")


def _usage(finish: Finish) -> dict[str, int]:
    total = finish.prompt_tokens + finish.completion_tokens
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": total,
    }


def _packed(vector: tuple[float, ...]) -> str:
    """As clients ask for them by default: 32-bit floats, little-endian, in base64."""
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (struct.error, OverflowError):
        raise refuse(INFERENCE_FAILED, "the model gives no vector of 32-bit numbers") from None


def _text(value: Any) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        raise refuse(INFERENCE_FAILED, "the model's answer cannot be written as JSON") from None


def _reply(value: Any) -> Reply:
    return Reply(200, {**_JSON}, [_text(value)])
