"""Agreements: proposed, approved, in force, superseded; and suspensions of what they combine."""

from __future__ import annotations

from sqlalchemy import insert
from sqlalchemy.dialects.sqlite import insert as upsert

from perunml.agreements.approvals import check_approval, check_successor
from perunml.agreements.changes import NEVER_CHANGED, SuspensionState, fold, open_change
from perunml.agreements.codes import ALREADY_IN_FORCE, NOTHING_TO_WITHDRAW, VERSION_ROLLBACK
from perunml.agreements.document import open_agreement
from perunml.agreements.schema import Agreement, Quorum
from perunml.agreements.withdrawals import check_withdrawal
from perunml.api.agreements import (
    AgreementList,
    AgreementView,
    ApproveAgreement,
    ProposeAgreement,
    SuspendAsset,
    SuspensionView,
    WithdrawApproval,
)
from perunml.manager import authority, counter, machines, rights
from perunml.manager.context import Services
from perunml.manager.http import Access, Call, outside
from perunml.manager.library import Held
from perunml.manager.routing import Spec
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.manager.store.envelopes import fresh
from perunml.manager.writer import Transaction
from perunml.release.policy import check_rules
from perunml.wire.codes import MALFORMED
from perunml.wire.digests import digest
from perunml.wire.dsse import Envelope
from perunml.wire.errors import refuse

_ADD = Statement(insert(t.agreements))
_ADD_KEY = Statement(insert(t.agreement_keys))
_ADD_WITNESS = Statement(insert(t.witness_keys))
_ADD_APPROVAL = Statement(upsert(t.approvals).on_conflict_do_nothing())
_ADD_WITHDRAWAL = Statement(upsert(t.withdrawals).on_conflict_do_nothing())
_ADD_CHANGE = Statement(insert(t.changes))
_suspension = upsert(t.suspensions)
_SET_SUSPENSION = Statement(
    _suspension.on_conflict_do_update(
        index_elements=["subject"],
        set_={"suspended": _suspension.excluded.suspended, "digest": _suspension.excluded.digest},
    )
)
_OF_BEFORE = (
    "SELECT 1 FROM agreement_keys k JOIN agreements a ON a.digest = k.agreement WHERE k.key = :key AND a.digest = :before "
    "AND a.state = 'in_force'"
)
_EXISTS = "SELECT 1 FROM agreements WHERE digest = :digest"
_SET_STATE = "UPDATE agreements SET state = :state WHERE digest = :digest"
_SUSPENSION = "SELECT suspended, digest FROM suspensions WHERE subject = :subject"
_CHANGES = "SELECT count(*) FROM changes WHERE subject = :subject"


def routes(services: Services) -> list[Spec]:
    async def propose(call: Call) -> AgreementView:
        envelope = ProposeAgreement.decode(call.body).agreement
        found = open_agreement(envelope)
        with services.database.read() as connection:
            _check_ours(services, connection, found, call.caller.key)
        check_rules(found)
        now = services.clock.now()
        return await services.writer.submit(lambda tx: _propose(services, tx, found, call.caller.key, envelope, now))

    async def listed(call: Call) -> AgreementList:
        now = services.clock.now()
        with services.database.read() as connection:
            seen = rights.votables(services, connection, call.caller.key)
            return AgreementList(
                agreements=[_view(services, connection, item.held, call.caller.key, now) for item in seen]
            )

    async def show(call: Call) -> AgreementView:
        now = services.clock.now()
        with services.database.read() as connection:
            seen = rights.votable(services, connection, call.params["digest"], call.caller.key)
            return _view(services, connection, seen.held, call.caller.key, now)

    async def approve(call: Call) -> AgreementView:
        envelope = ApproveAgreement.decode(call.body).approval
        wanted, key, now = call.params["digest"], call.caller.key, services.clock.now()
        view = await services.writer.submit(lambda tx: _approve(services, tx, wanted, key, envelope, now))
        if view.state == "in_force":
            await counter.advance(services)  # an old copy would not know that it is
        return view

    async def withdraw(call: Call) -> AgreementView:
        envelope = WithdrawApproval.decode(call.body).withdrawal
        wanted, key, now = call.params["digest"], call.caller.key, services.clock.now()
        return await services.writer.submit(lambda tx: _withdraw(services, tx, wanted, key, envelope, now))

    async def suspend(call: Call) -> SuspensionView:
        envelope = SuspendAsset.decode(call.body).change
        key, now = call.caller.key, services.clock.now()
        return await services.writer.submit(lambda tx: _suspend(services, tx, key, envelope, now))

    async def suspension(call: Call) -> SuspensionView:
        subject = call.query.get("subject", "")
        with services.database.read() as connection:
            if not rights.names_asset(services, connection, call.caller.key, subject):
                raise outside()
            state = _suspension_state(connection, subject)
        return SuspensionView(subject=subject, suspended=state.suspended, digest=state.head)

    return [
        Spec("POST", "/v1/agreements", Access.PARTY, propose, 2 * 1024 * 1024, takes=ProposeAgreement),
        Spec("GET", "/v1/agreements", Access.PARTY, listed),
        Spec("GET", "/v1/agreements/{digest}", Access.PARTY, show),
        Spec("POST", "/v1/agreements/{digest}/approvals", Access.PARTY, approve, takes=ApproveAgreement),
        Spec("POST", "/v1/agreements/{digest}/withdrawals", Access.PARTY, withdraw, takes=WithdrawApproval),
        Spec("POST", "/v1/suspensions", Access.PARTY, suspend, takes=SuspendAsset),
        Spec("GET", "/v1/suspensions", Access.PARTY, suspension, query=("subject",)),
    ]


