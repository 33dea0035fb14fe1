"""The signed documents of confidential inference (docs/spec/inference.md, section 2): certificate, request, receipt.

All three are DSSE payloads. A `ServiceCertificate` is signed by the manager, an `InferenceRequest` by the client, an
`InferenceReceipt` by the service's session key that the certificate names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import ValidationError, field_validator

from perunml.api.base import B64, Message
from perunml.api.codes import RECEIPT_MISMATCH
from perunml.wire.answers import SECRET_SIZE
from perunml.wire.codes import MALFORMED
from perunml.wire.digests import parse_digest
from perunml.wire.dsse import API_VERSION, Envelope, unsigned
from perunml.wire.errors import PerunError, refuse
from perunml.wire.hpke import HpkePublicKey
from perunml.wire.identity import PublicKey, Signer
from perunml.wire.timestamps import parse_time

B = TypeVar("B", bound="_Body")
_ID = frozenset("0123456789abcdef")


class _Body(Message):
    """The payload of a signed document, without its apiVersion and kind (the class's name)."""

    def envelope(self, signer: Signer) -> Envelope:
        """Signed by `signer`."""
        made = unsigned(type(self).__name__, self.model_dump(mode="json"))
        return made.with_signature(signer.public, signer.sign(made.signing_bytes()))

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

    @field_validator("agreement", "model")
    @classmethod
    def _digests(cls, value: str) -> str:
        return _valid(parse_digest, value)

    @field_validator("not_before", "not_after")
    @classmethod
    def _times(cls, value: str) -> str:
        return _valid(parse_time, value)


class InferenceRequest(_Body):
    """What a client asks. `certificate` is the digest of the service certificate that the client checked: it names the one
    session that may answer, so a service cannot pass the request on to another."""

    manager: str
    agreement: str
    run: str
    certificate: str
    party: str
    id: str  # 32 hex digits that never repeat
    secret: B64  # 32 random bytes; the answer's keys come from them
    time: str
    inputs: dict[str, Any]

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


class InferenceReceipt(_Body):
    """What the service answered to what. `request` is the request document's digest, `response` the digest of the
    canonical outputs; neither shows its content."""

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

    @field_validator("request", "response", "certificate", "model", "agreement")
    @classmethod
    def _digests(cls, value: str) -> str:
        return _valid(parse_digest, value)

    @field_validator("time")
    @classmethod
    def _time(cls, value: str) -> str:
        return _valid(parse_time, value)


def infer_info(manager: str, agreement: str, run: str) -> dict[str, str]:
    """The HPKE `info` under which requests are sealed."""
    return {"label": "perunml/infer", "manager": manager, "agreement": agreement, "run": run}


def check_receipt(certificate: ServiceCertificate, certificate_digest: str, receipt: InferenceReceipt) -> None:
    """That `receipt` is of the very service that `certificate` is about, in its time. Signatures are the caller's to have
    checked. Raises `IntegrityError` (receipt_mismatch), naming the first member that differs."""
    for name in ("manager", "agreement", "job", "run", "model", "simulated"):
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
