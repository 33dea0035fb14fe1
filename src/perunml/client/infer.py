"""Asking a confidential service (docs/spec/inference.md): who it is, checked each time; then one sealed request.

The endpoint is not trusted, nor is anything between: the certificate is the pinned manager's or nothing is sent, inputs
leave this process sealed to the certified key alone, and an answer counts only with a receipt that the same session
signed over this very request.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx

from perunml.api.codes import (
    RECEIPT_MISMATCH,
    REQUEST_TOO_LARGE,
    SERVICE_CERTIFICATE_OVER,
    SERVICE_NOT_EXPECTED,
    UNREACHABLE,
)
from perunml.api.inference import InferenceAnswer, InferenceCall, ReceiptFile, ServiceView
from perunml.api.pin import Pin
from perunml.api.refusal import RefusalBody
from perunml.api.runs import RunView
from perunml.api.service import (
    InferenceReceipt,
    InferenceRequest,
    SealedRequest,
    ServiceCertificate,
    check_receipt,
    infer_info,
)
from perunml.wire.answers import MAX_ANSWER, SECRET_SIZE, open_answer
from perunml.wire.canonical import MAX_DOCUMENT, canonical, load_json
from perunml.wire.codes import MALFORMED
from perunml.wire.digests import digest_of
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError, refuse
from perunml.wire.hpke import HpkePublicKey
from perunml.wire.identity import PublicKey, SigningKey
from perunml.wire.timestamps import format_time, parse_time

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
MAX_BODY = 2 * MAX_ANSWER
"""Bytes of HTTP body read: the largest answer in base64, and room for JSON."""
MAX_REFUSAL = 64 * 1024
"""Bytes of a refusal in plain."""
SKEW = 30
"""Seconds by which a manager's clock may be ahead of ours."""
_CERTIFICATE_GONE = "request_not_for_this_service"


class Asker(Protocol):
    """Who asks: `client.identity.Identity`, or anything with a name and a signing key."""

    @property
    def name(self) -> str: ...
    @property
    def signing(self) -> SigningKey: ...


def infer(
    identity: Asker,
    pin: Pin,
    run: RunView | None,
    inputs: dict[str, Any],
    *,
    endpoint: str = "",
    party: str = "",
    agreement: str = "",
    model: str = "",
    clock: Callable[[], float] = time.time,
    transport: httpx.BaseTransport | None = None,
) -> tuple[dict[str, Any], ReceiptFile]:
    """The outputs, and the receipt for them, verified.

    `run` is the service's run; `endpoint` overrides where it says that it is. Without a run, `endpoint` is asked and any
    service that the manager certifies for `agreement` will do: one who may not see the run still hears from the service
    itself that it serves others. `party` is the client's name in the agreement (default: the identity's), `agreement` the
    digest that the client approved (default: the run's), `model` the digest expected (default: any certified). Raises `Unreachable`, `EvidenceRefusal` (service_not_expected),
    `SuspendedError` (service_certificate_over, service_over), `IntegrityError` for anything altered, and what the
    service refuses.
    """
    if run is not None and agreement not in ("", run.agreement):
        raise refuse(SERVICE_NOT_EXPECTED, "the run is of another agreement", expected=agreement, seen=run.agreement)
    asked, wanted = (run.agreement, run.run) if run is not None else (agreement, "")
    with open_http(endpoint or (run.endpoint if run is not None else ""), transport) as http:
        for last in (False, True):
            view = ServiceView.decode(send(http, "GET", "/.well-known/perunml/service"))
            certificate = check_service(
                view.certificate, pin, agreement=asked, run=wanted, model=model, now=int(clock())
            )
            try:
                return _ask(http, identity, party or identity.name, view.certificate, certificate, inputs, int(clock()))
            except PerunError as exc:
                # A lease was renewed, and its older certificate ended, between the two requests: once more, newly made.
                if last or exc.code != _CERTIFICATE_GONE:
                    raise
    raise AssertionError("the loop returns or raises")


def check_service(
    envelope: Envelope, pin: Pin, *, agreement: str, run: str, model: str = "", now: int
) -> ServiceCertificate:
    """The certificate, when the pinned manager signed it for this very service and it is valid `now` (seconds since
    the epoch). An empty `agreement`, `run` or `model` is any. Raises as `infer` does."""
    certificate = ServiceCertificate.open(envelope, [PublicKey(pin.identity)])
    for name, value in {"manager": pin.identity, "agreement": agreement, "run": run, "model": model}.items():
        if value and getattr(certificate, name) != value:
            raise refuse(
                SERVICE_NOT_EXPECTED,
                f"the service's certificate is of another {name}",
                expected=value,
                seen=getattr(certificate, name),
            )
    if not parse_time(certificate.not_before) - SKEW <= now < parse_time(certificate.not_after):
        raise refuse(
            SERVICE_CERTIFICATE_OVER,
            "the service's certificate is not valid now",
            expected=f"{certificate.not_before} to {certificate.not_after}",
            seen=format_time(now),
        )
    return certificate


