"""Reading and writing one object by an address that carries its own permission (presigned): what a host and an owner do with a bucket.

Such an address is a secret. httpx's client writes every address into its log; so requests go through its transport, and no error here
is chained to another or shows one. Nothing is redirected, and no proxy of the environment's is asked.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TypeVar

import httpx

from perunml.sealing.codes import BLOB_MISSING, BLOB_TRUNCATED, STORE_REFUSED, STORE_UNREACHABLE
from perunml.wire.errors import refuse

T = TypeVar("T")
TRIES = 6
"""Times that one request is made."""
FIRST_PAUSE = 0.2
"""Seconds before the second try; each next pause is twice as long: six seconds in all."""
CONNECT_TIME, ANSWER_TIME = 5.0, 30.0
"""Seconds; the latter for each piece of a body."""
_MOST_ERROR = 64 * 1024
_RANGE = re.compile(r"bytes (\d{1,16})-(\d{1,16})/(\d{1,16})")
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that say: ask again (RFC 9110, RFC 6585; S3's SlowDown is 503)."""


class AddressOverError(Exception):
    """The address is no good, or no longer: ask the manager for another."""


class _PassingError(Exception):
    """A fault that may not be there next time."""


class Addressed:
    """Requests by address. Use as a context manager."""

    def __init__(self, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._transport = httpx.HTTPTransport(
            verify=ssl.create_default_context(), trust_env=False, limits=httpx.Limits(max_connections=4)
        )
        self._pause = pause

    def __enter__(self) -> Addressed:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def read(self, blob: str, address: Callable[[], str], offset: int, length: int, size: int) -> bytes:
        """Exactly `length` bytes from `offset` of the blob, whose ciphertext has `size`; `address` is asked before each try. Raises
        `IntegrityError` (blob_missing, blob_truncated), `Unreachable` (store_unreachable, store_refused)."""
        headers = {"range": f"bytes={offset}-{offset + length - 1}"}

        def ask() -> bytes:
            status, got, data = self._exchange("GET", address(), headers, None, length)
            found = _RANGE.fullmatch(got.get("content-range", ""))
            if status == 416 or (status == 206 and found and int(found[3]) != size):
                raise refuse(BLOB_TRUNCATED, f"blob {blob} has another size in the bucket", expected=f"{size} bytes")
            _judge(status, data, blob)
            if status != 206 or not found or (int(found[1]), int(found[2])) != (offset, offset + length - 1):
                raise _PassingError
            if len(data) != length:
                raise _PassingError
            return data

        return self._insist(ask)

    def write(self, blob: str, address: Callable[[], str], size: int, parts: Callable[[], Iterable[bytes]]) -> None:
        """Put the blob, where there is none; one that is there stays, and the manager looks at its size. Raises `Unreachable`."""
        headers = {
            "content-length": str(size),
            "content-type": "application/octet-stream",
            "if-none-match": "*",
        }

        def ask() -> None:
            status, _, data = self._exchange("PUT", address(), headers, parts(), _MOST_ERROR)
            if status != 412:
                _judge(status, data, blob)

        self._insist(ask)

    def _insist(self, ask: Callable[[], T]) -> T:
        denied = 0
        for attempt in range(TRIES):
            if attempt:
                self._pause(FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                return ask()
            except _PassingError:
                continue
            except AddressOverError:
                denied += 1
                if denied == 2:  # a fresh address, too
                    break
        if denied:
            raise refuse(STORE_REFUSED, "the bucket's service does not take the manager's addresses")
        raise refuse(STORE_UNREACHABLE, "the bucket's service failed", seen=f"{TRIES} tries")

    def _exchange(
        self, method: str, address: str, headers: dict[str, str], content: Iterable[bytes] | None, limit: int
    ) -> tuple[int, httpx.Headers, bytes]:
        timeout = httpx.Timeout(ANSWER_TIME, connect=CONNECT_TIME).as_dict()
        try:
            url = httpx.URL(address)
            if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.host)):
                raise refuse(
                    STORE_REFUSED, "an address of the bucket is not under TLS", expected="https", seen=url.scheme
                )
            request = httpx.Request(
                method, url, headers={"accept-encoding": "identity", **headers}, content=content, extensions={"timeout": timeout}
            )  # fmt: skip
            response = self._transport.handle_request(request)
            try:
                data = bytearray()
                assert isinstance(response.stream, httpx.SyncByteStream)
                for part in response.stream:
                    data += part
                    if len(data) > max(limit, _MOST_ERROR):
                        raise _PassingError
            finally:
                response.close()
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError):
            raise _PassingError from None
        return response.status_code, response.headers, bytes(data)


def is_loopback(host: str) -> bool:
    """Whether what goes there stays on this machine: only then plain http will do."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _judge(status: int, data: bytes, blob: str) -> None:
    """Raises unless the status is a good one."""
    if 200 <= status < 300:
        return
    if status in _PASSING:
        raise _PassingError
    if status in (400, 401, 403):  # 400 is ExpiredToken's
        raise AddressOverError
    if status == 404 and b"NoSuchBucket" not in data[:_MOST_ERROR]:
        raise refuse(BLOB_MISSING, f"blob {blob} is not in the bucket")
    raise refuse(STORE_REFUSED, "the bucket is not there, or refuses", seen=f"HTTP {status}")
