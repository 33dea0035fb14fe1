"""OpenAI's client for a confidential service: ``from perunml.openai import OpenAI``.

The same object as ``openai.OpenAI`` (`perunml[openai]`), whose requests go sealed to the service's certified key and come back with a receipt. Nothing is sent before the service's certificate was checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai

from perunml import Client
from perunml.api.inference import ReceiptFile
from perunml.client.plain import receipted, refusal_body, refusal_event, refusal_headers, status_of
from perunml.client.tunnel import Answer, Tunnel
from perunml.wire.errors import PerunError

BASE = "http://service.perunml.invalid/v1"
"""Where requests seem to go; no name is looked up, for the tunnel is all the way there is."""


class OpenAI(openai.OpenAI):
    """Asks the service `service` (its run, or ``agreement/job``) in the name of `client`, or of the identity in `home`. Refuses here, with the coded reason (`PerunError`), when evidence, agreement or pin do not fit;
    what the service refuses later is an `openai.APIStatusError` with Perun's code as `code`. The model is called as the service's job."""

    def __init__(
        self, service: str, *, client: Client | None = None, home: str | Path = "~/.perunml", passphrase: bytes = b"", endpoint: str = "", pad: bool = False,
        on_receipt: Callable[[ReceiptFile], None] = lambda receipt: None, **options: Any,
    ) -> None:  # fmt: skip
        """`on_receipt` gets each answer's receipt when the answer was read to its end; `options` are the client's own (`timeout`, …). It does not ask again by itself (`max_retries` 0): each
        request counts against the agreement's limit."""
        self._own = None if client is not None else Client.open(Path(os.path.expanduser(home)), passphrase)
        party = client if client is not None else self._own
        assert party is not None
        with ExitStack() as undo:
            if self._own is not None:
                undo.callback(self._own.close)
            tunnel = party.tunnel(service, endpoint=endpoint, pad=pad)
            undo.callback(tunnel.close)
            tunnel.check()
            undo.pop_all()
        self._tunnel = tunnel
        options = {"max_retries": 0, "base_url": BASE, **options}
        http: Any = httpx.Client(
            transport=TunnelTransport(tunnel, on_receipt), base_url=BASE
        )  # newer clients name another class, and take this
        super().__init__(api_key="sealed end to end", http_client=http, **options)

    def copy(self, **options: Any) -> openai.OpenAI:  # type: ignore[override]  # what it takes is the client's own, which grows
        """The same client with other `options` (`timeout`, `max_retries`, …), over the same tunnel, which stays this one's to close."""
        plain = openai.OpenAI(
            api_key=self.api_key, base_url=self.base_url, http_client=self._client, max_retries=self.max_retries, timeout=self.timeout
        )  # fmt: skip
        return plain.copy(**options)

    with_options = copy  # type: ignore[assignment]  # as above

    def close(self) -> None:
        """Let go of the service, and of the identity that this opened."""
        super().close()
        self._tunnel.close()
        if self._own is not None:
            self._own.close()


class TunnelTransport(httpx.BaseTransport):
    """An `httpx` transport through a tunnel, for any client that takes one."""

    def __init__(self, tunnel: Tunnel, on_receipt: Callable[[ReceiptFile], None] = lambda receipt: None) -> None:
        self._tunnel, self._on_receipt = tunnel, on_receipt

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """What the service refuses is an answer, as the path's protocol has errors."""
        path = request.url.raw_path.decode()
        try:
            answer = self._tunnel.ask(request.method, path, dict(request.headers.items()), request.read())
        except PerunError as exc:
            return httpx.Response(status_of(exc), headers=refusal_headers(exc), content=refusal_body(exc, path))
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer, path, self._on_receipt))


class _Body(httpx.SyncByteStream):
    """An answer's body as it comes; its receipt is checked at the end."""

    def __init__(self, answer: Answer, path: str, on_receipt: Callable[[ReceiptFile], None]) -> None:
        self._answer, self._path, self._on_receipt = answer, path, on_receipt

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from receipted(self._whole())
        except PerunError as exc:
            if "event-stream" in self._answer.headers.get("content-type", ""):
                yield refusal_event(exc, self._path)
            raise httpx.RemoteProtocolError(str(exc)) from exc

    def _whole(self) -> Iterator[bytes]:
        yield from self._answer.parts()
        if self._answer.receipt is not None:
            self._on_receipt(self._answer.receipt)

    def close(self) -> None:
        self._answer.close()
