"""The signed documents of confidential inference (docs/spec/inference.md, section 2): certificate, request, receipt.

All three are DSSE payloads. A `ServiceCertificate` is signed by the manager, a `SealedRequest` by the client, an
`InferenceReceipt` by the service's session key that the certificate names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

from pydantic import ValidationError, field_validator

from perunml.api.base import B64, Message
from perunml.api.codes import RECEIPT_MISMATCH
from perunml.wire.canonical import MAX_DOCUMENT
from perunml.wire.codes import MALFORMED
from perunml.wire.digests import digest, parse_digest
from perunml.wire.dsse import API_VERSION, Envelope, unsigned
from perunml.wire.errors import PerunError, refuse
from perunml.wire.hpke import HpkePublicKey
from perunml.wire.identity import PublicKey, Signer
from perunml.wire.streams import SECRET_SIZE
from perunml.wire.timestamps import parse_time

B = TypeVar("B", bound="_Body")
_ID = frozenset("0123456789abcdef")
HEADERS = ("content-type", "accept", "inference-header-content-length")
"""Of a client's headers these alone go through; what else it sends (cookies, keys of other services) is not for a service to see."""
MAX_PATH = 1024
"""Characters of a path, and of a header."""
MAX_BODY = 64 * 2**20
"""Bytes of a sealed request's body."""


class _Body(Message):
    """The payload of a signed document, without its apiVersion and kind (the class's name)."""

    def envelope(self, signer: Signer) -> Envelope:
        """Signed by `signer`."""
        return unsigned(type(self).__name__, self.model_dump(mode="json")).signed_by(signer)

    @classmethod
    def open(cls: type[B], envelope: Envelope, keys: Iterable[PublicKey]) -> B:
        """The document, when one of `keys` signed it. Raises `IntegrityError` (bad_signature, wrong_payload_type) and
        `UsageError` (malformed)."""
        envelope.verify(cls.__name__, keys)
        return cls.unverified(envelope)

    @classmethod
    def unverified(cls: type[B], envelope: Envelope) -> B:
        """The document, its signatures NOT checked: to learn whose keys to ask for."""
        value = envelope.unverified(cls.__name__)
        try:
            return cls.model_validate({k: v for k, v in value.items() if k not in ("apiVersion", "kind")})
        except ValidationError as exc:
            first = exc.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise refuse(MALFORMED, f"{API_VERSION} {cls.__name__}: {where}: {first['msg']}") from None


def _valid(parse: Any, value: str) -> str:
    try:
        parse(value)
    except PerunError as exc:
        raise ValueError(str(exc)) from None
    return value


class ServiceCertificate(_Body):
    """What the manager says of one service for the time of one lease. Times are RFC 3339; valid from `not_before` up to,
    not including, `not_after`."""

    manager: str  # identity key of the signer
    agreement: str  # digest
    job: str
    run: str
    model: str  # digest of the model's manifest
    engine: str
    machine: str
    profile: str  # achieved: simulated, measured, tee, gpu-cc
    imitates: str  # for simulated: whose checks were run
    simulated: bool
    verdict: str  # digest of what was found of the host, as the release's ledger entry has it
    hpke: str  # requests are sealed to it
    session_key: str  # receipts are signed with it
    not_before: str
    not_after: str

    @field_validator("manager", "session_key")
    @classmethod
    def _keys(cls, value: str) -> str:
        return _valid(PublicKey, value)

    @field_validator("hpke")
    @classmethod
    def _receiving(cls, value: str) -> str:
        return _valid(HpkePublicKey, value)

    @field_validator("agreement", "model", "verdict")
    @classmethod
    def _digests(cls, value: str) -> str:
        return _valid(parse_digest, value)

    @field_validator("not_before", "not_after")
    @classmethod
    def _times(cls, value: str) -> str:
        return _valid(parse_time, value)


class SealedRequest(_Body):
    """An HTTP request for the service's own ears, and who asks which session, once. `certificate` is the digest of the service certificate that the client checked: it names the one
    session that may answer, so a service cannot pass the request on to another. `body` is the digest of the request's body, which has `size` bytes and follows the document. With `pad` the
    answer's length is rounded up as the request's was."""

    manager: str
    agreement: str
    run: str
    certificate: str
    party: str
    id: str  # 32 hex digits that never repeat
    secret: B64  # 32 random bytes; the answer's keys come from them
    time: str
    method: Literal["GET", "POST"]
    path: str
    headers: dict[str, str]
    body: str
    size: int
    pad: bool

    @field_validator("id")
    @classmethod
    def _id(cls, value: str) -> str:
        if len(value) != 32 or not _ID.issuperset(value):
            raise ValueError("not 32 lower-case hex digits")
        return value

    @field_validator("secret")
    @classmethod
    def _secret(cls, value: bytes) -> bytes:
        if len(value) != SECRET_SIZE:
            raise ValueError(f"not {SECRET_SIZE} bytes")
        return value

    @field_validator("time")
    @classmethod
    def _time(cls, value: str) -> str:
        return _valid(parse_time, value)

    @field_validator("body")
    @classmethod
    def _digest(cls, value: str) -> str:
        return _valid(parse_digest, value)

    @field_validator("path")
    @classmethod
    def _path(cls, value: str) -> str:
        if not value.startswith("/") or len(value) > MAX_PATH or not value.isascii() or not value.isprintable():
            raise ValueError("not a path")
        return value

    @field_validator("headers")
    @classmethod
    def _headers(cls, value: dict[str, str]) -> dict[str, str]:
        if not set(value) <= set(HEADERS) or any(len(v) > MAX_PATH or not v.isprintable() for v in value.values()):
            raise ValueError("not a header that goes through")
        return value


