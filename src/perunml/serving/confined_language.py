"""A language engine in its sandbox, seen from the service: several answers at once over one pipe.

One thread reads what the process says and puts it where it is waited for. The process runs somebody's model: what it says of a request that nobody made, more than was asked for, or in another form,
is its failure, and it is started anew.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any, TypeVar

from perunml.serving.codes import ENGINE_GONE
from perunml.serving.confined import MAY_SAY, PREDICT_SECONDS, ConfinedProcess, refusal_told
from perunml.serving.language import Finish, Message, Sampling, Vectors
from perunml.serving.pipe import receive, send
from perunml.serving.talk import chat_json, read_vectors
from perunml.wire.errors import PerunError, refuse

T = TypeVar("T")
MAX_PIECE = 4096
"""Characters of one piece of an answer; a token has some."""
MAX_SAID = 64 * 1024
"""Bytes of what the process says at a time, numbers aside: so many of them are held for a slow client as its answer may have tokens."""
VECTORS = 2
"""Messages that are held of an answer of vectors, with the one that says that there will be no more."""
SPARE = 16
"""Pieces more than tokens: what is held back comes in one of its own."""


Place = queue.Queue[tuple[Any, memoryview] | None]
"""Where one request's messages come; None says that there will be no more."""


class ConfinedLanguage(ConfinedProcess):
    """A `LanguageEngine`. Who stops reading an answer stops its computing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As `ConfinedProcess`."""
        super().__init__(*arguments, **options)
        self._numbers = itertools.count(1)
        self._places: dict[int, Place] = {}  # of this process; the next one gets its own
        self._sending = threading.Lock()
        self._heard = monotonic()

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str | Finish]:
        """Raises what an engine does, and `LimitReached` (engine_gone), after which `tend` is due."""
        for told, _ in self._asked({"chat": chat_json(messages, sampling)}, sampling.max_tokens + SPARE):
            piece = self._read_as(_piece, told)
            yield piece
            if isinstance(piece, Finish):
                return

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Raises as `chat`."""
        for told, data in self._asked({"embed": list(texts)}, VECTORS - 1):
            return self._read_as(_vectors, told, data, len(texts))
        raise AssertionError("there is an answer, or a refusal is raised")

    def _asked(self, what: dict[str, Any], most: int) -> Iterator[tuple[Any, memoryview]]:
        """What the process answers to one request, at most `most` messages; closing it takes the request back."""
        number, places, place, over = next(self._numbers), self._places, Place(most + 1), False
        places[number] = place
        try:
            self._say({"id": number, **what})
            if self._places is not places:  # another process since: nobody answers here
                raise refuse(ENGINE_GONE, "the engine's process was started anew meanwhile")
            while not over:
                found = self._next(place)
                over = not isinstance(found[0], dict) or "piece" not in found[0]
                yield found
        finally:
            del places[number]
            if not over:
                with contextlib.suppress(PerunError):  # it may be gone, and its answers with it
                    self._say({"id": number, "cancel": True})

    def _next(self, place: Place) -> tuple[Any, memoryview]:
        """What comes next in a place. One that says nothing to anybody for so long is hung; one that talks to others is busy."""
        try:
            found = place.get(timeout=PREDICT_SECONDS)
        except queue.Empty:
            found = None
            if (link := self._link) is not None and monotonic() - self._heard >= PREDICT_SECONDS:
                self._lost(link)
        if found is None:
            raise refuse(ENGINE_GONE, "the engine's process ended, or took too long")
        return found

    def _read_as(self, read: Callable[..., T], *told: Any) -> T:
        """A process that says what no engine does is not asked again."""
        try:
            return read(*told)
        except PerunError as exc:
            if exc.code not in MAY_SAY and (link := self._link) is not None:
                self._lost(link)
            raise

    def _say(self, value: dict[str, Any]) -> None:
        with self._sending:
            link = self._link
            if link is None:
                raise refuse(ENGINE_GONE, "the engine's process is being started anew")
            try:
                send(link, value)
            except PerunError:
                self._lost(link)
                raise

    def _described(self, told: Any) -> None:
        if told != {"language": True}:
            raise refusal_told(told)

    def _begun(self, link: socket.socket) -> None:
        # Reading waits as long as nobody asks; writing does not, for a process that reads nothing would hold the service up.
        link.settimeout(None)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(PREDICT_SECONDS), 0))
        self._places = {}
        threading.Thread(target=self._read, args=(link, self._places), name="perunml-language", daemon=True).start()

    def _read(self, link: socket.socket, places: dict[int, Place]) -> None:
        """Put each message where it is waited for, until the process ends or says what nobody asked for."""
        try:
            while True:
                told, data = receive(link, MAX_SAID)
                self._heard = monotonic()
                if (place := places.get(told["id"])) is None:
                    continue  # it was taken back
                if len(data) and place.maxsize > VECTORS:
                    raise TypeError("a conversation has no numbers")
                place.put_nowait((told, data))
        except (PerunError, TypeError, KeyError, queue.Full):
            self._lost(link)
        for place in list(places.values()):
            _end(place)

    def _lost(self, link: socket.socket) -> None:
        """The process is of no use any more; its reader ends by it, and `tend` starts another."""
        with self._lock:
            if self._link is link:
                self._drop()


def _end(place: Place) -> None:
    """Say in a place, full or not, that no more will come."""
    while True:
        try:
            place.put_nowait(None)
            return
        except queue.Full:
            with contextlib.suppress(queue.Empty):
                place.get_nowait()


def _vectors(told: Any, data: memoryview, wanted: int) -> Vectors:
    """Vectors for `wanted` texts. Raises what the process refuses."""
    if isinstance(told, dict) and set(told) == {"id", "vectors"}:
        with contextlib.suppress(ValueError, TypeError, KeyError, struct.error):
            return read_vectors(told["vectors"], data, wanted)
        raise refusal_told(None)
    raise refusal_told({"refusal": told.get("refusal")} if isinstance(told, dict) else None)


def _piece(told: Any) -> str | Finish:
    """A piece of an answer, or its end. Raises what the process refuses."""
    if isinstance(told, dict) and set(told) == {"id", "piece"} and isinstance(told["piece"], str):
        if len(told["piece"]) <= MAX_PIECE:
            return str(told["piece"])
    elif isinstance(told, dict) and set(told) == {"id", "finish"} and isinstance(told["finish"], dict):
        said = told["finish"]
        counts = [said.get(name) for name in ("prompt_tokens", "completion_tokens")]
        if said.get("reason") in ("stop", "length") and all(type(n) is int and 0 <= n < 2**31 for n in counts):
            return Finish(said["reason"], said["prompt_tokens"], said["completion_tokens"])
    elif isinstance(told, dict) and set(told) == {"id", "refusal"}:
        raise refusal_told({"refusal": told["refusal"]})
    raise refusal_told(None)
