"""How a manager shows itself: GET /.well-known/perunml/attestation?nonce=<base64url of 32 bytes>."""

from __future__ import annotations

from perunml.api.base import Document, Message


class Attestation(Message):
    """The manager's keys and the evidence over them.

    The evidence is bound to ``binding(purpose="manager", nonce, role="manager", session_hpke=intake, session_tls=tls,
    manager=identity, agreement="", run="", host=<the manager's machine>, payload=host_ca)``.
    """

    identity: str  # ed25519:… signs receipts, checkpoints, service certificates
    intake: str  # hpke:… owners wrap data keys to it
    tls: str  # sha256:… of the TLS key's SubjectPublicKeyInfo
    certificate: str  # the TLS server certificate, PEM; a client pins its key, not its names
    host_ca: str  # sha256:… of the SubjectPublicKeyInfo that signs hosts' client certificates
    machine: str
    version: str
    profile: str  # what the manager claims to run under: simulated, measured or tee; judged from the evidence
    evidence: Document  # evidence.bundle.Bundle
