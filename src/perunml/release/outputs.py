"""The decision about an output: may it leave, to this recipient, now?

An output's approval is a DSSE document of kind "OutputApproval" {manager, agreement, run, output, asset, party}: `asset` is the
digest of this very output's manifest, so an approval never covers another run's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from perunml.agreements.boards import lacking, members, satisfied
from perunml.agreements.codes import APPROVAL_MISMATCH
from perunml.agreements.jobs import Output
from perunml.agreements.schema import Agreement
from perunml.release import codes, conditions, rules
from perunml.release.types import OutputRelease, Refusal, RegisteredOutput, State, mint_output_release
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey
from perunml.wire.rules import Reason
from perunml.wire.timestamps import format_time

KIND = "OutputApproval"


def output_approval(agreement: Agreement, output: RegisteredOutput, party: str) -> dict[str, Any]:
    """The body of a party's approval of one output, to be signed as kind "OutputApproval"."""
    return {
        "manager": agreement.manager.key,
        "agreement": agreement.digest,
        "run": output.run,
        "output": output.name,
        "asset": output.asset,
        "party": party,
    }


def check_output_approval(
    agreement: Agreement, envelope: Envelope, output: RegisteredOutput
) -> tuple[str, frozenset[str]]:
    """(party, names of its board's keys that signed) of an approval of exactly this output. Raises `UsageError` (malformed),
    `AgreementRefusal` (approval_mismatch), `IntegrityError` (bad_signature)."""
    body = envelope.unverified(KIND)
    party = body.get("party")
    if not isinstance(party, str) or party not in agreement.parties:
        raise refuse(APPROVAL_MISMATCH, "the approval is of no party of this agreement", seen=str(party))
    wanted = output_approval(agreement, output, party)
    if set(body) - {"apiVersion", "kind"} != set(wanted):
        raise refuse(MALFORMED, "not an approval of an output", expected=", ".join(wanted), seen=", ".join(body))
    for field, value in wanted.items():
        if body[field] != value:
            raise refuse(
                APPROVAL_MISMATCH, f"the approval is for another {field}", expected=value, seen=str(body[field])
            )
    keys = agreement.parties[party].keys
    board = {keys[name]: name for name in members(agreement.parties[party].board)}
    signed = envelope.verify(KIND, [PublicKey(text) for text in board])
    return party, frozenset(board[key.text] for key in signed)


def decide_output(
    agreement: Agreement,
    *,
    state: State,
    output: RegisteredOutput,
    recipient: str,
    approvals: Iterable[Envelope],
    now: int,
) -> OutputRelease | Refusal:
    """An `OutputRelease`, or a `Refusal` with every rule that failed. Approvals that do not count are passed over. Outputs
    leave until the last `until` of the agreement's jobs."""
    reasons, declared = _standing(agreement, state, output, now)
    if declared is None:
        return Refusal(tuple(reasons))
    if recipient not in declared.to:
        reasons.append(
            Reason(
                codes.RECIPIENT_NOT_AGREED,
                f"{output.name} does not go to {recipient}",
                ", ".join(declared.to),
                recipient,
            )
        )
    case = conditions.Case(output.job, None, now, recipient=recipient)
    reasons += conditions.unmet(agreement, f"{output.job}.outputs.{output.name}", state, case)
    reasons += _approved(agreement, output, declared.approvers, approvals)
    if reasons:
        return Refusal(tuple(reasons))
    receive = agreement.parties[recipient].receive
    assert receive is not None, "checked when the agreement was read: every recipient has a receiving key"
    return mint_output_release(agreement=agreement, output=output, recipient=recipient, receive=receive)


def decide_shares(agreement: Agreement, *, state: State, output: RegisteredOutput, now: int) -> tuple[Reason, ...]:
    """Every reason why no share of the output's key may be handed out or taken now; none where it may. The approvals under which the output
    leaves are no part of it: a share alone opens nothing."""
    reasons, declared = _standing(agreement, state, output, now)
    if declared is not None:
        case = conditions.Case(output.job, None, now)
        reasons += conditions.unmet(agreement, f"{output.job}.outputs.{output.name}", state, case)
    return tuple(reasons)


def _standing(
    agreement: Agreement, state: State, output: RegisteredOutput, now: int
) -> tuple[list[Reason], Output | None]:
    """What holds for everything that is done with an output, and how it is declared."""
    reasons = [*rules.in_force(agreement, state), *rules.cosigned(agreement, state)]
    if now >= agreement.ends:
        ends = format_time(agreement.ends)
        reasons.append(
            Reason(codes.AGREEMENT_EXPIRED, f"{agreement.name} ended {ends}", f"before {ends}", format_time(now))
        )
    job = agreement.training(output.job)
    declared = job.outputs.get(output.name) if job else None
    where = f"{output.job}.outputs.{output.name}"
    if declared is not None and declared.level == "error-class":
        declared = None  # narrowed since the log was made: the newest version lets no text out, this one neither
    if declared is None:
        reasons.append(Reason(codes.OUTPUT_UNKNOWN, f"the agreement declares no {where}", "a declared output", where))
    else:
        reasons += rules.not_suspended(agreement, where, state)
    return reasons, declared


def _approved(
    agreement: Agreement, output: RegisteredOutput, approvers: Iterable[str], approvals: Iterable[Envelope]
) -> Iterable[Reason]:
    votes: dict[str, set[str]] = {}
    for envelope in approvals:
        try:
            party, keys = check_output_approval(agreement, envelope, output)
        except PerunError:
            continue  # somebody else's, or not valid: it adds no vote
        votes.setdefault(party, set()).update(keys)
    for party in approvers:
        board = agreement.parties[party].board
        agreed = votes.get(party, set())
        if not satisfied(board, agreed):
            yield Reason(
                codes.OUTPUT_HELD,
                f"{output.name} of run {output.run} waits for {party}",
                lacking(board, agreed),
                ", ".join(sorted(agreed)) or "no approval",
                f"perunml output approve {output.asset}",
            )
