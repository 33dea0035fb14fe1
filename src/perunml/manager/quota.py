"""The quota of a service: replicas draw from one count per window, kept by the manager."""

from __future__ import annotations

from sqlalchemy.dialects.sqlite import insert as upsert

from perunml.agreements.jobs import ServiceJob
from perunml.api.runs import QuotaAnswer, QuotaRequest
from perunml.manager import leases, state
from perunml.manager.context import Services
from perunml.manager.http import Access, Call, outside
from perunml.manager.routing import Spec
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Statement
from perunml.manager.writer import Transaction
from perunml.release.decide import decide_submission
from perunml.release.types import Run
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import error, refuse

MAX_WANTED = 1000
"""Requests drawn at once: what a replica loses when it dies."""
_USED = "SELECT window, requests FROM usage WHERE line = :line AND job = :job"
_row = upsert(t.usage)
_DRAW = Statement(
    _row.on_conflict_do_update(
        index_elements=["line", "job"], set_={"window": _row.excluded.window, "requests": _row.excluded.requests}
    )
)


def routes(services: Services) -> list[Spec]:
    async def draw(call: Call) -> QuotaAnswer:
        wanted = QuotaRequest.decode(call.body).wanted
        if not 1 <= wanted <= MAX_WANTED:
            raise refuse(MALFORMED, "wanted is a count", expected=f"1 to {MAX_WANTED}", seen=str(wanted))
        run, lease, now = call.params["run"], call.caller.lease, services.clock.now()
        return await services.writer.submit(lambda tx: _draw(services, tx, run, lease, wanted, now))

    return [Spec("POST", "/v1/runs/{run}/quota", Access.LEASE, draw, takes=QuotaRequest)]


def _draw(
    services: Services, transaction: Transaction, run_id: str, lease_id: str, wanted: int, now: int
) -> QuotaAnswer:
    now = transaction.journal.at(now)
    connection = transaction.connection
    lease = leases.of_run(services, connection, lease_id, run_id)
    run = state.run(connection, run_id)
    held = state.newest(services, connection, run.line, run.agreement)
    job = held.agreement.jobs.get(run.job)
    if not isinstance(job, ServiceJob):
        raise outside()
    # A suspension stops serving now, not only at the next renewal.
    reasons = decide_submission(
        held.agreement,
        state=state.state_of(services, connection, held, now, run.job),
        run=Run(held.agreement.digest, run.job, run.run, run.parameters, {}, "renew"),
        usage=state.usage_of(services, connection, held, started=lease.started),
        now=now,
    )
    if reasons:
        raise error(reasons)
    count, window = job.limits.requests
    row = connection.run(_USED, {"line": held.line, "job": run.job}).first()
    # A window that began stays begun: a clock that wavers by less than a jump opens none a second time.
    start = max(now - now % window, int(row[0]) if row else 0)
    used = int(row[1]) if row and int(row[0]) == start else 0
    granted = max(0, min(wanted, count - used))
    if granted:
        _DRAW.run(connection, line=held.line, job=run.job, runs=0, window=start, requests=used + granted)
    return QuotaAnswer(granted=granted, retry_seconds=0 if granted else start + window - now)
