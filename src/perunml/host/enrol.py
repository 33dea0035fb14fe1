"""Enrolment: a machine's attester proves itself to a manager, the operator signs, a short client certificate comes back.

Enrolment gives no right; agreements name machines. The certificate opens challenge and release only, and both want fresh
evidence, so its key lies in the agent's folder (mode 0600) and is worth little without the machine.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from perunml.api.base import Message
from perunml.api.enrolment import (
    EnrolAnswer,
    EnrolChallenge,
    Enrolled,
    EnrolRequest,
    EnrolSimulated,
    EnrolTee,
    EnrolTpm,
)
from perunml.api.pin import Pin
from perunml.attesters.base import Attester
from perunml.evidence.binding import binding
from perunml.host.codes import DELIVERY_MISMATCH, NOT_ENROLLED
from perunml.host.protocol import ManagerLink
from perunml.wire.canonical import canonical
from perunml.wire.encoding import b64
from perunml.wire.errors import refuse
from perunml.wire.identity import Signer, SigningKey
from perunml.wire.timestamps import parse_time

FILE = "machine.json"
RENEW_AT = 2 / 3
"""Part of its life after which an agent that has the operator's key renews the certificate."""
SPARE = 60
"""Seconds of life that a certificate needs to be used."""


class TpmMachine(Attester, Protocol):
    def enrolment(self) -> dict[str, Any]: ...
    def activate(self, credential: bytes, encrypted_secret: bytes) -> bytes: ...


class SimulatedMachine(Attester, Protocol):
    def enrolment(self) -> dict[str, Any]: ...
    def answer(self, challenge: bytes) -> bytes: ...