def _ask(
    http: httpx.Client,
    identity: Asker,
    party: str,
    envelope: Envelope,
    certificate: ServiceCertificate,
    inputs: dict[str, Any],
    now: int,
) -> tuple[dict[str, Any], ReceiptFile]:
    try:
        canonical(inputs)  # before pydantic, which would write NaN as null
        request = InferenceRequest(
            manager=certificate.manager,
            agreement=certificate.agreement,
            run=certificate.run,
            certificate=envelope.digest,
            party=party,
            id=os.urandom(16).hex(),
            secret=os.urandom(SECRET_SIZE),
            time=format_time(now),
            inputs=inputs,
        )
        signed = request.envelope(identity.signing)
    except ValueError:
        raise refuse(MALFORMED, "the inputs are not JSON", expected="an object of the model's inputs by name") from None
    plain = signed.encode()
    if len(plain) > MAX_DOCUMENT:
        raise refuse(
            REQUEST_TOO_LARGE, "the inputs are too many for one request", expected=f"at most {MAX_DOCUMENT} bytes signed",
            seen=str(len(plain)),
        )  # fmt: skip
    info = infer_info(certificate.manager, certificate.agreement, certificate.run)
    call = InferenceCall(sealed=HpkePublicKey(certificate.hpke).seal(plain, info))
    answer = InferenceAnswer.decode(send(http, "POST", "/v1/infer", call.encode()), limit=MAX_BODY)
    body = load_json(open_answer(answer.nonce, answer.chunks, request.secret, signed.digest), limit=MAX_ANSWER)
    if isinstance(body, dict) and set(body) == {"refusal"}:
        raise refusal_of(body["refusal"])
    if not isinstance(body, dict) or set(body) != {"outputs", "receipt"} or not isinstance(body["outputs"], dict):
        raise refuse(MALFORMED, "the service's answer is not outputs and a receipt", seen=type(body).__name__)
    outputs: dict[str, Any] = body["outputs"]
    file = ReceiptFile(
        certificate=envelope,
        receipt=Envelope.from_json(body["receipt"]),
        request_digest=signed.digest,
        response_digest=digest_of(outputs),
    )
    check_answered(file, certificate, request)
    return outputs, file


def check_answered(
    file: ReceiptFile, certificate: ServiceCertificate, request: InferenceRequest | SealedRequest
) -> None:
    """That the receipt is the certified session's word on this very exchange. Raises `IntegrityError` (bad_signature, receipt_mismatch)."""
    receipt = InferenceReceipt.open(file.receipt, [PublicKey(certificate.session_key)])
    check_receipt(certificate, file.certificate.digest, receipt)
    wanted = {
        "request": file.request_digest,
        "response": file.response_digest,
        "party": request.party,
        "id": request.id,
    }
    for name, value in wanted.items():
        if getattr(receipt, name) != value:
            raise refuse(
                RECEIPT_MISMATCH, f"the receipt names another {name}", expected=value, seen=getattr(receipt, name)
            )


def open_http(endpoint: str, transport: httpx.BaseTransport | None) -> httpx.Client:
    """A connection that trusts nobody with content. Raises `Unreachable`: not an address."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise refuse(UNREACHABLE, "the run names no endpoint", expected="http://host:port", seen=endpoint)
    # Loading the system's roots takes longer than an inference; plain HTTP gets a context that trusts nobody.
    verify = True if parts.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.Client(
        base_url=endpoint,
        verify=verify,
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        headers={"accept-encoding": "identity"},
        follow_redirects=False,
        trust_env=False,
        transport=transport,
    )


def send(http: httpx.Client, method: str, path: str, body: bytes = b"") -> bytes:
    """The answer's body, bounded. Raises `Unreachable`, and what the service refuses in plain."""
    content = bytearray()
    try:
        headers = {"content-type": "application/json"} if body else {}
        with http.stream(method, path, content=body or None, headers=headers) as response:
            for part in response.iter_raw():
                content += part
                if len(content) > MAX_BODY:
                    raise refuse(UNREACHABLE, "the service's answer is too large", expected=f"at most {MAX_BODY} bytes")
            status = response.status_code
    except httpx.HTTPError as exc:
        raise refuse(UNREACHABLE, f"no answer from {http.base_url}", seen=type(exc).__name__) from None
    if status == httpx.codes.OK:
        return bytes(content)
    raise plain_refusal(bytes(content), str(http.base_url), status)


def read_refusal(response: httpx.Response, base: str) -> PerunError:
    """What a service refuses before it could open a request, from the answer that is being read."""
    content = bytearray()
    for part in response.iter_raw():
        content += part
        if len(content) > MAX_REFUSAL:
            break
    return plain_refusal(bytes(content), base, response.status_code)


def plain_refusal(content: bytes, base: str, status: int) -> PerunError:
    """`Unreachable` where it is in no known form."""
    try:
        return RefusalBody.decode(content).error()
    except (PerunError, ValueError):
        return refuse(UNREACHABLE, f"{base} refused in no known form", seen=f"HTTP {status}")


def refusal_of(body: Any) -> PerunError:
    """What a service refuses, sealed."""
    if not isinstance(body, dict) or not isinstance(body.get("reasons"), list) or not body["reasons"]:
        return refuse(MALFORMED, "the service's refusal is not of its form", expected="reasons, one or more")
    try:
        return RefusalBody.model_validate(body).error()
    except ValueError:
        return refuse(MALFORMED, "the service's refusal is not of its form", expected="reasons with code and kind")
