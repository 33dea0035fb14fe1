"""How a manager shows itself: GET /.well-known/perunml/attestation?nonce=<base64url of 32 bytes>, and for a TPM then
POST /.well-known/perunml/attestation/activate.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from perunml.api.base import B64, Document, Message
from perunml.evidence.binding import binding
from perunml.release.managers import Proven
from perunml.wire.canonical import canonical
from perunml.wire.digests import digest, digest_of
from perunml.wire.encoding import b64

MAX_COLLATERAL = 4 * 1024 * 1024
"""Bytes of the collateral that a manager hands out, as canonical JSON: what one platform is judged by has some 30 KB."""
MAX_CHAIN = 16
MAX_ORIGIN = 64
"""Managers that one root key came through: an update a month is ten years of them."""


class Origin(Message):
    """A manager that had the root key before and handed it on, as the one that took it judged it (docs/decisions/0026)."""

    profile: str
    imitates: str
    judged_by: str
    identities: list[str] = Field(max_length=20)
    custody: Literal["passphrase", "tpm", "tee"]
    pcrs: list[int] = Field(max_length=24)

    @property
    def proven(self) -> Proven:
        """The same, as the rules read it."""
        return Proven(
            self.profile, self.imitates, self.judged_by, tuple(self.identities), self.custody, tuple(self.pcrs)
        )


class RootCustody(Message):
    """Who keeps the manager's root key while it does not run: ``passphrase`` (whoever knows it has all of the manager's
    keys), ``tpm`` (the machine's, while its `pcrs` of the SHA-256 bank are what they were) or ``tee``. `origin` are the managers
    that had it before, the first one first; where there is none the key was made here."""

    kind: Literal["passphrase", "tpm", "tee"]
    pcrs: list[int] = Field(max_length=24)
    origin: list[Origin] = Field(default_factory=list, max_length=MAX_ORIGIN)

    def told(self) -> dict[str, Any]:
        """As evidence covers it: without an origin where there is none."""
        found = self.model_dump(mode="json")
        if not self.origin:
            del found["origin"]
        return found


class ManagerTpm(Message):
    """The TPM that signed the evidence: keys as TPM2B_PUBLIC, certificates DER."""

    ek_certificate: B64
    ek_chain: list[B64] = Field(max_length=MAX_CHAIN)
    ek_public: B64
    ak_public: B64


class Attestation(Message):
    """The manager's keys and the evidence over them; `manager_binding` says what the evidence is bound to."""

    identity: str  # ed25519:… signs receipts, checkpoints, service certificates
    intake: str  # hpke:… owners wrap data keys to it
    tls: str  # sha256:… of the TLS key's SubjectPublicKeyInfo
    certificate: str  # the TLS server certificate, PEM; a client pins its key, not its names
    host_ca: str  # sha256:… of the SubjectPublicKeyInfo that signs hosts' client certificates
    custody: RootCustody
    machine: str  # as a TPM or a simulated key names it; empty for a TEE, whose evidence says it
    version: str
    profile: str  # what the manager claims to run under: simulated, measured or tee; judged from the evidence
    evidence: Document  # evidence.bundle.Bundle
    tpm: ManagerTpm | None
    collateral: Document | None  # evidence.endorsements.Collateral that the manager has: worth its vendors' signatures


class Activation(Message):
    """A credential made for the EK and the AK's name (TPM 2.0 Library part 1, 24)."""

    credential: B64  # TPM2B_ID_OBJECT
    secret: B64  # TPM2B_ENCRYPTED_SECRET


class Activated(Message):
    """`activation_answer` of the secret in the credential."""

    answer: str


def manager_binding(
    *, nonce: bytes, identity: str, intake: str, tls: str, host_ca: str, custody: RootCustody, machine: str
) -> bytes:
    """What a manager's evidence is bound to, 48 bytes. Custody is in it: who knows the root key has the TLS key too, and
    could change a word in between that no evidence covers."""
    return binding(
        purpose="manager",
        nonce=nonce,
        role="manager",
        session_hpke=intake,
        session_tls=tls,
        manager=identity,
        agreement="",
        run="",
        host=machine,
        payload=digest_of({"custody": custody.told(), "host_ca": host_ca}),
    )


def activation_answer(secret: bytes, identity: str) -> str:
    """What the manager answers for a credential's secret: a digest that is good for this manager alone. The secret itself
    would open the enrolment of its TPM somewhere else, to whoever passes that credential on."""
    return digest(canonical({"label": "perunml/manager-activation", "manager": identity, "secret": b64(secret)}))
