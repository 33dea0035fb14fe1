"""What time does: leases that were not renewed end, and nonces of old requests are forgotten."""

from __future__ import annotations

import asyncio
import functools
import logging

from perunml.manager import checkpoints, counter, leases, state, witnesses
from perunml.manager.codes import LEASE_ENDED
from perunml.manager.context import Services
from perunml.manager.writer import Transaction
from perunml.wire.errors import PerunError
from perunml.wire.rules import Reason

INTERVAL = 0.5
"""Seconds between two looks."""
NONCES_EVERY = 60.0
_OLD_NONCES = "DELETE FROM nonces WHERE expires < :now"
_QUEUE_AGAIN = "UPDATE runs SET state = 'queued', ended = 0 WHERE run = :run"
log = logging.getLogger("perunml.manager")


async def sweep_forever(services: Services) -> None:
    """Look until cancelled. Failures are logged, and the next look tries again."""
    nonces_at = services.clock.steady()
    counted_at = nonces_at + counter.EVERY
    while True:
        await asyncio.sleep(INTERVAL)
        try:
            await end_leases(services)
            if services.witnessed.has_lines:
                await services.writer.submit(functools.partial(witnesses.keep, services))
            if services.clock.steady() >= counted_at:
                counted_at = services.clock.steady() + counter.EVERY
                await counter.advance(services)
            if services.clock.steady() >= nonces_at:
                nonces_at = services.clock.steady() + NONCES_EVERY
                await checkpoints.clear(services)
                await services.writer.submit(functools.partial(_forget_nonces, services.clock.now()))
        except PerunError as exc:
            log.warning("sweep: %s", exc.code)
        except Exception as exc:
            log.error("sweep: %s", type(exc).__name__, exc_info=exc)


async def end_leases(services: Services) -> None:
    """End each lease whose time is over."""
    with services.database.read() as connection:
        due = leases.due(services, connection)
    for lease in due:
        await services.writer.submit(functools.partial(_end, services, lease))


def _end(services: Services, lease_id: str, transaction: Transaction) -> None:
    connection = transaction.connection
    lease = leases.load(connection, lease_id)
    if not lease.active or leases.left(services, lease) > 0:
        return
    run = state.run(connection, lease.run)
    reason = Reason(LEASE_ENDED, "the host did not renew its lease in time", "a renewal", "none")
    withheld = services.witnessed.let_go(lease_id)
    leases.end(transaction, lease, "lost", (reason,), services.clock.now(), withheld=withheld)
    if withheld:
        # Its keys never left: no quorum saw the release in time, so it counts for nothing.
        state.take_back(connection, run, lease.verdict.get("counted", ()))
        return
    held = state.newest(services, connection, run.line, run.agreement)
    job = held.agreement.training(run.job)
    # A run that may be resumed waits for a host again; it was released once for its start, once for each resume.
    if job is not None and run.released <= job.limits.resumes:
        connection.run(_QUEUE_AGAIN, {"run": run.run})


def _forget_nonces(now: int, transaction: Transaction) -> None:
    transaction.connection.run(_OLD_NONCES, {"now": now})
