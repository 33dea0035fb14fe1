"""A language engine's process that lies: whatever it says over its pipe, the service's memory is bounded, its clients hear a code, and it is not asked again."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest

from perunml.serving import confined_language
from perunml.serving.confined_language import MAX_PIECE, ConfinedLanguage
from perunml.serving.language import Finish, Message, Sampling
from perunml.serving.pipe import receive, send
from perunml.wire.errors import PerunError

HELLO = [Message("user", "hello")]
SAMPLING = Sampling(8, 0, 1)
FINISH = {"reason": "stop", "prompt_tokens": 3, "completion_tokens": 1}


class Linked(ConfinedLanguage):
    """The service's end over a socket, without the sandbox behind it."""

    def __init__(self, link: socket.socket) -> None:
        self._numbers, self._sending, self._lock = itertools.count(1), threading.Lock(), threading.Lock()
        self._heard, self._link = monotonic(), link
        self._begun(link)


@contextmanager
def engine(says: Callable[[socket.socket, Any], None]) -> Iterator[Linked]:
    """A service whose engine answers each request by `says`."""
    near, far = socket.socketpair()

    def run() -> None:
        while True:
            try:
                asked, _ = receive(far)
                says(far, asked)
            except PerunError:
                return

    thread = threading.Thread(target=run)
    thread.start()
    made = Linked(near)
    try:
        yield made
    finally:
        with made._lock:
            made._drop()
        far.close()
        thread.join(10)


def chatted(made: Linked) -> list[Any]:
    return list(made.chat(HELLO, SAMPLING))


def test_an_honest_one_is_heard() -> None:
    """What the lies below are held against; and what is said of a request that nobody made is passed over."""

    def says(link: socket.socket, asked: Any) -> None:
        send(link, {"id": 999, "piece": "not yours"})
        send(link, {"id": asked["id"], "piece": "hi"})
        send(link, {"id": asked["id"], "finish": FINISH})

    with engine(says) as made:
        assert chatted(made) == chatted(made) == ["hi", Finish("stop", 3, 1)]
        assert made._link is not None
        assert made._places == {}


LIES: dict[str, Callable[[int], tuple[Any, bytes]]] = {
    "no object": lambda number: ([number], b""),
    "no id": lambda number: ({"piece": "x"}, b""),
    "an id that is none": lambda number: ({"id": [number], "piece": "x"}, b""),
    "a piece that is no text": lambda number: ({"id": number, "piece": 1}, b""),
    "a piece too long": lambda number: ({"id": number, "piece": "x" * (MAX_PIECE + 1)}, b""),
    "a message too long": lambda number: ({"id": number, "piece": "x" * 100_000}, b""),
    "more members": lambda number: ({"id": number, "piece": "x", "more": 1}, b""),
    "numbers for text": lambda number: ({"id": number, "piece": "x"}, bytes(1 << 20)),
    "vectors for text": lambda number: ({"id": number, "vectors": {"count": 1, "size": 1, "tokens": 1}}, bytes(4)),
    "an end of another form": lambda number: ({"id": number, "finish": {**FINISH, "reason": "secret"}}, b""),
    "an end with odd counts": lambda number: ({"id": number, "finish": {**FINISH, "prompt_tokens": -1}}, b""),
    "an end that is none": lambda number: ({"id": number, "finish": None}, b""),
    "a refusal it may not make": lambda number: ({"id": number, "refusal": {"code": "service_over", "message": "m", "expected": "", "seen": ""}}, b""),
    "a refusal that is none": lambda number: ({"id": number, "refusal": 1}, b""),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_ends_the_process_s_use(lie: str) -> None:
    """The one who asked hears that the engine is gone, and so does the next."""

    def says(link: socket.socket, asked: Any) -> None:
        value, data = LIES[lie](asked["id"])
        send(link, value, (data,) if data else ())

    with engine(says) as made:
        for _ in range(2):
            with pytest.raises(PerunError) as caught:
                chatted(made)
            assert caught.value.code == "engine_gone"
        assert made._link is None


def test_a_flood_ends_it_too() -> None:
    """More pieces than tokens were asked for, to a client that reads slowly: they are not kept."""
    flooded = threading.Event()

    def says(link: socket.socket, asked: Any) -> None:
        try:
            for _ in range(10_000):
                send(link, {"id": asked["id"], "piece": "x"})
        finally:
            flooded.set()

    with engine(says) as made:
        answer = made.chat(HELLO, SAMPLING)
        assert next(answer) == "x"
        assert flooded.wait(20)
        with pytest.raises(PerunError) as caught:
            list(answer)
        assert caught.value.code == "engine_gone"
        assert made._link is None


@pytest.mark.parametrize(
    ("said", "data"),
    [({"count": 2, "size": 1, "tokens": 1}, bytes(8)), ({"count": 1, "size": 1, "tokens": 1}, bytes(8)), ({"count": 1, "size": 0, "tokens": 1}, b""),
     ({"count": 1, "size": 1, "tokens": -1}, bytes(4)), ({"count": 1, "size": 1, "tokens": 1}, b"\0\0\x80\x7f"), ({}, b""), (None, b"")],
    ids=["count", "bytes", "empty", "tokens", "infinite", "nothing", "none"],
)  # fmt: skip
def test_vectors_that_are_none_end_it(said: Any, data: bytes) -> None:
    """Others than were asked for, or numbers that are not finite."""

    def says(link: socket.socket, asked: Any) -> None:
        send(link, {"id": asked["id"], "vectors": said}, (data,) if data else ())

    with engine(says) as made:
        with pytest.raises(PerunError) as caught:
            made.embed(["x"])
        assert caught.value.code == "engine_gone"
        assert made._link is None


def test_one_that_is_silent_is_hung_and_one_that_talks_to_others_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits too long hears so in both cases; only the silent one is started anew."""
    monkeypatch.setattr(confined_language, "PREDICT_SECONDS", 0.3)
    with engine(lambda link, asked: None) as made:
        with pytest.raises(PerunError):
            chatted(made)
        assert made._link is None

    stop = threading.Event()

    def talks(link: socket.socket, asked: Any) -> None:
        while not stop.wait(0.05):
            send(link, {"id": 999, "piece": "to another"})

    with engine(talks) as made:
        with pytest.raises(PerunError):
            chatted(made)
        assert made._link is not None
        stop.set()


def test_a_client_that_goes_away_takes_its_request_back() -> None:
    """The engine hears of it; and of a request that is over it hears nothing more."""
    heard: list[Any] = []
    taken_back = threading.Event()

    def says(link: socket.socket, asked: Any) -> None:
        heard.append(asked)
        if "cancel" in asked:
            taken_back.set()
            return
        send(link, {"id": asked["id"], "piece": "hi"})
        if len(heard) == 1:
            send(link, {"id": asked["id"], "finish": FINISH})

    with engine(says) as made:
        chatted(made)
        begun: Any = made.chat(HELLO, SAMPLING)
        next(begun)
        begun.close()
        assert taken_back.wait(10)
    assert [sorted(set(each) - {"id"}) for each in heard] == [["chat"], ["chat"], ["cancel"]]