class TeeMachine(Attester, Protocol):
    """Its `machine` may be empty: the manager names it after the hardware that its evidence proves."""

    def enrolment(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Beside:
    """What an operator sends along with a TPM: whether it was cleared (owners must then approve anew), revocation lists (DER)
    of its issuers, and a cloud's certificate for the attestation key with its chain (DER)."""

    cleared: bool = False
    revocations: tuple[bytes, ...] = ()
    ak_certificate: bytes = b""
    ak_chain: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Membership:
    """What `enrol` left in the folder."""

    machine: str
    simulated: bool
    certificate: str
    key: bytes  # PEM
    renew_at: int  # seconds since the epoch
    expires: int

    def __repr__(self) -> str:
        return f"<Membership of {self.machine}>"


class _File(Message):
    manager: str
    machine: str
    simulated: bool
    certificate: str
    key: str
    expires: str


def enrol(
    pin: Pin,
    operator: Signer,
    attester: TpmMachine | SimulatedMachine | TeeMachine,
    folder: Path,
    name: str,
    beside: Beside | None = None,
) -> Enrolled:
    """Enrol this machine and keep its certificate in `folder`. Raises what the manager refuses (EvidenceRefusal), and
    `IntegrityError` (delivery_mismatch) for a certificate that is not this machine's."""
    key = SigningKey.generate()
    with ManagerLink(pin) as link:
        challenge = link.enrol(enrol_request(attester, name, key.public.text, beside), operator)
        answer = EnrolAnswer(answer=answer_challenge(attester, challenge, key.public.text, pin.identity))
        enrolled = link.answer_enrolment(challenge.enrolment, answer, operator)
    keep(folder, pin, attester.machine, key, enrolled)
    return enrolled


def keep(folder: Path, pin: Pin, machine: str, key: SigningKey, enrolled: Enrolled) -> None:
    """Keep a machine's certificate, and the key behind it, in `folder`. `machine` is empty for a TEE, which the manager names.
    Raises `IntegrityError` (delivery_mismatch) for a certificate that is not this machine's or this key's."""
    if enrolled.machine != (machine or enrolled.machine) or _certified_key(enrolled.certificate) != key.public.text:
        raise refuse(DELIVERY_MISMATCH, "the certificate is another machine's or another key's", expected=machine, seen=enrolled.machine)  # fmt: skip
    pem = ed25519.Ed25519PrivateKey.from_private_bytes(key.secret()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    kept = _File(
        manager=pin.identity, machine=enrolled.machine, simulated=enrolled.simulated, certificate=enrolled.certificate,
        key=pem.decode(), expires=enrolled.expires,
    )  # fmt: skip
    _write(folder / FILE, kept.encode())


def enrol_request(
    attester: TpmMachine | SimulatedMachine | TeeMachine, name: str, tls_key: str, beside: Beside | None = None
) -> EnrolRequest:
    """What an enrolment sends first: the machine's public keys, its EK's certificate and chain, and the TLS key (text) that is
    to be certified."""
    more = beside or Beside()
    claim = attester.enrolment()
    if "ek_public" in claim:
        return EnrolRequest(machine=EnrolTpm(
                kind="tpm", name=name, tls_key=tls_key, **claim, cleared=more.cleared, revocations=list(more.revocations),
                ak_certificate=more.ak_certificate, ak_chain=list(more.ak_chain),
            )
        )  # fmt: skip
    if "tee" in claim:
        return EnrolRequest(machine=EnrolTee(kind="tee", name=name, tls_key=tls_key))
    return EnrolRequest(machine=EnrolSimulated(kind="simulated", name=name, tls_key=tls_key, key=claim["key"]))


def membership(pin: Pin, machine: str, folder: Path, now: int | None = None) -> Membership:
    """This machine's certificate for this manager. Raises `UsageError` (not_enrolled)."""
    now = int(time.time()) if now is None else now
    try:
        kept = _File.decode((folder / FILE).read_bytes())
    except FileNotFoundError:
        raise refuse(NOT_ENROLLED, "this folder holds no certificate", command="perunml host enrol") from None
    if kept.manager != pin.identity or kept.machine != (machine or kept.machine):
        raise refuse(NOT_ENROLLED, "the certificate is another manager's or another machine's", expected=machine, seen=kept.machine, command="perunml host enrol")  # fmt: skip
    expires = parse_time(kept.expires)
    if now > expires - SPARE:
        raise refuse(NOT_ENROLLED, "the certificate is over", seen=kept.expires, command="perunml host enrol")
    begin = int(x509.load_pem_x509_certificate(kept.certificate.encode()).not_valid_before_utc.timestamp())
    renew_at = begin + int((expires - begin) * RENEW_AT)
    return Membership(kept.machine, kept.simulated, kept.certificate, kept.key.encode(), renew_at, expires)


def answer_challenge(
    attester: TpmMachine | SimulatedMachine | TeeMachine, challenge: EnrolChallenge, tls_key: str, manager: str
) -> bytes:
    """What the machine answers to a manager's challenge; a TEE's evidence names the TLS key (text) and the manager's identity."""
    if "tee" in attester.enrolment():
        bound = binding(
            purpose="enrol", nonce=challenge.nonce, role="host", session_hpke="", session_tls=tls_key, manager=manager,
            agreement="", run="", host="", payload="",
        )  # fmt: skip
        return canonical(attester.collect(bound).as_json())
    activate = getattr(attester, "activate", None)
    if activate is not None:
        return bytes(activate(challenge.credential, challenge.encrypted_secret))
    answer = getattr(attester, "answer")  # noqa: B009 - one of the two, by protocol
    return bytes(answer(challenge.nonce))


def _certified_key(certificate: str) -> str:
    try:
        public = x509.load_pem_x509_certificate(certificate.encode("ascii")).public_key()
    except ValueError:
        raise refuse(DELIVERY_MISMATCH, "what came is no certificate") from None
    if not isinstance(public, ed25519.Ed25519PublicKey):
        raise refuse(DELIVERY_MISMATCH, "the certificate is for another kind of key")
    return "ed25519:" + b64(public.public_bytes_raw())


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, readable by its owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    part.replace(path)


def check_writable(folder: Path) -> None:
    """Raises `OSError` where `folder` can be neither written nor made: said before anything is sent."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
