"""The writer makes all changes, in groups: many decisions, each in its own savepoint, one durable commit, then all the
answers. A decision sees what those before it in the group decided, so the order is the ledger's.

Decisions run on the event loop's own thread, and a commit that waits long for its disk in another: Python runs one thread
at a time, and two that hand each statement to and fro are slower than one. While a commit waits, the next group gathers.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
GATHER = 3
"""Turns of the event loop before a group begins: in one, requests that lie ready are read, in the next their tasks begin and
submit. Who is nearly there shares the group's signature and its commit; where nobody is, three turns cost 30 microseconds."""
QUICK = 0.002
"""Seconds: a disk that takes less, on average, is waited for where one stands; handing over costs half a millisecond."""
log = logging.getLogger("perunml.manager")


class Transaction:
    """What a decision works with."""

    __slots__ = ("connection", "journal")

    def __init__(self, connection: Connection, journal: Journal) -> None:
        self.connection = connection
        self.journal = journal


Work = Callable[[Transaction], Any]
_Job = tuple[Work, "asyncio.Future[Any]"]
_Outcome = tuple["asyncio.Future[Any]", Any, Exception | None]


class Writer:
    """`run` it as a task, `submit` to it, `stop` it. `committed` gets the time of the ledger's newest entry; `forget` is
    called when a group failed: caches made from what was never committed are dropped. `halted` raises where nothing may be
    entered into the ledger any more."""

    def __init__(
        self,
        database: Database,
        keys: Keys,
        *,
        committed: Callable[[int], None],
        forget: Callable[[], None],
        halted: Callable[[], None],
    ):
        self._database = database
        self._keys = keys
        self._halted = halted
        self._committed = committed
        self._forget = forget
        self._jobs: deque[_Job] = deque()
        self._wake = asyncio.Event()
        self._running = False
        self._known: dict[NodeKey, bytes] = {}
        self._connection: Connection | None = None
        self._commit_time = 0.0

    async def submit(self, work: Callable[[Transaction], T]) -> T:
        """Decide `work`; its value, once it is durable. An error it raises undoes its own changes alone. Raises what it
        raised; `LimitReached` (disk_full, rate_limited); `Unreachable` (manager_failed)."""
        if not self._running:
            raise refuse(INTERNAL, "the manager is stopping")
        if len(self._jobs) >= MAX_QUEUE:
            raise refuse(RATE_LIMITED, "the manager has more to do than it can queue")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._jobs.append((work, future))
        self._wake.set()
        value: T = await future
        return value

    def stop(self) -> None:
        """Finish what was submitted, then end."""
        self._running = False
        self._wake.set()

    async def run(self) -> None:
        """Decide and commit until stopped."""
        self._running = True
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "perunml-commit") as disk:
            while self._running or self._jobs:
                if not self._jobs:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                for _ in range(GATHER):
                    await asyncio.sleep(0)
                group = [self._jobs.popleft() for _ in range(min(len(self._jobs), MAX_GROUP))]
                await self._group(group, loop, disk)
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _group(self, group: list[_Job], loop: asyncio.AbstractEventLoop, disk: ThreadPoolExecutor) -> None:
        outcomes: list[_Outcome]
        try:
            self._connection = connection = self._connection or self._database.writer()
            connection.run("BEGIN IMMEDIATE")
            journal = Journal(connection, self._keys, self._known, self._halted)
            outcomes = [_decide(connection, journal, job) for job in group]
            known = journal.flush()
            await self._commit(connection, loop, disk)
            self._known = known
            self._committed(journal.time)
        except Exception as exc:
            error = _failure(exc)
            outcomes = [(future, None, error) for _, future in group]
            self._known = {}
            self._forget()
            self._abandon()
        for future, value, problem in outcomes:
            if future.done():  # the caller went away; what was decided stays
                continue
            if problem is None:
                future.set_result(value)
            else:
                future.set_exception(problem)

    async def _commit(self, connection: Connection, loop: asyncio.AbstractEventLoop, disk: ThreadPoolExecutor) -> None:
        begun = loop.time()
        if self._commit_time > QUICK:
            await loop.run_in_executor(disk, connection.run, "COMMIT")
        else:
            connection.run("COMMIT")
        self._commit_time += (loop.time() - begun - self._commit_time) / 8

    def _abandon(self) -> None:
        """A connection whose transaction failed is given up: closing it rolls back whatever is left."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except StoreError as exc:
                log.error("connection does not close: %s", type(exc).__name__)


def _decide(connection: Connection, journal: Journal, job: _Job) -> _Outcome:
    work, future = job
    problem: Exception | None = None
    mark = journal.mark()
    connection.run("SAVEPOINT decision")
    try:
        value = work(Transaction(connection, journal))
    except StoreError:
        raise  # the database itself failed, and may have rolled back more than the savepoint
    except Exception as exc:
        connection.run("ROLLBACK TO decision")
        journal.back_to(mark)
        value, problem = None, exc
    connection.run("RELEASE decision")
    return future, value, problem


def _failure(exc: Exception) -> PerunError:
    if "disk is full" in str(exc) or (isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT)):
        return refuse(DISK_FULL, "the manager's disk is full; nothing was changed")
    log.error("group failed: %s", type(exc).__name__, exc_info=exc)
    return refuse(INTERNAL, "the manager could not store the change; nothing was changed")
