"""Agent and runner, over a socket pair: the TPM is open to the agent alone, so a runner asks it for evidence.

One request at a time, each a line of JSON, answered by a line of JSON. A runner names the parts of a binding, never the
binding itself: the agent fills in manager and machine and refuses another run or agreement, so a runner gone astray
cannot have it vouch for anything else.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from perunml.api.base import B64, MAX_MESSAGE, Message
from perunml.host.codes import AGENT_GONE
from perunml.wire.canonical import Json, canonical, load_json
from perunml.wire.errors import PerunError, refuse
from perunml.wire.rules import Reason

Purpose = Literal["release", "renew", "finish"]


class EvidenceRequest(Message):
    """The parts of the binding that the runner knows (DESIGN section 6, Release, step 2)."""

    purpose: Purpose
    nonce: B64
    role: str
    session_hpke: str
    session_tls: str
    agreement: str
    run: str  # digest of the run document
    payload: str


class EvidenceSource:
    """The runner's end. Thread-safe."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rwb")
        self._lock = threading.Lock()

    def collect(self, request: EvidenceRequest) -> dict[str, Json]:
        """The evidence bundle as JSON. Raises `Unreachable` (agent_gone)."""
        answer = self._ask({"ask": "collect", "request": request.model_dump(mode="json")})
        bundle = answer.get("bundle")
        if not isinstance(bundle, dict):
            raise refuse(AGENT_GONE, "the agent gave no evidence")
        return bundle

    def accepted(self) -> None:
        """Tell the agent that the manager accepted the last evidence, so that the next needs only what is new."""
        self._ask({"ask": "accepted"})

    def forget(self) -> None:
        """Tell the agent that the manager did not accept the last evidence: the next is to be whole again."""
        self._ask({"ask": "forget"})

    def lease(self, deadline: float) -> None:
        """Tell the agent until when (seconds of CLOCK_BOOTTIME) this run may live; it kills the run at that time."""
        self._ask({"ask": "lease", "deadline": deadline})

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what is left to be written has no reader any more
            self._file.close()
        self._sock.close()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            try:
                self._file.write(canonical(message) + b"\n")
                self._file.flush()
                line = self._file.readline(MAX_MESSAGE)
            except (OSError, ValueError):
                line = b""
        if not line.endswith(b"\n"):
            raise refuse(AGENT_GONE, "the agent does not answer")
        answer = load_json(line, limit=MAX_MESSAGE)
        if "error" in answer:
            reason = Reason.from_json(answer["error"])
            raise refuse(AGENT_GONE, f"the agent gave no evidence: {reason.message}", seen=reason.code)
        return dict(answer)


@dataclass(frozen=True, slots=True)
class Handlers:
    """What the agent does when the runner asks."""

    collect: Callable[[EvidenceRequest], Any]  # -> a bundle with as_json()
    accepted: Callable[[Any], None]  # the last bundle
    forget: Callable[[], None]
    lease: Callable[[float], None]


def answer_runner(sock: socket.socket, handlers: Handlers) -> None:
    """The agent's end: answers until the runner closes. Runs in a thread of its own; a request that is not understood
    ends it."""
    last: Any = None
    # A runner that was killed leaves a broken pipe, which is no error here.
    with contextlib.suppress(BrokenPipeError), sock, sock.makefile("rwb") as stream:
        while True:
            try:
                line = stream.readline(MAX_MESSAGE)
                if not line.endswith(b"\n"):
                    return
                message = load_json(line, limit=MAX_MESSAGE)
                answer: dict[str, Any] = {}
                match message.get("ask"):
                    case "collect":
                        last = handlers.collect(EvidenceRequest.decode(canonical(message["request"])))
                        answer["bundle"] = last.as_json()
                    case "accepted":
                        if last is not None:
                            handlers.accepted(last)
                    case "forget":
                        handlers.forget()
                    case "lease":
                        handlers.lease(float(message["deadline"]))
                    case _:
                        return
            except PerunError as exc:
                answer = {"error": exc.reasons[0].as_json()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                return
            try:
                stream.write(canonical(answer) + b"\n")
                stream.flush()
            except OSError:
                return
