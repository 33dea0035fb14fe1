"""The writer: one thread makes all changes, in groups. Many decisions, each in its own savepoint, one durable commit, then
all the answers. A decision sees what those before it in the group decided, so the order is the ledger's.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from perunml.ledger.merkle import NodeKey
from perunml.manager.codes import INTERNAL, RATE_LIMITED
from perunml.manager.journal import Journal
from perunml.manager.keys import Keys
from perunml.manager.store.connection import Connection, StoreError
from perunml.manager.store.database import Database
from perunml.sealing.codes import DISK_FULL
from perunml.wire.errors import PerunError, refuse

T = TypeVar("T")
MAX_GROUP = 64
"""Decisions in one commit: a syncing disk makes the group, this bounds the first one's wait."""
MAX_QUEUE = 4096
log = logging.getLogger("perunml.manager")


class Transaction:
    """What a decision works with: the connection, the journal, and what to do once all is durable."""

    def __init__(self, connection: Connection, journal: Journal) -> None:
        self.connection = connection
        self.journal = journal
        self.after: list[Callable[[], None]] = []


Work = Callable[[Transaction], Any]
_Job = tuple[Work, "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class Writer:
    """Start it, `submit` from any event loop, stop it. `forget` is called when a group failed: caches made from what was
    never committed are dropped."""

    def __init__(self, database: Database, keys: Keys, *, committed: Callable[[int], None], forget: Callable[[], None]):
        self._database = database
        self._keys = keys
        self._committed = committed
        self._forget = forget
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._known: dict[NodeKey, bytes] = {}
        self._thread = threading.Thread(target=self._run, name="perunml-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish what was submitted, then end."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    async def submit(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in the writer's thread; its value, once it is durable. An error it raises undoes its own changes alone.
        Raises what it raised; `LimitReached` (disk_full, rate_limited); `Unreachable` (manager_failed)."""
        if not self._thread.is_alive():
            raise refuse(INTERNAL, "the manager is stopping")
        if self._queue.qsize() >= MAX_QUEUE:
            raise refuse(RATE_LIMITED, "the manager has more to do than it can queue")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._queue.put((work, future, loop))
        value: T = await future
        return value

    def _run(self) -> None:
        connection: Connection | None = None
        going = True
        while going:
            group, going = self._next_group()
            if not group:
                continue
            outcomes: list[tuple[_Job, Any, BaseException | None]]
            try:
                connection = connection or self._database.writer()
                outcomes = self._commit(connection, group)
            except Exception as exc:
                error = _failure(exc)
                outcomes = [(job, None, error) for job in group]
                self._known = {}
                self._forget()
                if connection is not None:
                    _abandon(connection)
                    connection = None
            _answer(outcomes)
        if connection is not None:
            connection.close()

    def _next_group(self) -> tuple[list[_Job], bool]:
        group: list[_Job] = []
        job = self._queue.get()
        while job is not None:
            group.append(job)
            if len(group) >= MAX_GROUP:
                return group, True
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, connection: Connection, group: list[_Job]) -> list[tuple[_Job, Any, BaseException | None]]:
        outcomes: list[tuple[_Job, Any, BaseException | None]] = []
        with connection.begin():
            journal = Journal(connection, self._keys, self._known)
            after: list[Callable[[], None]] = []
            for job in group:
                transaction = Transaction(connection, journal)
                mark = journal.mark()
                connection.exec_driver_sql("SAVEPOINT decision")
                try:
                    value = job[0](transaction)
                except StoreError:
                    raise  # the database itself failed, and may have rolled back more than the savepoint
                except Exception as exc:
                    connection.exec_driver_sql("ROLLBACK TO decision")
                    journal.back_to(mark)
                    outcomes.append((job, None, exc))
                else:
                    outcomes.append((job, value, None))
                    after += transaction.after
                connection.exec_driver_sql("RELEASE decision")
            known = journal.flush()
        self._known = known
        self._committed(journal.time)
        for step in after:
            step()
        return outcomes


def _answer(outcomes: list[tuple[_Job, Any, BaseException | None]]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any, BaseException | None]]] = {}
    for (_, future, loop), value, error in outcomes:
        loops.setdefault(loop, []).append((future, value, error))
    for loop, answers in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, answers)
        except RuntimeError:  # the loop is closed: nobody waits any more, and what was committed stays
            log.info("answers=%d dropped: the server has stopped", len(answers))


def _resolve(answers: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
    for future, value, error in answers:
        if future.done():  # the caller went away
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def _failure(exc: Exception) -> PerunError:
    text = str(exc)
    if "disk is full" in text or (isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT)):
        return refuse(DISK_FULL, "the manager's disk is full; nothing was changed")
    log.error("group failed: %s", type(exc).__name__, exc_info=exc)
    return refuse(INTERNAL, "the manager could not store the change; nothing was changed")


def _abandon(connection: Connection) -> None:
    try:
        connection.close()
    except Exception as exc:
        log.error("connection does not close: %s", type(exc).__name__)
