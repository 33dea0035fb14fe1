"""Withdrawals: a key takes back its approval while the agreement is not in force.

A DSSE document of kind "Withdrawal" that names manager, agreement, party and the approvals (digests of their payloads) that it takes
back; it counts for the keys that signed it. What was taken back stays so: who approves again signs another approval (one that
ends at another time), so nobody can bring an old one back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from perunml.agreements.codes import APPROVAL_MISMATCH
from perunml.agreements.schema import Agreement
from perunml.wire.codes import MALFORMED
from perunml.wire.digests import parse_digest
from perunml.wire.dsse import Envelope
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

KIND = "Withdrawal"
MAX_TAKEN_BACK = 64
"""Approvals in one withdrawal; a key rarely has more than one of an agreement."""
_FIELDS = frozenset({"apiVersion", "kind", "manager", "agreement", "party", "approvals"})


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What a checked withdrawal says: these keys (texts) take back these approvals (digests of their payloads)."""

    party: str
    keys: frozenset[str]
    approvals: frozenset[str]


def withdrawal(agreement: Agreement, party: str, approvals: Iterable[str]) -> dict[str, Any]:
    """The body, to be signed as kind "Withdrawal" by the key that approved; `approvals` are digests of payloads."""
    return {
        "manager": agreement.manager.key,
        "agreement": agreement.digest,
        "party": party,
        "approvals": sorted(approvals),
    }


def check_withdrawal(agreement: Agreement, envelope: Envelope, *, predecessor: Agreement | None = None) -> Withdrawn:
    """The withdrawal, of exactly this agreement. Raises `UsageError` (malformed), `AgreementRefusal` (approval_mismatch),
    `IntegrityError` (bad_signature)."""
    body = envelope.unverified(KIND)
    approvals = body.get("approvals")
    if set(body) != _FIELDS or not isinstance(approvals, list) or not 0 < len(approvals) <= MAX_TAKEN_BACK:
        raise refuse(MALFORMED, "not a withdrawal", expected=", ".join(sorted(_FIELDS)), seen=", ".join(sorted(body)))
    for name in approvals:
        parse_digest(name)
    wanted = withdrawal(agreement, str(body["party"]), approvals)
    for field, value in wanted.items():
        if body[field] != value:
            raise refuse(
                APPROVAL_MISMATCH, f"the withdrawal is for another {field}", expected=str(value), seen=str(body[field])
            )
    party = body["party"]
    sides = [a.parties[party] for a in (agreement, predecessor) if a is not None and party in a.parties]
    if not sides:
        raise refuse(APPROVAL_MISMATCH, f"{party!r} is no party of this agreement")
    signed = envelope.verify(KIND, [PublicKey(key) for side in sides for key in side.keys.values()])
    return Withdrawn(party, frozenset(key.text for key in signed), frozenset(approvals))
