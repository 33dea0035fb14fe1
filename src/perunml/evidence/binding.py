"""The binding: one value that ties every part of the evidence to one exchange.

It is the TEE's report data (zero-padded); its SHA-256 is the TPM's ``extraData`` (32 bytes fit every TPM). A TPM signs a few
times a second, so one quote may serve several exchanges of one machine at once: then it is SHA-256 over all their bindings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from perunml.wire.canonical import canonical
from perunml.wire.encoding import b64

BINDING_SIZE = 48
"""SHA-384."""
MAX_BINDINGS = 64
"""Exchanges that one quote may serve; a host has some slots, each renews once in a window."""

REPORT_DATA_SIZE = 64
"""Bytes of a TEE's report data: SGX, TDX and SEV-SNP alike."""

Purpose = Literal["release", "renew", "finish", "manager", "serve", "enrol", "join"]


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


def tpm_extra_data(*bindings: bytes) -> bytes:
    """The 32 bytes that a TPM signs as ``extraData`` for these bindings: SHA-256 of them, sorted, one after the other. Each has
    the same length, so no two sets of them give the same bytes, and a single one's is its own SHA-256."""
    if not 1 <= len(bindings) <= MAX_BINDINGS or any(len(each) != BINDING_SIZE for each in bindings):
        raise ValueError(f"1 to {MAX_BINDINGS} bindings of {BINDING_SIZE} bytes")
    return hashlib.sha256(b"".join(sorted(bindings))).digest()


def tee_report_data(own: bytes, key: str = "") -> bytes:
    """The 64 bytes that a TEE reports for a binding: the binding itself, then zeros. A TEE that shows its `key` in a TPM's PCR as
    well (docs/spec/tee.md, "Binders") reports SHA-384 over a label, the binding and the key's text instead."""
    if len(own) != BINDING_SIZE:
        raise ValueError(f"a binding has {BINDING_SIZE} bytes")
    told = hashlib.sha384(b"perunml/tee-key\0" + own + key.encode()).digest() if key else own
    return told + bytes(REPORT_DATA_SIZE - len(told))


def gpu_nonce(own: bytes) -> bytes:
    """The 32 bytes that a GPU's report signs as its nonce: SHA-256 of the binding."""
    return tpm_extra_data(own)


def shared_extra_data(own: bytes, others: Sequence[bytes]) -> bytes | None:
    """What a quote signs that serves the exchange of `own` binding and, as its sender tells, `others`. None when they are not
    what a sender tells that means it: sorted, each once, `own` not among them, at most `MAX_BINDINGS` in all."""
    if len(others) >= MAX_BINDINGS or any(len(each) != BINDING_SIZE for each in others):
        return None
    if list(others) != sorted({*others} - {own}):
        return None
    return tpm_extra_data(own, *others)
