"""The binding: one value that ties every part of the evidence to one exchange.

It is the TEE's report data (zero-padded); its SHA-256 is the TPM's ``extraData`` (32 bytes fit every TPM).
"""

from __future__ import annotations

import hashlib
from typing import Literal

from perunml.wire.canonical import canonical
from perunml.wire.encoding import b64

BINDING_SIZE = 48
"""SHA-384."""

Purpose = Literal["release", "renew", "finish", "manager", "serve"]


def binding(
    *,
    purpose: Purpose,
    nonce: bytes,
    role: str,
    session_hpke: str,
    session_tls: str,
    manager: str,
    agreement: str,
    run: str,
    host: str,
    payload: str,
) -> bytes:
    """The 48 bytes of SHA-384 over the canonical object of all these.

    role          the agreement's name of the host's role, or ``manager``
    session_hpke  text of the session's HPKE key
    session_tls   text of the session's signing key, or the ``sha256:`` digest of a TLS key's SubjectPublicKeyInfo
    manager       text of the manager's identity key
    agreement     its digest, or ``""``
    run           digest of the run document, or ``""``
    host          the machine's id
    payload       digest of what else is vouched for (at `finish`, of the outputs' manifests), or ``""``
    """
    return hashlib.sha384(
        canonical(
            {
                "label": "perunml/binding",
                "version": 1,
                "purpose": purpose,
                "nonce": b64(nonce),
                "role": role,
                "session_hpke": session_hpke,
                "session_tls": session_tls,
                "manager": manager,
                "agreement": agreement,
                "run": run,
                "host": host,
                "payload": payload,
            }
        )
    ).digest()


def tpm_extra_data(binding: bytes) -> bytes:
    """The 32 bytes that a TPM signs as ``extraData`` for this binding."""
    if len(binding) != BINDING_SIZE:
        raise ValueError("a binding has 48 bytes")
    return hashlib.sha256(binding).digest()
