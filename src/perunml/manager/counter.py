"""A counter in the TPM, off the way of every request: it tells an old copy of the manager's store when that starts.

It is counted when the manager starts, and every few minutes while the ledger grows. The store says the next value first, durably, then the TPM counts: a
manager that died in between is one behind, and no more. A store that says less than the TPM is an old copy. What happened since the counter was counted last it does not
tell: that is for the witnesses, who are asked before each release.
"""

from __future__ import annotations

import asyncio
import functools

from perunml.manager import journal
from perunml.manager.codes import CUSTODY_UNAVAILABLE
from perunml.manager.context import Services
from perunml.manager.device import Device
from perunml.manager.store import facts
from perunml.manager.store.connection import Connection
from perunml.manager.writer import Transaction
from perunml.wire.errors import refuse

EVERY = 300.0
"""Seconds between two counts: a TPM's memory bears some hundred thousand writes, ten years of these."""
FIRST_INDEX, INDICES = 0x0180_5000, 64
"""NV indices of the owner's range that are tried for a new counter (TCG registry of reserved handles: 0x01800000 to 0x01BFFFFF)."""
_COUNTED = "counted_size"


def begin(connection: Connection, device: Device) -> None:
    """Make a counter for a new manager. Raises `Unreachable` (tpm_unavailable), `UsageError` (custody_unavailable): no index is free."""
    from perunml.attesters.esys import open_tpm

    with open_tpm(device.tcti) as tpm:
        index = next((found for found in range(FIRST_INDEX, FIRST_INDEX + INDICES) if not tpm.has(found)), None)
        if index is None:
            raise refuse(CUSTODY_UNAVAILABLE, "the TPM has no room for another counter", expected=f"one of {INDICES}")
        tpm.new_counter(index)
        value = tpm.count(index)
    facts.put(connection, facts.COUNTER_INDEX, index)
    facts.put(connection, facts.COUNTER, value)


def check(services: Services) -> None:
    """Hold the store against its counter, and count. A store that is behind enters nothing any more (rollback_detected); so does one whose
    counter is not there. Raises `Unreachable` (tpm_unavailable)."""
    with services.database.read() as connection:
        index, said = _facts(connection)
    if not index or services.rollback.seen:
        return
    seen = _read(services, index)
    if seen is None or not said - 1 <= seen <= said:
        words = "the TPM's counter is gone" if seen is None else f"the TPM counted {seen}, this store {said}"
        with services.database.write() as connection:
            services.rollback.found(connection, words)
        return
    with services.database.write() as connection:
        facts.put(connection, facts.COUNTER, seen + 1)
        facts.put(connection, _COUNTED, journal.state(connection).size)
    _count(services, index)


async def advance(services: Services) -> None:
    """Count once more, if the ledger grew since. Raises `Unreachable` (tpm_unavailable): the next time tries again."""
    with services.database.read() as connection:
        index, said = _facts(connection)
        grew = journal.state(connection).size > facts.number(connection, _COUNTED, 0)
    if not index or not grew or services.rollback.seen:
        return
    if await asyncio.to_thread(_read, services, index) == said:  # else the last count is still to be made good
        said += 1
    await services.writer.submit(functools.partial(_put, said))
    await asyncio.to_thread(_count, services, index)


def _put(said: int, transaction: Transaction) -> None:
    facts.put(transaction.connection, facts.COUNTER, said)
    facts.put(transaction.connection, _COUNTED, journal.state(transaction.connection).size)


def _facts(connection: Connection) -> tuple[int, int]:
    """Its NV index, 0 where there is none, and what it said last."""
    return facts.number(connection, facts.COUNTER_INDEX, 0), facts.number(connection, facts.COUNTER, 0)


def _read(services: Services, index: int) -> int | None:
    from perunml.attesters.esys import open_tpm

    with open_tpm(services.config.device.tcti) as tpm:
        return int.from_bytes(tpm.nv_read(index)) if tpm.has(index) else None


def _count(services: Services, index: int) -> int:
    from perunml.attesters.esys import open_tpm

    with open_tpm(services.config.device.tcti) as tpm:
        return tpm.count(index)
