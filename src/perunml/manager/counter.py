"""A counter in the TPM, off the way of every request: it tells an old copy of the manager's store when that starts.

It is counted when the manager starts, when an agreement comes into force, and every few minutes while the ledger grows. The store says the
next value first, durably, then the TPM counts: a manager that died in between is one behind, and no more. A store that says less than the TPM
is an old copy. The record of a count is sealed under the root key and holds the ledger of that moment: what lies in the store cannot be
edited into a newer one. What happened since the counter was counted last it does not tell: that is for the witnesses, who are asked before
each release.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from perunml.ledger.merkle import Tree
from perunml.manager import journal
from perunml.manager.codes import CUSTODY_UNAVAILABLE
from perunml.manager.context import Services
from perunml.manager.device import Device
from perunml.manager.keys import Keys
from perunml.manager.rollback import HANDED
from perunml.manager.store import facts
from perunml.manager.store.connection import Connection
from perunml.manager.writer import Transaction
from perunml.wire.canonical import canonical, load_json
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import PerunError, refuse

EVERY = 300.0
"""Seconds between two counts: a TPM's memory bears some hundred thousand writes, ten years of these."""
FIRST_INDEX, INDICES = 0x0180_5000, 64
"""NV indices of the owner's range that are tried for a new counter (TCG registry of reserved handles: 0x01800000 to 0x01BFFFFF)."""
_LABEL = "perunml/counter"


@dataclass(frozen=True, slots=True)
class Record:
    """index  the counter's NV index
    value  what it said last, or will say next
    size, root  the ledger when it was counted
    handed  the manager gave its root key away (manager/handover.py)
    """

    index: int
    value: int
    size: int
    root: str
    handed: bool = False

    def sealed(self, keys: Keys) -> str:
        """As it is kept."""
        return canonical({**asdict(self), "seal": b64(keys.keep(b"", self._what))}).decode()

    @classmethod
    def opened(cls, text: str, keys: Keys) -> Record:
        """Raises `IntegrityError` (custody_broken), `UsageError` (malformed)."""
        found: dict[str, Any] = load_json(text.encode())
        seal = unb64(found.pop("seal"))
        made = cls(**found)
        keys.take(seal, made._what)
        return made

    @property
    def _what(self) -> dict[str, Any]:
        return {"label": _LABEL, **asdict(self)}


def make(device: Device, size: int, root: str) -> Record:
    """A new counter in the device's TPM, for a ledger of `size` entries under `root` (hex). Raises `Unreachable` (tpm_unavailable),
    `UsageError` (custody_unavailable): no index is free."""
    from perunml.attesters.esys import open_tpm

    with open_tpm(device.tcti) as tpm:
        index = next((found for found in range(FIRST_INDEX, FIRST_INDEX + INDICES) if not tpm.has(found)), None)
        if index is None:
            raise refuse(CUSTODY_UNAVAILABLE, "the TPM has no room for another counter", expected=f"one of {INDICES}")
        tpm.new_counter(index)
        return Record(index, tpm.count(index), size, root)


def begin(connection: Connection, device: Device, keys: Keys) -> None:
    """Make a counter for a new manager. Raises as `make`."""
    facts.put(connection, facts.COUNTER, make(device, *_ledger(connection)).sealed(keys))


def check(services: Services) -> None:
    """Hold the store against its counter, and count. A store that is behind enters nothing any more (rollback_detected); so does one whose
    counter is not there, or whose record is not this manager's. Raises `Unreachable` (tpm_unavailable)."""
    with services.database.read() as connection:
        text = facts.get(connection, facts.COUNTER)
        if services.rollback.seen or not (text or services.keys.kept.counted):
            return
        words, record = "", None
        try:
            record = Record.opened(text, services.keys) if text else None
            if record is None:
                words = "the counter's record is gone"
            elif not _contains(connection, record):
                words = f"the ledger is not the one that was counted, of {record.size} entries"
            elif record.handed:
                words = HANDED
        except (PerunError, TypeError, KeyError, AttributeError):
            words = "the counter's record was altered"
    if record is not None and not words:
        seen = _read(services, record.index)
        if seen is None:
            words = "the TPM's counter is gone"
        elif not record.value - 1 <= seen <= record.value:
            words = f"the TPM counted {seen}, this store {record.value}"
        else:
            with services.database.write() as connection:
                _put(services, connection, replace(record, value=seen + 1))
            _count(services, record.index)
            return
    with services.database.write() as connection:
        services.rollback.found(connection, words)


