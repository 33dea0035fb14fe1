"""Signed requests to a pinned manager: one method, `call`; every refusal comes out as the error the manager raised."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from perunml.api.base import MAX_MESSAGE, Message
from perunml.api.codes import CHANNEL_MISMATCH, UNREACHABLE
from perunml.api.pin import Pin, pinned_context
from perunml.api.refusal import RefusalBody
from perunml.wire.errors import PerunError, refuse
from perunml.wire.httpsig import sign_request

if TYPE_CHECKING:
    import httpx

    from perunml.wire.identity import Signer

TIMEOUT = 30.0
"""Seconds for any one step of a request; releases and pushes wait for a durable write, never for a job."""
M = TypeVar("M", bound=Message)


class WouldSend(Exception):
    """Raised instead of sending, where a dry run was asked for: what would have gone out."""

    def __init__(self, method: str, url: str, body: bytes) -> None:
        super().__init__(f"{method} {url}")
        self.method, self.url, self.body = method, url, body


class Connection:
    """One party's connection to one manager. Not thread-safe; close it, or use it in ``with``.

    With `dry_run` what only reads is still asked; the first request that would change something raises `WouldSend`.
    """

    def __init__(
        self,
        pin: Pin,
        signer: Signer,
        *,
        dry_run: bool = False,
        clock: Callable[[], float] = time.time,
        timeout: float = TIMEOUT,
    ) -> None:
        import httpx

        self.pin = pin
        self._dry_run = dry_run
        self._signer = signer
        self._clock = clock
        # trust_env=False: a proxy or a CA bundle from the environment has no say in whom we talk to.
        self._http = httpx.Client(verify=pinned_context(pin), timeout=timeout, trust_env=False, follow_redirects=False)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def signed_by(self, signer: Signer) -> Connection:
        """Another connection to the same manager, whose requests another key signs."""
        return Connection(self.pin, signer, dry_run=self._dry_run, clock=self._clock)

    def call(self, method: str, path: str, answer: type[M], body: Message | None = None) -> M:
        """Send `body` (or nothing) and read the answer. Raises whatever the manager refused with, or `Unreachable`."""
        data = self.raw(method, path, body.encode() if body is not None else b"", kind="application/json")
        try:
            return answer.decode(data)
        except PerunError as exc:
            raise _strange(self.pin.url, f"its answer to {method} {path.partition('?')[0]}: {exc}") from None

    def raw(
        self,
        method: str,
        path: str,
        data: bytes = b"",
        *,
        kind: str = "application/octet-stream",
        limit: int = MAX_MESSAGE,
    ) -> bytes:
        """As `call`, bytes in and bytes out; answers longer than `limit` are refused unread."""
        url = self.pin.url + path
        if self._dry_run and method != "GET":
            raise WouldSend(method, url, data)
        headers = {**sign_request(method, url, data, self._signer, int(self._clock())), "content-type": kind}
        return exchange(self._http, method, url, data, headers, limit)


def exchange(
    client: httpx.Client, method: str, url: str, data: bytes, headers: dict[str, str], limit: int = MAX_MESSAGE
) -> bytes:
    """One request over a pinned client. Raises `Unreachable`, `EvidenceRefusal` (channel_mismatch), or the refusal."""
    import httpx

    where = str(client.base_url or "") + url
    try:
        with client.stream(method, url, content=data, headers=headers) as response:
            got = bytearray()
            for chunk in response.iter_raw():
                got += chunk
                if len(got) > limit:
                    raise _strange(where, f"an answer of more than {limit} bytes")
            status = response.status_code
    except httpx.ConnectError as exc:
        if "CERTIFICATE_VERIFY_FAILED" in str(exc):
            raise refuse(
                CHANNEL_MISMATCH, "the TLS peer does not show the pinned certificate", seen=str(exc)[:200]
            ) from None
        raise _unreachable(where, exc) from None
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise _unreachable(where, exc) from None
    if 200 <= status < 300:
        return bytes(got)
    try:
        refusal = RefusalBody.decode(bytes(got)).error()
    except (PerunError, ValueError):
        raise _strange(where, f"HTTP status {status} without a reason") from None
    raise refusal


def _unreachable(where: str, exc: Exception) -> PerunError:
    return refuse(UNREACHABLE, "no answer", expected=f"an answer from {where}", seen=str(exc) or type(exc).__name__)


def _strange(where: str, seen: str) -> PerunError:
    return refuse(UNREACHABLE, "not an answer of the protocol", expected=f"a message from {where}", seen=seen)
