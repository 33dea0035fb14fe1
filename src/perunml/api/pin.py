"""A pinned manager: what was verified once, and the TLS context that accepts nobody else.

Parties and hosts both reach a manager through a pin. The key is the name: the certificate that the manager's evidence
vouched for is the only trust anchor, host names are not looked at, and the peer's SubjectPublicKeyInfo is compared with
the pinned digest in the handshake itself, before a byte is sent.
"""

from __future__ import annotations

import os
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from perunml.api.base import Message
from perunml.api.codes import CHANNEL_MISMATCH
from perunml.wire.canonical import canonical, load_json
from perunml.wire.codes import MALFORMED
from perunml.wire.digests import digest, parse_digest
from perunml.wire.dsse import API_VERSION
from perunml.wire.errors import PerunError, refuse
from perunml.wire.hpke import HpkePublicKey
from perunml.wire.identity import PublicKey
from perunml.wire.timestamps import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KIND = "ManagerPin"
MAX_PIN = 64 * 1024
"""Largest pin file read, in bytes; ours have about 4 KiB."""


def spki_digest(certificate: str | bytes) -> str:
    """``sha256:`` of the SubjectPublicKeyInfo (DER) of an X.509 certificate, given as PEM text or DER bytes.
    Raises `UsageError` (malformed)."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        if isinstance(certificate, str):
            found = x509.load_pem_x509_certificate(certificate.encode("ascii"))
        else:
            found = x509.load_der_x509_certificate(certificate)
        return digest(found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise refuse(MALFORMED, "not an X.509 certificate") from None


def _checked(parse: Callable[[str], object]) -> Callable[[type, str], str]:
    def check(cls: type, value: str) -> str:
        try:
            parse(value)
        except PerunError as exc:
            raise ValueError(str(exc)) from None
        return value

    return check


class Pin(Message):
    """A manager whose evidence was judged good enough at `pinned`. Nothing here is secret."""

    url: str  # https://host:port, without a path
    identity: str  # ed25519:… signs receipts, checkpoints and service certificates
    intake: str  # hpke:… owners wrap data keys to it
    tls: str  # sha256: of the TLS key's SubjectPublicKeyInfo
    certificate: str  # PEM of the one certificate accepted
    host_ca: str  # sha256: of the SubjectPublicKeyInfo that signs hosts' certificates
    profile: str  # what the evidence achieved: simulated, measured or tee
    simulated: bool
    machine: str  # as it was judged by, or what its evidence proved
    pinned: str  # RFC 3339
    judged_by: str = ""  # digest of the baseline or measurements that its evidence was judged by
    custody: str = ""  # who keeps its root key: passphrase, tpm or tee
    seen: dict[str, Annotated[list[int], Field(min_length=2, max_length=2)]] = Field(
        default_factory=dict
    )  # the newest collateral: name -> [number, issued]

    _identity = field_validator("identity")(_checked(PublicKey))
    _intake = field_validator("intake")(_checked(HpkePublicKey))
    _digests = field_validator("tls", "host_ca")(_checked(parse_digest))
    _time = field_validator("pinned")(_checked(parse_time))

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme != "https" or not parts.hostname or parts.path or parts.query or parts.fragment:
            raise ValueError("not https://host:port")
        return value

    @model_validator(mode="after")
    def _agrees(self) -> Pin:
        try:
            same = spki_digest(self.certificate) == self.tls
        except PerunError as exc:
            raise ValueError(str(exc)) from None
        if not same:
            raise ValueError("the certificate does not hold the key that `tls` names")
        if self.simulated != (self.profile == "simulated"):
            raise ValueError("`simulated` and `profile` contradict one another")
        return self

    def to_file(self) -> bytes:
        """The file's bytes: canonical JSON with apiVersion and kind."""
        return canonical({"apiVersion": API_VERSION, "kind": KIND, **self.model_dump(mode="json")})

    @classmethod
    def from_file(cls, data: bytes) -> Pin:
        """Raises `UsageError` (malformed), naming the first field that is wrong."""
        value: Any = load_json(data, limit=MAX_PIN)
        if not isinstance(value, dict) or value.pop("apiVersion", "") != API_VERSION or value.pop("kind", "") != KIND:
            raise refuse(MALFORMED, f"not a {API_VERSION} {KIND}")
        try:
            return cls.model_validate(value)
        except ValidationError as exc:
            first = exc.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the pin"
            raise refuse(MALFORMED, f"{KIND}: {where}: {first['msg']}") from None


def pinned_context(pin: Pin, client: tuple[str, bytes] | None = None) -> ssl.SSLContext:
    """A client's TLS 1.3 context that talks to the pinned manager alone; for blocking sockets and for asyncio.

    `client` is a host's certificate (PEM) and private key (PEM), which passes to OpenSSL through memory and never through
    a file on a disk. The handshake raises `ssl.SSLCertVerificationError` for another certificate and `EvidenceRefusal`
    (channel_mismatch) for another key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # The pinned certificate is a leaf: without this flag OpenSSL wants a root above it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=pin.certificate)
    expected = pin.tls

    # Partial chains would let the pinned certificate vouch for another one below it: so the key itself is compared.
    class PinnedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            try:
                _check_peer(self.getpeercert(binary_form=True), expected)
            except BaseException:
                self.close()  # ssl closes for its own errors only
                raise

    class PinnedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            _check_peer(self.getpeercert(binary_form=True), expected)

    context.sslsocket_class = PinnedSocket
    context.sslobject_class = PinnedObject
    if client is not None:
        certificate, key = client
        with _memory_file(certificate.encode("ascii") + b"\n" + key) as path:
            context.load_cert_chain(path)
    return context


def _check_peer(certificate: bytes | None, expected: str) -> None:
    seen = spki_digest(certificate) if certificate else "no certificate"
    if seen != expected:
        raise refuse(CHANNEL_MISMATCH, "the TLS peer's key is not the pinned one", expected=expected, seen=seen)


@contextmanager
def _memory_file(data: bytes) -> Iterator[str]:
    """A path under /proc to anonymous memory that holds `data`, overwritten at the end."""
    descriptor = os.memfd_create("perunml", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as out:
            out.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.pwrite(descriptor, bytes(len(data)), 0)
        os.close(descriptor)
