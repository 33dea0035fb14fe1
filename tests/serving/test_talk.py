"""The engine's end of a language engine's pipe."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from perunml.serving import talk
from perunml.serving.language import Finish, Message, Sampling, Vectors
from perunml.serving.pipe import receive, send

ONE = Sampling(4, 0.0, 1.0)


class Gated:
    """Answers each conversation when `gate` opens, and keeps what it was asked."""

    def __init__(self) -> None:
        self.gate, self.begun = threading.Event(), threading.Event()
        self.asked: list[str] = []

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str | Finish]:
        self.asked.append(messages[0].content)
        self.begun.set()
        assert self.gate.wait(30)
        yield Finish("stop", 1, 0)

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.asked.extend(texts)
        return Vectors(tuple((1.0,) for _ in texts), len(texts))


def test_what_was_taken_back_before_its_turn_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks and goes away at once, again and again, does not keep the model from the others."""
    monkeypatch.setattr(talk, "TALKERS", 1)
    service, engines = socket.socketpair()
    engine = Gated()
    talker = talk.Talker(engines, engine)
    serving = threading.Thread(target=talker.serve)
    serving.start()
    try:
        with service:
            service.settimeout(30)
            send(service, {"id": 1, "chat": talk.chat_json([Message("user", "first")], ONE)})
            assert engine.begun.wait(30)
            send(service, {"id": 2, "chat": talk.chat_json([Message("user", "gone")], ONE)})
            send(service, {"id": 3, "embed": ["gone too"]})
            send(service, {"id": 4, "embed": ["last"]})
            send(service, {"id": 2, "cancel": True})
            send(service, {"id": 3, "cancel": True})
            send(service, {"id": 5, "embed": ["read"]})
            while 5 not in talker._working:  # the last that was sent: what came before it was read
                assert serving.is_alive()
                time.sleep(0.001)
            engine.gate.set()
            assert [receive(service)[0]["id"] for _ in range(3)] == [1, 4, 5]
            assert engine.asked == ["first", "last", "read"]
    finally:
        engine.gate.set()
        serving.join(30)
        engines.close()
