"""What a manager does once after it was restored from a backup: it ends every lease, and tells every agreement's parties.

Leases from before are nobody's any more: their hosts may have renewed them at a manager that this copy knows nothing of. Whether the
copy is the newest only its witnesses and parties can tell; they are asked before anything is released (`quorum`, `witnesses`).
"""

from __future__ import annotations

from perunml.manager import leases
from perunml.manager.codes import MANAGER_RESTORED
from perunml.manager.context import Services
from perunml.manager.journal import Journal
from perunml.manager.setup import IN_FORCE
from perunml.manager.store import facts
from perunml.manager.store.connection import Connection
from perunml.manager.writer import Transaction
from perunml.wire.rules import Reason

_ACTIVE = "SELECT lease FROM leases WHERE active = 1 ORDER BY lease"


def begin(services: Services) -> None:
    """Begin the next epoch, if this manager was restored; before it serves. One that was shown to be an old copy enters nothing."""
    with services.database.read() as connection:
        restored = facts.get(connection, facts.RESTORED)
    if not restored or services.rollback.seen:
        return
    now = services.clock.now()
    with services.database.write() as connection:
        journal = Journal(connection, services.keys, {}, services.rollback.check)
        epoch = facts.number(connection, facts.EPOCH, 1) + 1
        _end_leases(services, Transaction(connection, journal), now)
        for row in connection.run(IN_FORCE).all():
            journal.append("epoch", now, row[0], row[0], {"epoch": epoch, "restored": int(restored)})
        facts.put(connection, facts.EPOCH, epoch)
        facts.drop(connection, facts.RESTORED)
        journal.flush()


def _end_leases(services: Services, transaction: Transaction, now: int) -> None:
    reason = Reason(
        MANAGER_RESTORED, "the manager was restored from a backup", "the manager that gave the lease", "a copy of it"
    )
    for lease in _active(transaction.connection):
        leases.end(transaction, leases.load(transaction.connection, lease), "lost", (reason,), now)


def _active(connection: Connection) -> list[str]:
    return [str(row[0]) for row in connection.run(_ACTIVE).all()]
