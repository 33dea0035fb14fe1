"""Enrolment of a host: POST /v1/enrolments, then POST /v1/enrolments/{enrolment}/answer. Both signed by the operator."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from perunml.api.base import B64, Message


class EnrolTpm(Message):
    """A machine with a TPM. Keys as TPM2B_PUBLIC, certificates and revocation lists DER, all from the host (never fetched).

    `ak_certificate` is a cloud's for the attestation key, with its chain; `cleared` says that the TPM was cleared, or has
    another attestation key: its clock is forgotten, and owners must approve anew.
    """

    kind: Literal["tpm"]
    name: str
    tls_key: str  # ed25519:… for the short client certificate
    ek_certificate: B64
    ek_chain: list[B64]
    ek_public: B64
    ak_public: B64
    revocations: list[B64] = Field(default_factory=list)
    ak_certificate: B64 = b""
    ak_chain: list[B64] = Field(default_factory=list)
    cleared: bool = False
    binder_public: B64 = b""  # TPM2B_PUBLIC of the key that only this machine's TEE can use (evidence.tpm.binder)
    binder_certify: B64 = b""  # TPMS_ATTEST of TPM2_Certify of it by the attestation key
    binder_signature: B64 = b""


class EnrolTee(Message):
    """A machine whose root of trust is its TEE's: its hardware's identity comes from the evidence that it answers with."""

    kind: Literal["tee"]
    name: str
    tls_key: str


class EnrolSimulated(Message):
    """A machine without any root of trust: a key that says it is one machine."""

    kind: Literal["simulated"]
    name: str
    tls_key: str
    key: str  # ed25519:…


class EnrolRequest(Message):
    machine: EnrolTpm | EnrolTee | EnrolSimulated


class EnrolChallenge(Message):
    """What the machine must answer: for a TPM the credential (the answer is the secret that ActivateCredential gives), for
    a simulated one `nonce` (the answer is the key's signature over ``b"perunml/enrol" || nonce``), for a TEE `nonce` as well (the
    answer is an ``evidence.bundle.Bundle``, JSON, bound to ``binding(purpose="enrol", nonce, role="host", session_tls=tls_key,
    manager)``, everything else empty)."""

    enrolment: str
    credential: B64  # TPM2B_ID_OBJECT, empty for simulated
    encrypted_secret: B64  # TPM2B_ENCRYPTED_SECRET, empty for simulated
    nonce: B64  # empty for a TPM


class AtHost(Message):
    """What an operator asks of a machine that it enrols over the network (`host.reception`): the beginning of an enrolment, as
    an `EnrolRequest`, under this name. What else an operator knows of its TPM goes along, as in `EnrolTpm`."""

    name: str
    cleared: bool = False
    revocations: list[B64] = Field(default_factory=list)
    ak_certificate: B64 = b""
    ak_chain: list[B64] = Field(default_factory=list)


class BootLog(Message):
    """What a machine's firmware logged of this boot, as its kernel keeps it (TCG crypto-agile log). Its word alone: a quote proves it."""

    event_log: B64


class BootLogAsked(Message):
    """An operator asks a machine that waits for it (`host.reception`) for its boot log."""


class EnrolAnswer(Message):
    answer: B64


class Enrolled(Message):
    """The machine's name, its client certificate for challenge and release (PEM), and until when (RFC 3339)."""

    machine: str
    simulated: bool
    certificate: str
    expires: str
