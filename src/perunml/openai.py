"""OpenAI's clients for a confidential service: ``from perunml.openai import OpenAI`` (or `AsyncOpenAI`).

The same objects as ``openai.OpenAI`` (`perunml[openai]`), whose requests go sealed to the service's certified key and come back with a receipt. Nothing is sent before the service's certificate was checked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
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
KEY = "sealed end to end"
"""What stands in the place of a key; it does not go through."""
OPTIONS: dict[str, Any] = {"max_retries": 0, "base_url": BASE}


class OpenAI(openai.OpenAI):
    """Asks the service `service` (its run, or ``agreement/job``) in the name of `client`, or of the identity in `home`. Refuses here, with the coded reason (`PerunError`), when evidence, agreement or pin do not fit;
    what the service refuses later is an `openai.APIStatusError` with Perun's code as `code`. The model is called as the service's job."""

    def __init__(
        self, service: str, *, client: Client | None = None, home: str | Path = "~/.perunml", passphrase: bytes = b"", endpoint: str = "", pad: bool = False,
        on_receipt: Callable[[ReceiptFile], None] = lambda receipt: None, **options: Any,
    ) -> None:  # fmt: skip
        """`on_receipt` gets each answer's receipt when the answer was read to its end; `options` are the client's own (`timeout`, …). It does not ask again by itself (`max_retries` 0): each
        request counts against the agreement's limit."""
        self._opened = _opened(service, client, home, passphrase, endpoint, pad)
        http: Any = httpx.Client(
            transport=TunnelTransport(self._opened.tunnel, on_receipt), base_url=BASE
        )  # newer clients name another class, and take this
        super().__init__(api_key=KEY, http_client=http, **(OPTIONS | options))

    def copy(self, **options: Any) -> openai.OpenAI:  # type: ignore[override]  # what it takes is the client's own, which grows
        """The same client with other `options` (`timeout`, `max_retries`, …), over the same tunnel, which stays this one's to close."""
        plain = openai.OpenAI(
            api_key=KEY, base_url=self.base_url, http_client=self._client, max_retries=self.max_retries, timeout=self.timeout
        )  # fmt: skip
        return plain.copy(**options)

    with_options = copy  # type: ignore[assignment]  # as above

    def close(self) -> None:
        """Let go of the service, and of the identity that this opened."""
        super().close()
        self._opened.close()


class AsyncOpenAI(openai.AsyncOpenAI):
    """As `OpenAI`, for programs that await: requests go through the same tunnel, in threads. Making one checks the service's certificate, and waits for it."""

    def __init__(
        self, service: str, *, client: Client | None = None, home: str | Path = "~/.perunml", passphrase: bytes = b"", endpoint: str = "", pad: bool = False,
        on_receipt: Callable[[ReceiptFile], None] = lambda receipt: None, **options: Any,
    ) -> None:  # fmt: skip
        """As `OpenAI`; `on_receipt` is called in one of those threads."""
        self._opened = _opened(service, client, home, passphrase, endpoint, pad)
        transport = AsyncTunnelTransport(TunnelTransport(self._opened.tunnel, on_receipt))
        http: Any = httpx.AsyncClient(transport=transport, base_url=BASE)
        super().__init__(api_key=KEY, http_client=http, **(OPTIONS | options))

    def copy(self, **options: Any) -> openai.AsyncOpenAI:  # type: ignore[override]  # as `OpenAI.copy`
        """As `OpenAI.copy`."""
        plain = openai.AsyncOpenAI(
            api_key=KEY, base_url=self.base_url, http_client=self._client, max_retries=self.max_retries, timeout=self.timeout
        )  # fmt: skip
        return plain.copy(**options)

    with_options = copy  # type: ignore[assignment]  # as above

    async def close(self) -> None:
        """As `OpenAI.close`."""
        await super().close()
        self._opened.close()


@dataclass(frozen=True, slots=True)
class _Opened:
    """A tunnel whose service was checked, and the party that it asks for where this opened it."""

    tunnel: Tunnel
    own: Client | None

    def close(self) -> None:
        self.tunnel.close()
        if self.own is not None:
            self.own.close()


def _opened(
    service: str, client: Client | None, home: str | Path, passphrase: bytes, endpoint: str, pad: bool
) -> _Opened:
    with ExitStack() as undo:
        party = client
        if party is None:
            party = Client.open(Path(os.path.expanduser(home)), passphrase)
            undo.callback(party.close)
        tunnel = party.tunnel(service, endpoint=endpoint, pad=pad)
        undo.callback(tunnel.close)
        tunnel.check()
        undo.pop_all()
    return _Opened(tunnel, party if client is None else None)


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


class AsyncTunnelTransport(httpx.AsyncBaseTransport):
    """The same for clients that await, in threads."""

    def __init__(self, inner: TunnelTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As `TunnelTransport.handle_request`."""
        plain = httpx.Request(request.method, request.url, headers=request.headers, content=await request.aread())
        answer = await asyncio.to_thread(self._inner.handle_request, plain)
        stream: Any = answer.stream
        return httpx.Response(answer.status_code, headers=answer.headers, stream=_AsyncBody(stream))


class _AsyncBody(httpx.AsyncByteStream):
    """A body that is read in threads, one piece after the other."""

    def __init__(self, inner: httpx.SyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = iter(self._inner)
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            yield part

    async def aclose(self) -> None:
        await asyncio.to_thread(self._inner.close)


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