class InferenceReceipt(_Body):
    """What the service answered to what. `request` is the request document's digest, `response` the digest of the
    answer's head and body (`ResponseHash`); neither shows its content."""

    manager: str
    agreement: str
    job: str
    run: str
    model: str
    certificate: str
    request: str
    response: str
    party: str
    id: str
    time: str
    simulated: bool
    verdict: str

    @field_validator("request", "response", "certificate", "model", "agreement", "verdict")
    @classmethod
    def _digests(cls, value: str) -> str:
        return _valid(parse_digest, value)

    @field_validator("time")
    @classmethod
    def _time(cls, value: str) -> str:
        return _valid(parse_time, value)


class ResponseHash:
    """SHA-256 over the head's length in four bytes, the head and the body: what a receipt names of an answer that came in chunks."""

    def __init__(self, head: bytes) -> None:
        self._hash = hashlib.sha256(len(head).to_bytes(4) + head)

    def add(self, part: bytes | memoryview) -> None:
        self._hash.update(part)

    @property
    def text(self) -> str:
        return "sha256:" + self._hash.hexdigest()


def frame_request(envelope: Envelope, body: bytes | memoryview, *, pad: bool) -> bytes:
    """The plaintext of a sealed request: the document's length in four bytes, the document, the body, and zeros up to `padded` bytes."""
    signed = envelope.encode()
    size = 4 + len(signed) + len(body)
    return b"".join((len(signed).to_bytes(4), signed, body, bytes(padded(size) - size if pad else 0)))


def read_request(plain: bytes) -> tuple[Envelope, SealedRequest, memoryview]:
    """Document, what it says (its signature NOT checked), and the body that it names. Raises `PerunError`."""
    view = memoryview(plain)
    end = 4 + int.from_bytes(view[:4])
    if len(view) < 4 or end > len(view) or end > MAX_DOCUMENT:
        raise refuse(MALFORMED, "a request's document runs over its end")
    envelope = Envelope.decode(bytes(view[4:end]))
    request = SealedRequest.unverified(envelope)
    body = view[end : end + request.size] if 0 <= request.size <= len(view) - end else view[:0]
    if len(body) != request.size or digest(body) != request.body or any(view[end + request.size :]):
        raise refuse(MALFORMED, "a request's body is not the one that its document names")
    return envelope, request, body


def padded(size: int) -> int:
    """`size` rounded up so that few lengths are left to tell apart, by an eighth at the most (Padmé: Nikitin and others, PETS 2019)."""
    if size < 2:
        return size
    exponent = size.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1 if exponent > exponent.bit_length() else 0
    return (size + mask) & ~mask


def sealed_info(manager: str, agreement: str, run: str) -> dict[str, str]:
    """The HPKE `info` under which `SealedRequest`s are sealed."""
    return {"label": "perunml/sealed-request", "manager": manager, "agreement": agreement, "run": run}


def check_receipt(certificate: ServiceCertificate, certificate_digest: str, receipt: InferenceReceipt) -> None:
    """That `receipt` is of the very service that `certificate` is about, in its time. Signatures are the caller's to have
    checked. Raises `IntegrityError` (receipt_mismatch), naming the first member that differs."""
    for name in ("manager", "agreement", "job", "run", "model", "simulated", "verdict"):
        wanted, seen = getattr(certificate, name), getattr(receipt, name)
        if wanted != seen:
            raise refuse(
                RECEIPT_MISMATCH, f"receipt and certificate differ in {name}", expected=str(wanted), seen=str(seen)
            )
    if receipt.certificate != certificate_digest:
        raise refuse(
            RECEIPT_MISMATCH,
            "the receipt names another certificate",
            expected=certificate_digest,
            seen=receipt.certificate,
        )
    if not parse_time(certificate.not_before) <= parse_time(receipt.time) < parse_time(certificate.not_after):
        raise refuse(
            RECEIPT_MISMATCH,
            "the receipt is from outside the certificate's time",
            expected=f"{certificate.not_before} to {certificate.not_after}",
            seen=receipt.time,
        )
