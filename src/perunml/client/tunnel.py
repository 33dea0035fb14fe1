"""HTTP requests to a confidential service, sealed end to end: checked before the first byte leaves, the answer given out as it comes.

What carries them sees sizes and times. The service's certificate is the pinned manager's or nothing is sent; it is fetched again when it is about to end, or when the
service says that it has another one by now. An answer counts whole only with its receipt, which is checked at its end.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import httpx

from perunml.api.codes import REQUEST_TOO_LARGE, UNREACHABLE
from perunml.api.inference import ReceiptFile, ServiceView
from perunml.api.pin import Pin
from perunml.api.service import (
    HEADERS,
    MAX_BODY,
    MAX_PATH,
    ResponseHash,
    SealedRequest,
    ServiceCertificate,
    frame_request,
    sealed_info,
)
from perunml.client.endpoint import (
    Asker,
    check_answered,
    check_renewed,
    check_service,
    fetch_view,
    open_http,
    read_refusal,
    refusal_of,
)
from perunml.wire.canonical import load_json
from perunml.wire.codes import ANSWER_INCOMPLETE, MALFORMED
from perunml.wire.digests import digest
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError, refuse
from perunml.wire.hpke import HpkePublicKey
from perunml.wire.streams import SECRET_SIZE, StreamOpener
from perunml.wire.timestamps import format_time, parse_time

ENDS_SOON = 3
"""Seconds before a certificate's end in which a new one is fetched: the request must arrive while it holds."""
_GONE = "request_not_for_this_service"
_REQUEST = "application/vnd.perunml.request"


@dataclass(frozen=True, slots=True)
class Service:
    """Which service is meant: `agreement`, `run` and `model` are digests and ids that its certificate must name; empty ones are any."""

    endpoint: str
    agreement: str
    run: str = ""
    model: str = ""


class Answer:
    """`status` and `headers`, and the body as it comes, once. `receipt` is there when the body is at its end."""

    def __init__(self, chunks: Generator[tuple[bytes, bool], None, None], certificate: ServiceCertificate, request: SealedRequest,
                 envelope: Envelope, digest_of_request: str, renewed: Callable[[Envelope], ServiceCertificate]) -> None:  # fmt: skip
        """`renewed` checks a certificate that came with the receipt, because the one asked under ended meanwhile."""
        self._chunks = chunks
        self._certificate, self._request = certificate, request
        self._envelope, self._asked, self._renewed = envelope, digest_of_request, renewed
        head, last = next(chunks, (b"", True))
        if last:
            _refused(head)
        self._head, self._hash = head, ResponseHash(head)
        value = load_json(head)
        if not isinstance(value, dict) or set(value) != {"status", "headers"} or type(value["status"]) is not int:
            raise refuse(MALFORMED, "the service's answer has no head of its form", expected="status and headers")
        self.status, self.headers = _head(value["status"], value["headers"])
        self.receipt: ReceiptFile | None = None

    def parts(self) -> Iterator[bytes]:
        """The body. Raises what the service refuses in the middle, and `IntegrityError` (answer_incomplete, unseal_failed, receipt_mismatch)
        for an answer that is not whole or not this request's."""
        for part, last in self._chunks:
            if not last:
                self._hash.add(part)
                yield part
                continue
            value = load_json(part)
            if not isinstance(value, dict) or "receipt" not in value or set(value) - {"receipt", "certificate"}:
                _refused(part)
            if "certificate" in value:
                self._envelope = Envelope.from_json(value["certificate"])
                self._certificate = self._renewed(self._envelope)
            file = ReceiptFile(
                certificate=self._envelope, receipt=Envelope.from_json(value["receipt"]), request_digest=self._asked,
                response_digest=self._hash.text, head=self._head,
            )  # fmt: skip
            check_answered(file, self._certificate, self._request)
            for (
                _
            ) in self._chunks:  # nothing follows: to its end, where that is checked, and the connection is free again
                pass
            self.receipt = file
            return
        raise refuse(ANSWER_INCOMPLETE, "the answer was cut: its last chunk is missing", expected="a receipt")

    def read(self) -> bytes:
        """The whole body, its receipt checked."""
        return b"".join(self.parts())

    def close(self) -> None:
        """Let go of the connection."""
        self._chunks.close()


