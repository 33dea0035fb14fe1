"""Owners' conditions: added at once by one key, dropped by the board. (`state` counts the runs that they concern.)"""

from __future__ import annotations

from sqlalchemy import insert

from perunml.agreements.conditions import KIND, Conditions, fold_conditions, open_condition, read_change
from perunml.api.conditions import ChangeCondition, ConditionList, ConditionView
from perunml.manager import authority, state
from perunml.manager.context import Services
from perunml.manager.http import Access, Call, outside
from perunml.manager.routing import Spec
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.manager.store.envelopes import stored
from perunml.manager.writer import Transaction
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError

_ADD = Statement(insert(t.conditions))
_OF = "SELECT envelope FROM conditions WHERE subject = :subject ORDER BY position"
_COUNT = "SELECT count(*) FROM conditions WHERE subject = :subject"


def routes(services: Services) -> list[Spec]:
    async def change(call: Call) -> ConditionList:
        envelope = ChangeCondition.decode(call.body).change
        key, now = call.caller.key, services.clock.now()
        return await services.writer.submit(lambda tx: _change(services, tx, key, envelope, now))

    async def listed(call: Call) -> ConditionList:
        subject = call.query.get("subject", "")
        with services.database.read() as connection:
            _check_owner(services, connection, subject, call.caller.key)
            return _view(connection, subject)

    return [
        Spec("POST", "/v1/conditions", Access.PARTY, change, takes=ChangeCondition),
        Spec("GET", "/v1/conditions", Access.PARTY, listed, query=("subject",)),
    ]


def state_of(connection: Connection, subject: str) -> Conditions:
    """What the changes of an asset amount to."""
    return fold_conditions(read_change(stored(row[0])) for row in connection.run(_OF, {"subject": subject}))


def _change(services: Services, transaction: Transaction, key: str, envelope: Envelope, now: int) -> ConditionList:
    """At once: the next renewal, registration, release or delivery of anything derived from the asset is held against it."""
    now = transaction.journal.at(now)
    connection = transaction.connection
    subject = str(envelope.unverified(KIND).get("subject", ""))
    _check_owner(services, connection, subject, key)
    found = authority.of_asset(services, connection, subject, key)
    change = authority.opened(
        [held.agreement for held in found],
        lambda agreement, named: open_condition(agreement, envelope, named=named),
        lambda made: made.action == "add",
    )
    fold_conditions([change], state_of(connection, subject))
    position = connection.run(_COUNT, {"subject": subject}).scalar()
    _ADD.run(connection, digest=change.digest, subject=subject, position=position, envelope=envelope.encode())
    # What it says is its owner's; the ledger of the parties holds that there was a change, and which.
    body = {"action": change.action, "party": change.party, "change": change.digest, "previous": change.previous}
    for held in found:
        transaction.journal.append("condition", now, held.agreement.digest, subject, body)
    return _view(connection, subject)


def is_owner(services: Services, connection: Connection, subject: str, key: str) -> bool:
    """Whether the key may read what the conditions on the asset `subject` say."""
    try:
        _check_owner(services, connection, subject, key)
    except PerunError:
        return False
    return True


def _check_owner(services: Services, connection: Connection, subject: str, key: str) -> None:
    """Raises `AgreementRefusal` (not_entitled) unless the key is one of the asset's owner's."""
    for held in authority.of_asset(services, connection, subject, key):
        for asset in held.agreement.assets.values():
            if asset.digest == subject and key in held.agreement.parties[asset.owner].keys.values():
                return
    raise outside()


def _view(connection: Connection, subject: str) -> ConditionList:
    envelopes = {e.digest: e for row in connection.run(_OF, {"subject": subject}) if (e := stored(row[0]))}
    now = fold_conditions(map(read_change, envelopes.values()))
    return ConditionList(
        subject=subject,
        head=now.head,
        conditions=[
            ConditionView(
                name=c.name,
                change=c.digest,
                condition=envelopes[c.digest].unverified(KIND)["condition"],
                runs=state.condition_runs(connection, c.digest),
            )
            for c in now.now.values()
        ],
    )
