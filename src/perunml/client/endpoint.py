"""An address at which a service is said to be, not trusted, nor anything on the way (docs/spec/inference.md): what is fetched there, and what of it is believed."""

from __future__ import annotations

import ssl
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx

from perunml.api.codes import RECEIPT_MISMATCH, SERVICE_CERTIFICATE_OVER, SERVICE_NOT_EXPECTED, UNREACHABLE
from perunml.api.inference import ReceiptFile
from perunml.api.pin import Pin
from perunml.api.refusal import RefusalBody
from perunml.api.service import InferenceReceipt, SealedRequest, ServiceCertificate, check_receipt
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey, SigningKey
from perunml.wire.timestamps import format_time, parse_time

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
MAX_VIEW = 64 * 1024
"""Bytes of a certificate or of a refusal in plain."""
SKEW = 30
"""Seconds by which a manager's clock may be ahead of ours."""


class Asker(Protocol):
    """Who asks: `client.identity.Identity`, or anything with a name and a signing key."""

    @property
    def name(self) -> str: ...
    @property
    def signing(self) -> SigningKey: ...


def check_service(
    envelope: Envelope, pin: Pin, *, agreement: str, run: str, model: str = "", now: int
) -> ServiceCertificate:
    """The certificate, when the pinned manager signed it for this very service and it is valid `now` (seconds since
    the epoch). An empty `agreement`, `run` or `model` is any. Raises `EvidenceRefusal` (service_not_expected), `SuspendedError` (service_certificate_over),
    `IntegrityError` (bad_signature)."""
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


def check_renewed(envelope: Envelope, pin: Pin, certificate: ServiceCertificate, *, now: int) -> ServiceCertificate:
    """A later certificate of the very session that `certificate` is about, for an answer that outlasted it: all but its time is the same. Raises as `check_service`."""
    later = check_service(
        envelope, pin, agreement=certificate.agreement, run=certificate.run, model=certificate.model, now=now
    )
    for name, value in certificate:
        if name not in ("not_before", "not_after") and getattr(later, name) != value:
            raise refuse(
                SERVICE_NOT_EXPECTED,
                f"the renewed certificate is of another {name}",
                expected=str(value),
                seen=str(getattr(later, name)),
            )
    return later


def check_answered(file: ReceiptFile, certificate: ServiceCertificate, request: SealedRequest) -> None:
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


def fetch_view(http: httpx.Client, path: str) -> bytes:
    """What is to be seen at `path` of a service, bounded. Raises `Unreachable`, and what the service refuses in plain."""
    content = bytearray()
    try:
        with http.stream("GET", path) as response:
            if response.status_code != httpx.codes.OK:
                raise read_refusal(response, str(http.base_url))
            for part in response.iter_raw():
                content += part
                if len(content) > MAX_VIEW:
                    raise refuse(UNREACHABLE, "the service's answer is too large", expected=f"at most {MAX_VIEW} bytes")
    except httpx.HTTPError as exc:
        raise refuse(UNREACHABLE, f"no answer from {http.base_url}", seen=type(exc).__name__) from None
    return bytes(content)


def read_refusal(response: httpx.Response, base: str) -> PerunError:
    """What a service refuses before it could open a request, from the answer that is being read."""
    content = bytearray()
    for part in response.iter_raw():
        content += part
        if len(content) > MAX_VIEW:
            break
    return _plain_refusal(bytes(content), base, response.status_code)


def _plain_refusal(content: bytes, base: str, status: int) -> PerunError:
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
