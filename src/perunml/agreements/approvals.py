"""Approvals: when an agreement is in force.

An approval is a DSSE document of kind "Approval" that names manager, agreement by digest, the agreement's predecessor and the
party, so it counts nowhere else and never later (P5, P8). Each key of a board may sign an approval of its own, or several
one together; all that have not expired are counted. The first version is in force when the board of every party agrees to it; a
later one when those agree whom its changes touch (`needed`), and for so long as the others' approvals of the version before
count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from perunml.agreements.boards import lacking, members
from perunml.agreements.codes import APPROVAL_EXPIRED, APPROVAL_MISMATCH, NOT_ON_BOARD, VERSION_ROLLBACK
from perunml.agreements.needed import needed
from perunml.agreements.schema import Agreement, Party
from perunml.agreements.withdrawals import check_withdrawal
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey
from perunml.wire.rules import Reason
from perunml.wire.timestamps import format_time, parse_time

KIND = "Approval"
_FIELDS = frozenset({"apiVersion", "kind", "manager", "agreement", "predecessor", "party", "expires"})


@dataclass(frozen=True, slots=True)
class Vote:
    """What a checked approval says: these keys (texts) of `party` agree until `expires` (seconds since 1970)."""

    party: str
    keys: frozenset[str]
    expires: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an agreement is. `missing` says in words, party by party, who has still to sign; `ignored` why approvals
    were not counted. `open`: of each of these sets of parties one is missing."""

    in_force: bool
    approved: frozenset[str]
    missing: Mapping[str, str]
    ignored: tuple[Reason, ...] = ()
    open: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an agreement, with what was signed for it."""

    agreement: Agreement
    approvals: Sequence[Envelope]
    withdrawals: Sequence[Envelope] = ()


def approval(agreement: Agreement, party: str, expires: int) -> dict[str, Any]:
    """The body of a party's approval, to be signed as kind "Approval". `expires` in seconds since 1970: after it the
    approval counts no more, so a standing agreement wants one no earlier than `agreement.ends`."""
    return {
        "manager": agreement.manager.key,
        "agreement": agreement.digest,
        "predecessor": agreement.metadata.predecessor or "",
        "party": party,
        "expires": format_time(expires),
    }


def check_approval(agreement: Agreement, envelope: Envelope, now: int, *, predecessor: Agreement | None = None) -> Vote:
    """The vote of an approval of exactly this agreement. Raises `UsageError` (malformed), `AgreementRefusal`
    (approval_mismatch, not_on_board), `ApprovalPending` (approval_expired), `IntegrityError` (bad_signature)."""
    _check_predecessor(agreement, predecessor)
    body = envelope.unverified(KIND)
    if set(body) != _FIELDS or not all(isinstance(value, str) for value in body.values()):
        raise refuse(MALFORMED, "not an approval", expected=", ".join(sorted(_FIELDS)), seen=", ".join(sorted(body)))
    party = body["party"]
    wanted = approval(agreement, party, parse_time(body["expires"]))
    for field, value in wanted.items():
        if body[field] != value:
            raise refuse(APPROVAL_MISMATCH, f"the approval is for another {field}", expected=value, seen=body[field])
    sides = [a.parties[party] for a in (agreement, predecessor) if a is not None and party in a.parties]
    if not sides:
        raise refuse(APPROVAL_MISMATCH, f"{party!r} is no party of this agreement")
    signed = envelope.verify(KIND, [PublicKey(key) for side in sides for key in side.keys.values()])
    keys = frozenset(key.text for key in signed)
    if not any(_board_keys(side) & keys for side in sides):
        raise refuse(
            NOT_ON_BOARD, f"who signed does not decide for {party}", expected=" or ".join(members(sides[0].board))
        )
    expires = parse_time(body["expires"])
    if now >= expires:
        raise refuse(
            APPROVAL_EXPIRED, f"the approval of {party} has ended", expected="a later end", seen=body["expires"]
        )
    return Vote(party, keys, expires)


def standing(
    agreement: Agreement,
    approvals: Iterable[Envelope],
    now: int,
    *,
    predecessor: Agreement | None = None,
    before: Standing | None = None,
    withdrawn: Iterable[Envelope] = (),
) -> Standing:
    """Whether the agreement is in force at `now` (seconds since 1970). An approval that does not count is ignored, with
    its reason; one that was `withdrawn` counts for the keys that did not take it back. `before` is how the predecessor stands at
    `now`: a version asks those only whom it touches, so the others' word is the one that they gave to the version before, and ends
    when that ends; without it, nobody's word is taken for given. Raises `AgreementRefusal` (version_rollback) when `predecessor` is
    not the one that the agreement names."""
    _check_predecessor(agreement, predecessor)
    votes: dict[str, set[str]] = {}
    ignored: list[Reason] = []
    taken_back: set[tuple[str, str]] = set()
    for envelope in withdrawn:
        try:
            found = check_withdrawal(agreement, envelope, predecessor=predecessor)
        except PerunError as exc:
            ignored.extend(exc.reasons)
        else:
            taken_back.update((key, name) for key in found.keys for name in found.approvals)
    for envelope in approvals:
        try:
            vote = check_approval(agreement, envelope, now, predecessor=predecessor)
        except PerunError as exc:
            ignored.extend(exc.reasons)
        else:
            left = {key for key in vote.keys if (key, envelope.digest) not in taken_back}
            votes.setdefault(vote.party, set()).update(left)
    need = needed(agreement, predecessor)
    missing: dict[str, str] = {}
    open_: list[frozenset[str]] = []
    for name, sides in need.every.items():
        for side in sides:
            if words := _lacking(side.party, votes.get(name, set())):
                missing.setdefault(name, f"{side.label}{words}")
                open_.append(frozenset({name}))
    agreed = frozenset(
        name for name, party in agreement.parties.items() if name in votes and not _lacking(party, votes[name])
    )
    inherited = [] if predecessor is None else _open(predecessor, before)
    for asked in (*need.one_of, *inherited):
        asked_now = asked & frozenset(agreement.parties)  # who is dropped was asked about that, by its old board
        if asked_now and not asked_now & agreed:
            open_.append(asked_now)
            one_of = f" (one of {', '.join(sorted(asked_now))})" if len(asked_now) > 1 else ""
            for name in asked_now:
                missing.setdefault(name, f"{_lacking(agreement.parties[name], set())}{one_of}")
    return Standing(not missing, agreed - set(missing), missing, tuple(ignored), tuple(dict.fromkeys(open_)))


def standing_of_line(versions: Iterable[Version], now: int) -> Standing:
    """How the last of these versions stands at `now`; they follow each other from the first one on. Raises as `standing` does,
    `ValueError` for none."""
    found: Standing | None = None
    last: Agreement | None = None
    for version in versions:
        found = standing(
            version.agreement, version.approvals, now, predecessor=last, before=found, withdrawn=version.withdrawals
        )
        last = version.agreement
    if found is None:
        raise ValueError("a line has a first version")
    return found


def _open(predecessor: Agreement, before: Standing | None) -> list[frozenset[str]]:
    return [frozenset({name}) for name in predecessor.parties] if before is None else list(before.open)


def check_successor(fresh: Agreement, newest: Agreement) -> None:
    """Raises `AgreementRefusal` (version_rollback) unless `fresh` is the version right after `newest` (P6, P11)."""
    expected = f"{newest.name} version {newest.metadata.version + 1} after {newest.digest}"
    seen = f"{fresh.name} version {fresh.metadata.version} after {fresh.metadata.predecessor or 'nothing'}"
    if expected != seen:
        raise refuse(VERSION_ROLLBACK, "the agreement does not follow the newest version", expected=expected, seen=seen)
    if fresh.manager.key != newest.manager.key:
        raise refuse(
            VERSION_ROLLBACK, "a version keeps its manager", expected=newest.manager.key, seen=fresh.manager.key
        )


def _check_predecessor(agreement: Agreement, predecessor: Agreement | None) -> None:
    given = predecessor.digest if predecessor else None
    if agreement.metadata.predecessor != given:
        raise refuse(
            VERSION_ROLLBACK,
            "the version before this one is needed to judge its approvals",
            expected=agreement.metadata.predecessor or "none",
            seen=given or "none",
        )


def _lacking(party: Party, keys: Set[str]) -> str:
    """What the party's board still lacks when these keys (texts) agree, in words."""
    return lacking(party.board, {name for name, text in party.keys.items() if text in keys})


def _board_keys(party: Party) -> frozenset[str]:
    return frozenset(party.keys[name] for name in members(party.board))