def record_of(services: Services, connection: Connection) -> Record | None:
    """What was counted last; None without a counter. The record was looked at when the manager started."""
    text = facts.get(connection, facts.COUNTER)
    return Record.opened(text, services.keys) if text else None


async def advance(services: Services) -> None:
    """Count once more, if the ledger grew since. Raises `Unreachable` (tpm_unavailable): the next time tries again."""
    async with services.counting:
        if services.rollback.seen:
            return
        with services.database.read() as connection:
            record = record_of(services, connection)
            grew = record is not None and journal.state(connection).size > record.size
        if record is not None and grew:
            await _advance(services, record)


async def prove(services: Services) -> bool:
    """Count now, whatever happened since, and say whether the TPM counts with this store: then it is the newest. False without a counter, and where the root
    key was given away. Raises `Unreachable` (tpm_unavailable)."""
    async with services.counting:
        if services.rollback.seen:
            return False
        with services.database.read() as connection:
            record = record_of(services, connection)
        if record is None or record.handed:
            return False
        value, seen = await _advance(services, record)
        return value == seen


async def retire(services: Services, check: Callable[[Connection], None]) -> bool:
    """As `prove`, and from then on nothing is entered here any more: the root key goes to another manager, and one of the two goes on. `check` is asked in the
    very transaction that says so; what it raises leaves all as it was."""

    def mark(transaction: Transaction) -> Record | None:
        record = record_of(services, transaction.connection)
        if record is None or record.handed:
            return None
        check(transaction.connection)
        made = replace(record, value=record.value + 1, handed=True)
        _put(services, transaction.connection, made)
        services.rollback.found(transaction.connection, HANDED)
        return made

    if not await prove(services):
        return False
    async with services.counting:
        made = await services.writer.submit(mark)
        return made is not None and await asyncio.to_thread(_count, services, made.index) == made.value


async def _advance(services: Services, record: Record) -> tuple[int, int]:
    """What the store says then, and the TPM."""
    value = record.value
    if await asyncio.to_thread(_read, services, record.index) == value:  # else the last count is still to be made good
        value += 1
    await services.writer.submit(lambda tx: _put_in(services, tx, replace(record, value=value)))
    return value, await asyncio.to_thread(functools.partial(_count, services, record.index))


def _put_in(services: Services, transaction: Transaction, record: Record) -> None:
    _put(services, transaction.connection, record)


def _put(services: Services, connection: Connection, record: Record) -> None:
    size, root = _ledger(connection)
    facts.put(connection, facts.COUNTER, replace(record, size=size, root=root).sealed(services.keys))


def _ledger(connection: Connection) -> tuple[int, str]:
    size = journal.state(connection).size
    return size, Tree(size, journal.Nodes(connection)).root().hex()


def _contains(connection: Connection, record: Record) -> bool:
    """Whether the ledger goes on from the one that was counted."""
    size = journal.state(connection).size
    return size >= record.size and Tree(size, journal.Nodes(connection)).root(record.size).hex() == record.root


def _read(services: Services, index: int) -> int | None:
    from perunml.attesters.esys import open_tpm

    with open_tpm(services.config.device.tcti) as tpm:
        return int.from_bytes(tpm.nv_read(index)) if tpm.has(index) else None


def _count(services: Services, index: int) -> int:
    from perunml.attesters.esys import open_tpm

    with open_tpm(services.config.device.tcti) as tpm:
        return tpm.count(index)
