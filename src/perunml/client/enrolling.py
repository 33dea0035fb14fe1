"""An operator enrols a machine over the network: between the machine's reception and the manager, with the operator's key.

The machine proves itself to the manager; this only carries, and signs as the operator. It sees public keys, a challenge that only
the machine's TPM can answer, and a certificate whose key stays there (`host.reception`).
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit

import httpx

from perunml.api.base import MAX_MESSAGE, Message
from perunml.api.codes import UNREACHABLE
from perunml.api.enrolment import (
    AtHost,
    BootLog,
    BootLogAsked,
    EnrolAnswer,
    EnrolChallenge,
    Enrolled,
    EnrolRequest,
)
from perunml.api.refusal import RefusalBody
from perunml.client.connection import Connection
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import PerunError, refuse
from perunml.wire.httpsig import sign_request
from perunml.wire.identity import Signer

TIMEOUT = httpx.Timeout(60.0, connect=5.0)
"""Seconds: some TPMs take tens to make an endorsement key."""
A = TypeVar("A", bound=Message)


class HostDoor:
    """A machine that waits to be enrolled, at HOST:PORT. Use as a context manager."""

    def __init__(self, address: str, operator: Signer) -> None:
        """Raises `UsageError` (malformed) for anything but HOST:PORT."""
        parts = urlsplit(f"http://{address}")
        try:
            known = (
                bool(parts.hostname)
                and parts.port is not None
                and parts.netloc == address
                and "@" not in address
                and "@" not in address
            )
        except ValueError:
            known = False
        if not known:
            raise refuse(MALFORMED, "a machine is reached at HOST:PORT", expected="10.0.0.7:7440", seen=address)
        self._url, self._operator = f"http://{address}", operator
        self._http = httpx.Client(timeout=TIMEOUT, trust_env=False, follow_redirects=False)

    def __enter__(self) -> HostDoor:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._http.close()

    def begin(self, asked: AtHost) -> EnrolRequest:
        return self._ask("/v1/enrolment", asked, EnrolRequest)

    def answer(self, challenge: EnrolChallenge) -> EnrolAnswer:
        return self._ask("/v1/enrolment/answer", challenge, EnrolAnswer)

    def keep(self, enrolled: Enrolled) -> Enrolled:
        return self._ask("/v1/enrolment/certificate", enrolled, Enrolled)

    def boot_log(self) -> bytes:
        """The machine's boot log, on its own word."""
        return self._ask("/v1/boot-log", BootLogAsked(), BootLog).event_log

    def _ask(self, path: str, message: Message, answer: type[A]) -> A:
        url, body = self._url + path, message.encode()
        signed = sign_request("POST", url, body, self._operator, int(time.time()))
        try:
            response = self._http.post(url, content=body, headers={"content-type": "application/json", **signed})
        except httpx.HTTPError as exc:
            raise refuse(UNREACHABLE, f"no answer from the machine at {self._url}", seen=type(exc).__name__) from None
        if len(response.content) > MAX_MESSAGE:
            raise refuse(
                UNREACHABLE,
                f"the machine at {self._url} answers at too great length",
                seen=f"{len(response.content)} bytes",
            )
        if response.status_code == 200:
            return answer.decode(response.content)
        try:
            refusal = RefusalBody.decode(response.content).error()
        except (PerunError, ValueError):
            raise refuse(UNREACHABLE, f"what answers at {self._url} is no machine of ours", seen=f"HTTP {response.status_code}") from None  # fmt: skip
        raise refusal


def enrol_at(door: HostDoor, manager: Connection, asked: AtHost) -> Enrolled:
    """Enrol the machine behind `door` at `manager`, whose connection signs as the operator. Raises what either refuses."""
    request = door.begin(asked)
    if request.machine.name != asked.name or getattr(request.machine, "cleared", False) is not asked.cleared:
        raise refuse(UNREACHABLE, "the machine asks for another enrolment than its operator", expected=asked.name, seen=request.machine.name)  # fmt: skip
    challenge = manager.call("POST", "/v1/enrolments", EnrolChallenge, request)
    path = f"/v1/enrolments/{challenge.enrolment}/answer"
    return door.keep(manager.call("POST", path, Enrolled, door.answer(challenge)))
