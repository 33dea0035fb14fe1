"""What a host says to its manager: a blocking HTTPS client over one pinned TLS context.

A host talks with one of two client certificates: its machine's, from enrolment, for work, challenge and release; its
lease's, whose key is the session key, for all that follows (DESIGN section 6, Who calls). Refusals come back as the errors that
the manager raised; anything else that is not an answer of this protocol is `Unreachable`.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import httpx

from perunml.api.assets import PART_SIZE, AssetView, BlobAddresses, ReadRequest
from perunml.api.base import MAX_MESSAGE, Message
from perunml.api.codes import CHANNEL_MISMATCH, UNREACHABLE
from perunml.api.enrolment import EnrolAnswer, EnrolChallenge, Enrolled, EnrolRequest
from perunml.api.pin import Pin, pinned_context
from perunml.api.refusal import RefusalBody
from perunml.api.runs import (
    Challenge,
    FinishAnswer,
    FinishRequest,
    QuotaAnswer,
    QuotaRequest,
    RegisterCheckpoint,
    RegisterOutput,
    ReleaseAnswer,
    ReleaseRequest,
    RenewAnswer,
    RenewRequest,
    Work,
)
from perunml.wire.errors import PerunError, Unreachable, refuse
from perunml.wire.httpsig import sign_request
from perunml.wire.identity import Signer

A = TypeVar("A", bound=Message)
R = TypeVar("R")

RETRY_AFTER = 0.5
"""Seconds between tries while the manager does not answer."""
CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 30.0
"""Seconds; a lease is half a minute, and an answer later than that helps nobody."""


class ManagerLink:
    """A connection to the pinned manager. `client` is (certificate PEM, private key PEM) or None. Use as a context manager."""

    def __init__(self, pin: Pin, client: tuple[str, bytes] | None = None, *, timeout: float = ANSWER_TIMEOUT) -> None:
        self.pin = pin
        limits = httpx.Limits(max_connections=4, keepalive_expiry=30)
        self._http = httpx.Client(
            base_url=pin.url,
            verify=pinned_context(pin, client),
            timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT),
            limits=limits,
            trust_env=False,  # no proxy from the environment: the pin says where the manager is
            headers={"accept-encoding": "identity"},
            follow_redirects=False,
        )

    def __enter__(self) -> ManagerLink:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Enrolment, signed by the operator.

    def enrol(self, request: EnrolRequest, operator: Signer) -> EnrolChallenge:
        return self._post("/v1/enrolments", request, EnrolChallenge, signer=operator)

    def answer_enrolment(self, enrolment: str, answer: EnrolAnswer, operator: Signer) -> Enrolled:
        return self._post(f"/v1/enrolments/{enrolment}/answer", answer, Enrolled, signer=operator)

    # With the machine's certificate.

    def work(self) -> Work:
        return self._read(self._send("GET", "/v1/host/work"), Work)

    def challenge(self, run: str) -> Challenge:
        return self._read(self._send("POST", f"/v1/runs/{run}/challenge"), Challenge)

    def release(self, run: str, request: ReleaseRequest) -> ReleaseAnswer:
        return self._post(f"/v1/runs/{run}/release", request, ReleaseAnswer)

    # With the lease's certificate.

    def renew(self, run: str, request: RenewRequest) -> RenewAnswer:
        return self._post(f"/v1/runs/{run}/renew", request, RenewAnswer)

    def register_output(self, run: str, request: RegisterOutput) -> AssetView:
        return self._post(f"/v1/runs/{run}/outputs", request, AssetView)

    def register_checkpoint(self, run: str, request: RegisterCheckpoint) -> AssetView:
        return self._post(f"/v1/runs/{run}/checkpoints", request, AssetView)

    def finish(self, run: str, request: FinishRequest) -> FinishAnswer:
        return self._post(f"/v1/runs/{run}/finish", request, FinishAnswer)

    def quota(self, run: str, request: QuotaRequest) -> QuotaAnswer:
        return self._post(f"/v1/runs/{run}/quota", request, QuotaAnswer)

    def read_blob(self, asset: str, blob: str, offset: int, size: int) -> bytes:
        """`size` bytes (at most PART_SIZE) of a blob's ciphertext from `offset`."""
        if not 0 < size <= PART_SIZE:
            raise ValueError("a part has 1 byte to PART_SIZE")
        part = self._send("GET", f"/v1/assets/{asset}/blobs/{blob}?offset={offset}&length={size}")
        if len(part) != size:
            raise refuse(UNREACHABLE, "a part of a blob came short or long", expected=str(size), seen=str(len(part)))
        return part

    def addresses(self, asset: str, blobs: list[str]) -> BlobAddresses:
        """Addresses at which blobs of an asset in a bucket are read (at most MAX_ASKED)."""
        return self._post(f"/v1/assets/{asset}/reads", ReadRequest(blobs=blobs), BlobAddresses)

    def write_blob(self, asset: str, blob: str, offset: int, part: bytes) -> AssetView:
        """Send the part of a blob's ciphertext that begins at `offset`; parts go in order."""
        path = f"/v1/assets/{asset}/blobs/{blob}?offset={offset}"
        headers = {"content-type": "application/octet-stream"}
        return self._read(self._send("PUT", path, part, headers), AssetView)

    def _post(self, path: str, body: Message, answer: type[A], signer: Signer | None = None) -> A:
        return self._read(self._send("POST", path, body.encode(), {"content-type": "application/json"}, signer), answer)

    def _send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        signer: Signer | None = None,
    ) -> bytes:
        sent = dict(headers or {})
        if signer is not None:
            sent |= sign_request(method, self.pin.url + path, body, signer, int(time.time()))
        try:
            with self._http.stream(method, path, content=body or None, headers=sent) as response:
                status, content = response.status_code, _bounded(response)
        except httpx.HTTPError as exc:
            if isinstance(exc.__context__, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(exc):
                raise refuse(
                    CHANNEL_MISMATCH, f"{self.pin.url} shows another certificate than the pinned one"
                ) from None
            raise refuse(UNREACHABLE, f"no answer from {self.pin.url}", seen=type(exc).__name__) from None
        if 200 <= status < 300:
            return content
        try:
            refusal = RefusalBody.decode(content).error()
        except (PerunError, ValueError):
            raise refuse(UNREACHABLE, f"{self.pin.url} refused in no known form", seen=f"HTTP {status}") from None
        raise refusal

    def _read(self, content: bytes, answer: type[A]) -> A:
        try:
            return answer.decode(content)
        except PerunError as exc:
            raise refuse(UNREACHABLE, f"{self.pin.url} answers what this protocol does not know: {exc}") from None


def insist(ask: Callable[[], R]) -> R:
    """What `ask` gives, asked again while the manager does not answer. For requests that may be repeated under a lease: `ask`
    takes its link from the session, which has none any more when the lease is over, so this ends by then."""
    while True:
        try:
            return ask()
        except Unreachable:
            time.sleep(RETRY_AFTER)


def _bounded(response: httpx.Response) -> bytes:
    content = bytearray()
    for part in response.iter_raw():
        content += part
        if len(content) > MAX_MESSAGE:
            raise httpx.RemoteProtocolError("answer too large")
    return bytes(content)