class Tunnel:
    """Asks one service, from any thread. Use as a context manager."""

    def __init__(self, identity: Asker, pin: Pin, service: Service, *, party: str = "", pad: bool = False,
                 clock: Callable[[], float] = time.time, transport: httpx.BaseTransport | None = None) -> None:  # fmt: skip
        """`party` is the client's name in the agreement (default: the identity's); `pad` hides lengths up to an eighth."""
        self._identity, self._pin, self._service = identity, pin, service
        self._party, self._pad, self._clock = party or identity.name, pad, clock
        self._http = open_http(service.endpoint, transport)
        self._lock = threading.Lock()
        self._held: tuple[Envelope, ServiceCertificate] | None = None

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def check(self, *, again: bool = False) -> tuple[Envelope, ServiceCertificate]:
        """The service's certificate, good for now; nothing that is asked leaves before. Raises as `endpoint.check_service`, `Unreachable`."""
        with self._lock:
            now = int(self._clock())
            if again or self._held is None or now + ENDS_SOON >= parse_time(self._held[1].not_after):
                self._held = None
                view = ServiceView.decode(fetch_view(self._http, "/.well-known/perunml/service"))
                wanted = self._service
                body = check_service(view.certificate, self._pin, agreement=wanted.agreement, run=wanted.run, model=wanted.model, now=now)  # fmt: skip
                self._held = view.certificate, body
            return self._held

    @property
    def job(self) -> str:
        """The service's job, which is what it calls its model. Raises as `check`."""
        return self.check()[1].job

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Send one request; of `headers` those go along that a service may see (`api.service.HEADERS`). Raises what the service refuses, and as
        `check`."""
        if len(body) > MAX_BODY:
            raise refuse(
                REQUEST_TOO_LARGE, "the body is too large", expected=f"at most {MAX_BODY} bytes", seen=str(len(body))
            )
        for last in (False, True):
            envelope, certificate = self.check(again=last)
            try:
                return self._ask(envelope, certificate, method, path, headers, body)
            except PerunError as exc:
                # A lease was renewed, and its older certificate ended, between the two requests: once more, newly made.
                if last or exc.code != _GONE:
                    raise
        raise AssertionError("the loop returns or raises")

    def _ask(self, envelope: Envelope, certificate: ServiceCertificate, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:  # fmt: skip
        said = {name.lower(): value for name, value in headers.items() if name.lower() in HEADERS}
        try:
            request = SealedRequest.model_validate({
                "manager": certificate.manager, "agreement": certificate.agreement, "run": certificate.run,
                "certificate": envelope.digest, "party": self._party, "id": os.urandom(16).hex(),
                "secret": os.urandom(SECRET_SIZE), "time": format_time(int(self._clock())), "method": method, "path": path,
                "headers": said, "body": digest(body), "size": len(body), "pad": self._pad,
            })  # fmt: skip
        except ValueError:
            raise refuse(MALFORMED, "not a request that a service takes", expected="GET or POST, and a plain path", seen=f"{method[:10]} {path[:80]}") from None  # fmt: skip
        signed = request.envelope(self._identity.signing)
        info = sealed_info(certificate.manager, certificate.agreement, certificate.run)
        sealed = HpkePublicKey(certificate.hpke).seal(frame_request(signed, body, pad=self._pad), info)
        chunks = self._chunks(sealed, StreamOpener(request.secret, signed.digest))
        try:
            return Answer(
                chunks, certificate, request, envelope, signed.digest,
                lambda later: check_renewed(later, self._pin, certificate, now=int(self._clock())),
            )  # fmt: skip
        except BaseException:
            chunks.close()
            raise

    def _chunks(self, sealed: bytes, opener: StreamOpener) -> Generator[tuple[bytes, bool], None, None]:
        try:
            with self._http.stream(
                "POST", "/v1/sealed", content=sealed, headers={"content-type": _REQUEST}
            ) as response:
                if response.status_code != httpx.codes.OK:
                    raise read_refusal(response, str(self._http.base_url))
                for piece in response.iter_raw():
                    yield from opener.feed(piece)
                opener.end()
        except httpx.RemoteProtocolError:
            raise refuse(
                ANSWER_INCOMPLETE, "the answer was cut: the connection ended in its middle", expected="a receipt"
            ) from None
        except httpx.HTTPError as exc:
            raise refuse(UNREACHABLE, f"no answer from {self._http.base_url}", seen=type(exc).__name__) from None


def _head(status: Any, headers: Any) -> tuple[int, dict[str, str]]:
    """An answer's status and those headers that go through, in one line each: they become a plain answer's. Raises `UsageError` (malformed)."""
    good = isinstance(headers, dict) and 200 <= status <= 599
    if not good or not all(
        isinstance(text, str) and text.isprintable() and len(text) <= MAX_PATH for text in headers.values()
    ):
        raise refuse(
            MALFORMED, "the service's answer has no head of its form", expected="a status, and headers of a line"
        )
    return status, {name: text for name, text in headers.items() if name in HEADERS}


def _refused(last: bytes) -> NoReturn:
    """Raises what a last chunk refuses."""
    value = load_json(last) if last else None
    if not isinstance(value, dict) or set(value) != {"refusal"}:
        raise refuse(ANSWER_INCOMPLETE, "the answer ends before it began", expected="a head, or a refusal")
    raise refusal_of(value["refusal"])
