"""One run's session with the manager: keys, challenge, release, renewals, finish. Protocol only (DESIGN section 6).

The session's keys live here and nowhere else: an Ed25519 key (TLS client, signer of outputs and of a service's answers) and
an HPKE key, to which the manager seals what it delivers. `Session` is used by trainings and by services alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from perunml.api.pin import Pin
from perunml.api.runs import (
    Challenge,
    FinishAnswer,
    FinishRequest,
    KeyDelivery,
    ReleaseAnswer,
    ReleaseRequest,
    RenewAnswer,
    RenewRequest,
    finish_payload,
)
from perunml.host.channel import EvidenceRequest, Purpose
from perunml.host.clock import boottime
from perunml.host.codes import DELIVERY_MISMATCH, LEASE_OVER
from perunml.host.protocol import RETRY_AFTER, ManagerLink
from perunml.ledger.devices import Devices
from perunml.wire.canonical import Json
from perunml.wire.digests import digest_of
from perunml.wire.dsse import Envelope
from perunml.wire.encoding import b64
from perunml.wire.errors import EvidenceRefusal, Unreachable, refuse
from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import PublicKey, SigningKey
from perunml.wire.rules import Reason

T = TypeVar("T")

MAX_LEASE = 24 * 3600
"""Seconds; a lease longer than a day is no lease, whoever grants it."""
AGAIN = frozenset({"ima_offset", "nonce_mismatch"})
"""Refusals of a renewal or finish that leave lease and nonce as they were (docs/protocol.md, section 6): the manager wants the
whole log, or a version of the agreement came into force while it judged."""


class Evidence(Protocol):
    """Where a session gets evidence: `channel.EvidenceSource`."""

    def collect(self, request: EvidenceRequest) -> dict[str, Json]: ...
    def accepted(self) -> None: ...
    def forget(self) -> None: ...
    def lease(self, deadline: float) -> None: ...


class Session:
    """A run's session. `release` once, then `renew` as often as need be (from one thread at a time; a lock sees to it), then
    `finish`. `deadline` is the lease's end in seconds of CLOCK_BOOTTIME, counted from the sending of the request."""

    def __init__(
        self, pin: Pin, run: str, machine: str, evidence: Evidence, *, clock: Callable[[], float] = boottime
    ) -> None:
        self.pin = pin
        self.run = run
        self.machine = machine
        self.signer = SigningKey.generate()
        self.deadline = 0.0
        self.lease_seconds = 0
        self.lease_id = ""
        self.service_certificate: Envelope | None = None
        self._hpke = HpkePrivateKey.generate()
        self._evidence = evidence
        self._clock = clock
        self._lock = threading.Lock()
        self._link: ManagerLink | None = None
        self._challenge: Challenge | None = None
        self._nonce = b""
        self._pending: RenewRequest | None = None
        self._over = False

    @property
    def hpke(self) -> HpkePrivateKey:
        """The session's receiving key; a service's clients seal their requests to it."""
        return self._hpke

    @property
    def link(self) -> ManagerLink:
        """The connection under the lease's certificate. Raises `SuspendedError` (lease_over) before and after."""
        if self._link is None or self._over:
            raise refuse(LEASE_OVER, "the session holds no lease")
        return self._link

    @property
    def agreement(self) -> str:
        return self._challenged().agreement

    def release(self, machine_link: ManagerLink, *, agreement: str, endpoint: str = "") -> KeyDelivery:
        """Ask for the run's keys with the machine's certificate; afterwards the session has its lease. `agreement` is the
        one that the work item named. Raises what the manager refuses, `IntegrityError` (delivery_mismatch, unseal_failed)."""
        challenge = machine_link.challenge(self.run)
        document = challenge.run_document
        if (
            challenge.manager != self.pin.identity
            or challenge.agreement != agreement
            or document.get("run") != self.run
            or document.get("agreement") != agreement
        ):
            raise refuse(DELIVERY_MISMATCH, "the challenge is for another run, agreement or manager")
        self._challenge = challenge
        bundle = self._evidence.collect(self._request("release", challenge.nonce, ""))
        request = ReleaseRequest(
            nonce=challenge.nonce,
            session_hpke=self._hpke.public.text,
            session_key=self.signer.public.text,
            endpoint=endpoint,
            evidence=bundle,
        )
        # The same request by the same session key gets the same answer, so an answer that was lost is asked for again.
        try:
            answer, sent = self._insist(
                lambda: machine_link.release(self.run, request), self._clock() + challenge.expires_in
            )
        except EvidenceRefusal:
            self._evidence.forget()
            raise
        self._begin_lease(answer, sent)
        self._evidence.accepted()
        delivery = self._open(answer, challenge)
        self.service_certificate = delivery.service_certificate
        return delivery

    def renew(self) -> RenewAnswer:
        """Renew the lease on fresh evidence. Raises what the manager refuses. `Unreachable` leaves the lease as it was: the
        next call sends the very same request again, whose answer may have been lost; a repeated answer grants what is left."""
        with self._lock:
            answer, sent = self._proven(self._ask_to_renew)
            self._extend(answer.lease_seconds, sent)
            self._pending = None
            self._nonce = answer.next_nonce
            self._evidence.accepted()
            self.service_certificate = answer.service_certificate or self.service_certificate
            return answer

    def finish(
        self, outputs: Mapping[str, str], *, error: str = "", reasons: tuple[Reason, ...] = (), devices: Devices | None = None
    ) -> FinishAnswer:  # fmt: skip
        """End the run: `outputs` maps declared names to manifest digests; a run that failed has none and one error class.
        The lease is over afterwards. Tries again until the lease's end while the manager does not answer."""
        if self._pending is not None:
            self.renew()  # its answer holds the nonce that is wanted now
        shown = devices.as_json() if devices else None
        with self._lock:

            def ask() -> FinishAnswer:
                request = FinishRequest(
                    nonce=self._nonce,
                    evidence=self._evidence.collect(
                        self._request("finish", self._nonce, finish_payload(outputs, shown))
                    ),
                    outputs=dict(outputs),
                    error=error,
                    reasons=[reason.as_json() for reason in reasons],
                    devices=shown,
                )
                return self._insist(lambda: self.link.finish(self.run, request), self.deadline)[0]

            answer = self._proven(ask)
            answer.receipt.verify("Receipt", [PublicKey(self.pin.identity)])
            self._over = True
            return answer

    def close(self) -> None:
        """Drop the keys and the connection. Python's key objects cannot be overwritten; the process, which holds nothing
        else, ends right after (each run's keys live in a process of their own)."""
        self._over = True
        if self._link is not None:
            self._link.close()
            self._link = None
        self._hpke = HpkePrivateKey.generate()
        self.signer = SigningKey.generate()

    def _begin_lease(self, answer: ReleaseAnswer, sent: float) -> None:
        key = ed25519.Ed25519PrivateKey.from_private_bytes(self.signer.secret()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._link = ManagerLink(self.pin, (answer.certificate, key))
        self._nonce = answer.next_nonce
        self.lease_id = answer.lease
        self._extend(answer.lease_seconds, sent)

    def _ask_to_renew(self) -> tuple[RenewAnswer, float]:
        """The answer, and when the request was sent."""
        if self._pending is None:
            bundle = self._evidence.collect(self._request("renew", self._nonce, ""))
            self._pending = RenewRequest(nonce=self._nonce, evidence=bundle)
        sent = self._clock()
        return self.link.renew(self.run, self._pending), sent

    def _proven(self, ask: Callable[[], T]) -> T:
        """What `ask` gives, which collects evidence; after a refusal of `AGAIN` it is asked once more."""
        try:
            return ask()
        except EvidenceRefusal as exc:
            if exc.code not in AGAIN:
                raise
            if exc.code == "ima_offset":
                self._evidence.forget()
            self._pending = None
            return ask()

    def _insist(self, ask: Callable[[], T], until: float) -> tuple[T, float]:
        """The answer, and when the request that got it was sent."""
        while True:
            sent = self._clock()
            try:
                return ask(), sent
            except Unreachable:
                if self._clock() + RETRY_AFTER >= until:
                    raise
                time.sleep(RETRY_AFTER)

    def _extend(self, seconds: int, sent: float) -> None:
        if not 0 < seconds <= MAX_LEASE:
            raise refuse(DELIVERY_MISMATCH, "a lease of impossible length", seen=str(seconds))
        # The agent is told first: should it be gone, the old deadline stands and the run ends by it.
        self._evidence.lease(sent + seconds)
        self.lease_seconds = seconds
        self.deadline = sent + seconds

    def _open(self, answer: ReleaseAnswer, challenge: Challenge) -> KeyDelivery:
        info = {
            "label": "perunml/release",
            "manager": self.pin.identity,
            "agreement": challenge.agreement,
            "run": self.run,
            "nonce": b64(challenge.nonce),
        }
        delivery = KeyDelivery.decode(self._hpke.open(answer.sealed, info))
        if delivery.run != self.run or delivery.agreement != challenge.agreement:
            raise refuse(DELIVERY_MISMATCH, "the keys delivered are another run's")
        return delivery

    def _request(self, purpose: Purpose, nonce: bytes, payload: str) -> EvidenceRequest:
        challenge = self._challenged()
        return EvidenceRequest(
            purpose=purpose,
            nonce=nonce,
            role=challenge.role,
            session_hpke=self._hpke.public.text,
            session_tls=self.signer.public.text,
            agreement=challenge.agreement,
            run=digest_of(challenge.run_document),
            payload=payload,
        )

    def _challenged(self) -> Challenge:
        if self._challenge is None:
            raise ValueError("release comes first")
        return self._challenge
