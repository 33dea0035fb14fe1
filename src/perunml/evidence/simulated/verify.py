"""Verifies a bare key's signature over a binding. It proves that the enrolled key holder was asked, and nothing else."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from perunml.evidence.bundle import SimulatedPart
from perunml.evidence.codes import BINDING_MISMATCH, QUOTE_SIGNATURE, WRONG_MACHINE
from perunml.evidence.types import Verified, mint_verified
from perunml.wire.digests import digest
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey

LABEL = b"perunml/simulated"


@dataclass(frozen=True, slots=True)
class Statement:
    """This key's holder saw this binding."""

    key: str
    binding: bytes


def machine_id(key: str) -> str:
    """``simulated:sha256:…`` of the key's text."""
    return "simulated:" + digest(key.encode())


def verify_statement(part: SimulatedPart, *, key: str, binding: bytes) -> Verified[Statement]:
    """Raises `EvidenceRefusal`: wrong_machine, binding_mismatch, quote_signature."""
    if not key or part.key != key:
        raise refuse(WRONG_MACHINE, "another key than the enrolled one", expected=key, seen=part.key)
    if not hmac.compare_digest(part.binding, binding):
        raise refuse(BINDING_MISMATCH, "made for another exchange", expected=binding.hex(), seen=part.binding.hex())
    try:
        PublicKey(key).verify(part.signature, LABEL + binding)
    except PerunError:
        raise refuse(QUOTE_SIGNATURE, "the signature does not verify under the machine's key") from None
    return mint_verified(Statement(key, binding))
