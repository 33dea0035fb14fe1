"""Service and language engine, over the engine's pipe: many answers at once, each message with its request's number.

The service says ``{id, chat: {…}}``, ``{id, embed: [texts]}`` or ``{id, cancel: true}``; the engine ``{id, piece: text}``…, then ``{id, finish: {…}}``, or ``{id, vectors: {count, size, tokens}}`` and the numbers, or
``{id, refusal: {…}}``. This is the form of it, and the engine's end.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from perunml.serving.codes import INFERENCE_FAILED
from perunml.serving.language import Finish, LanguageEngine, Message, Sampling, Vectors
from perunml.serving.pipe import receive, send
from perunml.wire.errors import PerunError, refuse

TALKERS = 64
"""Answers that an engine's process works at; it orders them itself."""
MAX_SIZE = 65536
"""Numbers of one vector."""


def chat_json(messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
    """A conversation as it goes over the pipe."""
    return {
        "messages": [[message.role, message.content] for message in messages],
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": None if sampling.seed is None else str(sampling.seed),
        "stop": list(sampling.stop),
    }


def read_chat(value: dict[str, Any]) -> tuple[list[Message], Sampling]:
    """What `chat_json` wrote: the service is believed."""
    seed = value["seed"]
    sampling = Sampling(
        value["max_tokens"], float(value["temperature"]), float(value["top_p"]), None if seed is None else int(seed), tuple(value["stop"])
    )  # fmt: skip
    return [Message(role, content) for role, content in value["messages"]], sampling


def read_vectors(said: Any, data: memoryview, wanted: int) -> Vectors:
    """The numbers that an engine's process sent for `wanted` texts. Raises `ValueError`: not what it announced, or not finite."""
    count, size, tokens = (said[name] for name in ("count", "size", "tokens"))
    whole = all(type(number) is int and number >= 0 for number in (count, size, tokens))
    if not whole or count != wanted or not 0 < size <= MAX_SIZE or len(data) != 4 * count * size:
        raise ValueError("other vectors than were asked for")
    numbers = struct.unpack(f"<{count * size}f", data)
    if any(number - number != 0 for number in numbers):
        raise ValueError("a number that is not finite")
    return Vectors(tuple(numbers[at * size : (at + 1) * size] for at in range(count)), tokens)


class Talker:
    """The engine's end: `serve` until the service closes."""

    def __init__(self, sock: socket.socket, engine: LanguageEngine) -> None:
        self._sock, self._engine = sock, engine
        self._sending = threading.Lock()
        self._working: set[int] = set()  # requests that are not over, but for those that were taken back

    def serve(self) -> None:
        with ThreadPoolExecutor(TALKERS, thread_name_prefix="answer") as pool:
            while True:
                try:
                    asked, _ = receive(self._sock)
                except PerunError:
                    return  # the service closed
                if "cancel" in asked:
                    self._working.discard(asked["id"])
                else:
                    self._working.add(asked["id"])
                    pool.submit(self._answer, asked)

    def _answer(self, asked: dict[str, Any]) -> None:
        number = asked["id"]
        if number not in self._working:
            return  # taken back while it waited its turn: nothing of it is computed
        try:
            if "embed" in asked:
                self._embed(number, asked["embed"])
            else:
                self._chat(number, *read_chat(asked["chat"]))
        except PerunError as exc:
            self._say({"id": number, "refusal": exc.reasons[0].as_json()})
        except Exception as exc:
            # Whatever a model's library raises may quote the conversation, so the type must do.
            failed = refuse(INFERENCE_FAILED, f"the model failed ({type(exc).__name__})")
            self._say({"id": number, "refusal": failed.reasons[0].as_json()})
        finally:
            self._working.discard(number)

    def _chat(self, number: int, messages: list[Message], sampling: Sampling) -> None:
        for piece in self._engine.chat(messages, sampling):
            if number not in self._working:
                return
            if isinstance(piece, Finish):
                finish = {
                    "reason": piece.reason,
                    "prompt_tokens": piece.prompt_tokens,
                    "completion_tokens": piece.completion_tokens,
                }
                self._say({"id": number, "finish": finish})
                return
            self._say({"id": number, "piece": piece})
        raise refuse(INFERENCE_FAILED, "the model's answer has no end")

    def _embed(self, number: int, texts: list[str]) -> None:
        found = self._engine.embed(texts)
        size = len(found.values[0])
        data = b"".join(struct.pack(f"<{size}f", *vector) for vector in found.values)
        said = {"count": len(found.values), "size": size, "tokens": found.tokens}
        self._say({"id": number, "vectors": said}, data)

    def _say(self, value: dict[str, Any], data: bytes = b"") -> None:
        with self._sending:
            send(self._sock, value, (data,) if data else ())