def _check_ours(services: Services, connection: Connection, found: Agreement, key: str) -> None:
    """For this manager, and sent by a party of it or of the version in force before it."""
    if found.manager.key != services.keys.identity.public.text:
        raise refuse(
            MALFORMED, "the agreement names another manager", expected=services.keys.identity.public.text,
            seen=found.manager.key,
        )  # fmt: skip
    before = found.metadata.predecessor
    if found.party_of(key) is None and not (
        before and connection.run(_OF_BEFORE, {"key": key, "before": before}).first()
    ):
        raise outside()


def _propose(
    services: Services, transaction: Transaction, found: Agreement, key: str, envelope: Envelope, now: int
) -> AgreementView:
    now = transaction.journal.at(now)
    connection = transaction.connection
    if connection.run(_EXISTS, {"digest": found.digest}).first() is None:
        line = found.digest
        if before := found.metadata.predecessor:
            newest = _in_force(services, connection, found, before)
            check_successor(found, newest.agreement)
            line = newest.line
        _ADD.run(
            connection,
            digest=found.digest,
            name=found.name,
            version=found.metadata.version,
            line=line,
            predecessor=found.metadata.predecessor or "",
            state="proposed",
            envelope=envelope.encode(),
        )
        rows = [
            {"key": key, "agreement": found.digest, "party": name}
            for name, party in found.parties.items()
            for key in party.keys.values()
        ]
        _ADD_KEY.many(connection, rows)
        if isinstance(found.witnesses, Quorum):
            named = found.witnesses.keys.items()
            _ADD_WITNESS.many(
                connection, [{"key": key, "agreement": found.digest, "name": name} for name, key in named]
            )
        body = {"name": found.name, "version": found.metadata.version, "predecessor": found.metadata.predecessor or ""}
        transaction.journal.append("agreement", now, found.digest, found.digest, body)
    return _view(services, connection, services.library.held(connection, found.digest), key, now)


def _in_force(services: Services, connection: Connection, found: Agreement, before: str) -> Held:
    """The version that `found` follows; it must be the one in force, so that of two proposals one wins (P6, P11)."""
    if connection.run(_EXISTS, {"digest": before}).first() is not None:
        held = services.library.held(connection, before)
        if held.state == "in_force":
            return held
    raise refuse(
        VERSION_ROLLBACK, "the version does not follow the one in force", expected="its digest as predecessor",
        seen=before,
    )  # fmt: skip


