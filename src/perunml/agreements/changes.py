"""Suspensions: an owner stops its asset at once, and lets it go on again.

A change is a DSSE document of kind "Suspension" that names manager, subject (the asset's digest), the owner and the change
before it (`previous`), so that none can be replayed later or elsewhere. Any one key of the owner's board suspends; only the
whole board lifts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from perunml.agreements.boards import in_words, members, satisfied
from perunml.agreements.codes import CHANGE_OUT_OF_ORDER, INCONSISTENT, NOT_ON_BOARD
from perunml.agreements.schema import Agreement
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import Envelope
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

KIND = "Suspension"
ACTIONS = ("suspend", "lift")
_FIELDS = frozenset({"apiVersion", "kind", "manager", "subject", "party", "action", "previous"})


@dataclass(frozen=True, slots=True)
class Change:
    """A checked change. `subject` is the asset's digest; `digest` names the change itself, `previous` the one before it
    (empty for the first)."""

    subject: str
    party: str
    action: str
    previous: str
    digest: str


@dataclass(frozen=True, slots=True)
class SuspensionState:
    """What the changes of one asset amount to; `head` is the newest change's digest, empty when there is none."""

    suspended: bool
    head: str


NEVER_CHANGED = SuspensionState(False, "")


def suspension(agreement: Agreement, asset: str, action: str, previous: str) -> dict[str, Any]:
    """The body of a change of the asset of this name, to be signed as kind "Suspension" by its owner. Raises `UsageError`
    (agreement_inconsistent) for an unknown asset, `ValueError` for an unknown action."""
    if action not in ACTIONS:
        raise ValueError(f"an action is one of {ACTIONS}")
    if asset not in agreement.assets:
        raise refuse(
            INCONSISTENT, f"the agreement has no asset {asset!r}", expected=", ".join(agreement.assets), seen=asset
        )
    found = agreement.assets[asset]
    return {
        "manager": agreement.manager.key,
        "subject": found.digest,
        "party": found.owner,
        "action": action,
        "previous": previous,
    }


def open_change(agreement: Agreement, envelope: Envelope, *, named: bool = True) -> Change:
    """The change, signed by whoever may make it under this agreement's boards. With `named` the agreement calls the owner as the change
    does; without, it may have another name for it: the board is what counts. Raises `UsageError` (malformed), `AgreementRefusal`
    (not_on_board), `IntegrityError` (bad_signature)."""
    body = envelope.unverified(KIND)
    if set(body) != _FIELDS or not all(isinstance(value, str) for value in body.values()):
        raise refuse(MALFORMED, "not a suspension", expected=", ".join(sorted(_FIELDS)), seen=", ".join(sorted(body)))
    if body["action"] not in ACTIONS or body["manager"] != agreement.manager.key:
        raise refuse(MALFORMED, "not a suspension for this manager", expected=" or ".join(ACTIONS), seen=body["action"])
    asset = next((a for a in agreement.assets.values() if a.digest == body["subject"]), None)
    if asset is None or (named and asset.owner != body["party"]):
        raise refuse(NOT_ON_BOARD, "only an asset's owner suspends or lifts it", seen=body["party"])
    party = agreement.parties[asset.owner]
    board = {name: party.keys[name] for name in members(party.board)}
    signed = {key.text for key in envelope.verify(KIND, [PublicKey(text) for text in board.values()])}
    if body["action"] == "lift" and not satisfied(party.board, {n for n, text in board.items() if text in signed}):
        raise refuse(NOT_ON_BOARD, "lifting needs the owner's whole board", expected=in_words(party.board))
    return Change(body["subject"], body["party"], body["action"], body["previous"], envelope.digest)


def fold(changes: Iterable[Change], start: SuspensionState = NEVER_CHANGED) -> SuspensionState:
    """The state after changes of one asset, oldest first. Raises `AgreementRefusal` (change_out_of_order): a change that
    does not name the one before it, or that changes nothing."""
    state, subject = start, ""
    for change in changes:
        if subject and change.subject != subject:
            raise ValueError("changes of one asset at a time")
        subject = change.subject
        suspends = change.action == "suspend"
        if change.previous != state.head or suspends == state.suspended:
            raise refuse(
                CHANGE_OUT_OF_ORDER,
                f"the change ({change.action}) does not follow the newest one",
                expected=state.head or "the first change, a suspension",
                seen=change.previous or "a first change",
            )
        state = SuspensionState(suspends, change.digest)
    return state
