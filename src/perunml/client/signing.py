"""Decisions that are signed by several keys, or elsewhere: proposals, approvals, withdrawals, suspensions, conditions.

Such a document is a DSSE envelope in a file: made by one member of a board, signed by others on their own machines or by an HSM,
and sent by any party's client. What is signed names all that it is about, so it needs no trust in who carries it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from perunml.agreements.approvals import approval
from perunml.agreements.codes import NOTHING_TO_WITHDRAW
from perunml.agreements.offline import attach
from perunml.agreements.schema import Agreement
from perunml.agreements.withdrawals import withdrawal
from perunml.api.agreements import (
    AgreementView,
    ApproveAgreement,
    ProposeAgreement,
    SuspendAsset,
    SuspensionView,
    WithdrawApproval,
)
from perunml.api.base import Message
from perunml.api.conditions import ChangeCondition, ConditionList
from perunml.api.recovery import GiveShare, RecoveryView
from perunml.client.home import write_file
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import Envelope, unsigned
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

if TYPE_CHECKING:
    from perunml.client.connection import Connection
    from perunml.client.identity import Identity

KINDS = ("Agreement", "Approval", "Withdrawal", "Suspension", "Condition", "OutputShare")


def approval_of(agreement: Agreement, party: str, view: AgreementView, *, expires: int | None = None) -> Envelope:
    """An approval that nobody has signed yet. Without `expires` (seconds since 1970) it counts as long as any of the jobs may run;
    one that follows withdrawals ends a second later for each, for what was taken back is never taken again."""
    again = sum(1 for envelope in view.withdrawals if envelope.unverified("Withdrawal").get("party") == party)
    return unsigned("Approval", approval(agreement, party, agreement.ends + again if expires is None else expires))


def withdrawal_of(agreement: Agreement, party: str, view: AgreementView, key: str) -> Envelope:
    """A withdrawal of all approvals that `key` signed, to be signed by it. Raises `UsageError` (nothing_to_withdraw)."""
    mine = {envelope.digest for envelope in view.approvals if any(signer == key for signer, _ in envelope.signatures)}
    if not mine:
        raise refuse(NOTHING_TO_WITHDRAW, "this key has approved nothing here", seen=key)
    return unsigned("Withdrawal", withdrawal(agreement, party, mine))


def signed_by(envelope: Envelope, identity: Identity) -> Envelope:
    """With this identity's signature."""
    return envelope.with_signature(identity.signing.public, identity.signing.sign(envelope.signing_bytes()))


def signed_by_others(envelope: Envelope, identity: Identity, keys: Collection[str]) -> Envelope:
    """With the signatures of this home's other keys (next and former ones) that are among `keys` (texts)."""
    for pair in identity.pairs[1:]:
        if pair.signing.public.text in keys:
            envelope = envelope.with_signature(pair.signing.public, pair.signing.sign(envelope.signing_bytes()))
    return envelope


def write_message(envelope: Envelope, file: Path) -> Path:
    """Write the document to `file` and the very bytes that are to be signed beside it; that one's path."""
    write_file(file, envelope.encode())
    beside = file.with_name(file.name + ".tosign")
    write_file(beside, envelope.signing_bytes())
    return beside


def read_message(file: Path) -> Envelope:
    """A document that is to be signed or sent. Raises `UsageError` (malformed)."""
    envelope = Envelope.decode(file.read_bytes())
    kind_of(envelope)
    return envelope


def kind_of(envelope: Envelope) -> str:
    """Which decision the document is. Raises `UsageError` (malformed)."""
    for kind in KINDS:
        if envelope.payload_type == f"application/vnd.perunml.{kind.lower()}+json":
            envelope.unverified(kind)
            return kind
    raise refuse(MALFORMED, "not a decision that is sent so", expected=", ".join(KINDS), seen=envelope.payload_type)


def attach_signature(envelope: Envelope, key: str, signature: bytes) -> Envelope:
    """With a signature that was made elsewhere. Raises `UsageError` (signature_form), `IntegrityError` (bad_signature)."""
    return attach(envelope, PublicKey(key), signature)


def send(connection: Connection, envelope: Envelope) -> Message:
    """Hand a signed decision to the manager; what it says then. Raises what the manager refuses."""
    kind = kind_of(envelope)
    if kind == "Agreement":
        return connection.call("POST", "/v1/agreements", AgreementView, ProposeAgreement(agreement=envelope))
    if kind == "Suspension":
        return connection.call("POST", "/v1/suspensions", SuspensionView, SuspendAsset(change=envelope))
    if kind == "Condition":
        return connection.call("POST", "/v1/conditions", ConditionList, ChangeCondition(change=envelope))
    if kind == "OutputShare":
        return connection.call("POST", "/v1/recovery/shares", RecoveryView, GiveShare(share=envelope))
    where = f"/v1/agreements/{quote(str(envelope.unverified(kind).get('agreement')))}"
    if kind == "Approval":
        return connection.call("POST", f"{where}/approvals", AgreementView, ApproveAgreement(approval=envelope))
    return connection.call("POST", f"{where}/withdrawals", AgreementView, WithdrawApproval(withdrawal=envelope))
