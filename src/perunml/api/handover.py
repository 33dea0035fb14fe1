"""Handing a manager's root key to another machine (docs/protocol.md, section 4a): POST /v1/handovers, then
POST /v1/handovers/{handover}/answer.

The machine that asks shows evidence over a key that it made for this alone, and who will keep the root key there; the manager answers with
the root key sealed to that key, once every agreement in force admits such a manager and the ledger says so.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from perunml.api.base import B64, Document, Message
from perunml.api.trust import ManagerTpm, RootCustody
from perunml.evidence.binding import binding
from perunml.wire.canonical import canonical
from perunml.wire.digests import digest, digest_of
from perunml.wire.encoding import b64

MAX_LINES = 10_000
"""Agreements that one handing over may name."""


class HandoverRequest(Message):
    """`tpm` are the keys of a machine with one, `key` is a simulated machine's; neither for a TEE's, whose evidence says it all."""

    tpm: ManagerTpm | None = None
    key: str = ""


class HandoverChallenge(Message):
    """`handover` names the attempt; `credential` and `encrypted_secret` are for a TPM to open, else empty."""

    handover: str
    nonce: B64
    expires_in: int
    credential: B64
    encrypted_secret: B64


class HandoverAnswer(Message):
    """`hpke` (text) is the fresh key that the root key is to be sealed to, `custody` who will keep it, `activation` is
    `handover_activation` of the credential's secret, or empty; `evidence` is bound to `handover_binding`."""

    hpke: str
    custody: RootCustody
    activation: str
    evidence: Document  # evidence.bundle.Bundle


class HandoverGiven(Message):
    """The root key, sealed with `handover_info`; `agreements` are those that admitted the machine, by digest, `checkpoint` is the
    ledger that says so."""

    sealed: B64
    agreements: list[str] = Field(max_length=MAX_LINES)
    checkpoint: str


def handover_binding(*, nonce: bytes, manager: str, hpke: str, custody: RootCustody, machine: str) -> bytes:
    """What the evidence is bound to, 48 bytes: a purpose of its own, so that it serves for nothing else."""
    return binding(
        purpose="join",
        nonce=nonce,
        role="manager",
        session_hpke=hpke,
        session_tls="",
        manager=manager,
        agreement="",
        run="",
        host=machine,
        payload=digest_of({"custody": custody.told()}),
    )


def handover_activation(secret: bytes, manager: str, nonce: bytes) -> str:
    """What is answered for a credential's secret: good for this attempt at this manager alone (as `trust.activation_answer`)."""
    label = "perunml/handover-activation"
    return digest(canonical({"label": label, "manager": manager, "nonce": b64(nonce), "secret": b64(secret)}))


def handover_info(manager: str, nonce: bytes, agreements: list[str]) -> dict[str, Any]:
    """HPKE's `info` of the sealed root key."""
    return {"label": "perunml/handover", "manager": manager, "nonce": b64(nonce), "agreements": agreements}