def _approve(
    services: Services, transaction: Transaction, wanted: str, key: str, envelope: Envelope, now: int
) -> AgreementView:
    now = transaction.journal.at(now)
    connection = transaction.connection
    held = rights.votable(services, connection, wanted, key).held
    predecessor = None
    if before := held.agreement.metadata.predecessor:
        previous = services.library.held(connection, before)
        predecessor = previous.agreement
        if held.state == "proposed" and previous.state != "in_force":
            raise refuse(VERSION_ROLLBACK, "another version took this one's place", seen=held.agreement.digest)
    vote = check_approval(held.agreement, envelope, now, predecessor=predecessor)
    added = fresh(envelope, vote.keys, services.library.approvals(connection, wanted))
    if added is not None:
        _ADD_APPROVAL.run(connection, agreement=wanted, digest=digest(added.encode()), envelope=added.encode())
        body = {"party": vote.party, "keys": sorted(vote.keys), "approval": envelope.digest}
        transaction.journal.append("approval", now, wanted, vote.party, body)
    standing = services.library.standing(connection, held, now)
    if standing.in_force and held.state == "proposed":
        connection.run(_SET_STATE, {"state": "in_force", "digest": wanted})
        transaction.journal.append("in-force", now, wanted, wanted, {"predecessor": before or ""})
        if before:
            connection.run(_SET_STATE, {"state": "superseded", "digest": before})
            transaction.journal.append("superseded", now, before, before, {"by": wanted})
    after = services.library.held(connection, wanted)
    if before and after.state == "in_force":
        machines.settle_void(connection, before, held.agreement, standing.approved)
    return _view(services, connection, after, key, now)


def _withdraw(
    services: Services, transaction: Transaction, wanted: str, key: str, envelope: Envelope, now: int
) -> AgreementView:
    now = transaction.journal.at(now)
    connection = transaction.connection
    held = rights.votable(services, connection, wanted, key).held
    if held.state != "proposed":
        raise refuse(ALREADY_IN_FORCE, "the agreement is in force, or was", expected="proposed", seen=held.state)
    before = held.agreement.metadata.predecessor
    predecessor = services.library.held(connection, before).agreement if before else None
    found = check_withdrawal(held.agreement, envelope, predecessor=predecessor)
    known = {approval.digest for approval in services.library.approvals(connection, wanted)}
    if not found.approvals <= known:
        raise refuse(
            NOTHING_TO_WITHDRAW, "the withdrawal names approvals that are not here", expected="approvals of it"
        )
    added = fresh(envelope, found.keys, services.library.withdrawals(connection, wanted))
    if added is not None:
        _ADD_WITHDRAWAL.run(connection, agreement=wanted, digest=digest(added.encode()), envelope=added.encode())
        body = {"party": found.party, "keys": sorted(found.keys), "withdrawal": envelope.digest}
        transaction.journal.append("withdrawal", now, wanted, found.party, body)
    return _view(services, connection, held, key, now)


def _suspend(services: Services, transaction: Transaction, key: str, envelope: Envelope, now: int) -> SuspensionView:
    """At once: the next renewal, registration, release or delivery of anything derived from it is refused."""
    now = transaction.journal.at(now)
    connection = transaction.connection
    subject = str(envelope.unverified("Suspension").get("subject", ""))
    found = authority.of_asset(services, connection, subject, key)
    change = authority.opened(
        [held.agreement for held in found],
        lambda agreement, named: open_change(agreement, envelope, named=named),
        lambda made: made.action == "suspend",
    )
    state = fold([change], _suspension_state(connection, subject))
    position = connection.run(_CHANGES, {"subject": subject}).scalar()
    _ADD_CHANGE.run(connection, digest=change.digest, subject=subject, position=position, envelope=envelope.encode())
    _SET_SUSPENSION.run(connection, subject=subject, suspended=int(state.suspended), digest=state.head)
    body = {"action": change.action, "party": change.party, "change": change.digest, "previous": change.previous}
    for held in found:
        transaction.journal.append("suspension", now, held.agreement.digest, subject, body)
    return SuspensionView(subject=subject, suspended=state.suspended, digest=state.head)


def _suspension_state(connection: Connection, subject: str) -> SuspensionState:
    row = connection.run(_SUSPENSION, {"subject": subject}).first()
    return SuspensionState(bool(row[0]), row[1]) if row else NEVER_CHANGED


def _view(services: Services, connection: Connection, held: Held, key: str, now: int) -> AgreementView:
    agreement = held.agreement
    standing = services.library.standing(connection, held, now)
    suspended = services.library.suspended(connection, agreement)
    return AgreementView(
        digest=agreement.digest,
        name=agreement.name,
        version=agreement.metadata.version,
        state=held.state,
        agreement=held.envelope,
        approvals=services.library.approvals(connection, agreement.digest),
        withdrawals=services.library.withdrawals(connection, agreement.digest),
        approved=sorted(standing.approved),
        missing=dict(standing.missing),
        suspended=sorted(suspended - rights.hidden(services, connection, held, key)) if suspended else [],
    )
