"""The connection over which a machine asks a manager, which it examined, for its root key: nobody signs, the pinned key alone answers."""

from __future__ import annotations

from types import TracebackType

from perunml.api.base import Message
from perunml.api.handover import HandoverAnswer, HandoverChallenge, HandoverGiven, HandoverRequest
from perunml.api.pin import Pin, pinned_context
from perunml.client.connection import WouldSend, exchange

TIMEOUT = 120.0
"""Seconds: the manager reads its whole ledger, and waits for every agreement's witnesses."""
_JSON = {"content-type": "application/json"}


class Taker:
    """`manager.join.Manager` over a pin. Close it, or use it in ``with``. With `dry_run` the first request is raised as `WouldSend`."""

    def __init__(self, pin: Pin, *, dry_run: bool = False) -> None:
        import httpx

        self._pin, self._dry_run = pin, dry_run
        self._http = httpx.Client(
            verify=pinned_context(pin), timeout=TIMEOUT, trust_env=False, follow_redirects=False
        )  # no proxy of the environment's has a say in whom we talk to

    def __enter__(self) -> Taker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    @property
    def identity(self) -> str:
        """Text of the manager's identity key."""
        return self._pin.identity

    def begin(self, request: HandoverRequest) -> HandoverChallenge:
        """Raises what the manager refuses with, or `Unreachable`."""
        return HandoverChallenge.decode(self._post("/v1/handovers", request))

    def answer(self, handover: str, answer: HandoverAnswer) -> HandoverGiven:
        """Raises as `begin`."""
        return HandoverGiven.decode(self._post(f"/v1/handovers/{handover}/answer", answer))

    def _post(self, path: str, body: Message) -> bytes:
        url = self._pin.url + path
        if self._dry_run:
            raise WouldSend("POST", url, body.encode())
        return exchange(self._http, "POST", url, body.encode(), _JSON)
