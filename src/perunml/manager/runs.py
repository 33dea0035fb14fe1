"""Runs: requested by a party, seen by the agreement's parties, offered to hosts."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import insert

from perunml.agreements.flows import split_ref
from perunml.agreements.jobs import ServiceJob
from perunml.api.runs import OutputView, RunList, RunRequest, RunView, Work, WorkItem
from perunml.manager import leases, machines, rights, state
from perunml.manager.codes import MODEL_MISSING, RATE_LIMITED, RUN_CONFLICT
from perunml.manager.context import Services
from perunml.manager.http import Access, Call, outside
from perunml.manager.library import Held
from perunml.manager.registered import newest_output, views
from perunml.manager.routing import Spec
from perunml.manager.state import StoredRun
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.manager.store.envelopes import stored
from perunml.manager.writer import Transaction
from perunml.release.decide import decide_submission
from perunml.release.types import Run
from perunml.wire.canonical import canonical
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.identity import PublicKey
from perunml.wire.rules import Reason
from perunml.wire.timestamps import format_time

MAX_QUEUED = 10_000
"""Runs of one agreement that wait for a host."""
MAX_LISTED = 1000
_ID = re.compile(r"[0-9a-f]{32}")
_FIELDS = {"apiVersion", "kind", "manager", "agreement", "job", "parameters", "assets", "id"}
_ADD = Statement(insert(t.runs))
_ADD_REQUEST = Statement(insert(t.requests))
_OF = "SELECT * FROM runs WHERE agreement = :agreement ORDER BY rowid DESC LIMIT 1000"
_QUEUED = "SELECT * FROM runs WHERE state = 'queued' ORDER BY rowid LIMIT 1000"
_COUNT = "SELECT count(*) FROM runs WHERE line = :line AND state = 'queued'"


def routes(services: Services) -> list[Spec]:
    async def submit(call: Call) -> RunView:
        envelope = RunRequest.decode(call.body).request
        body = _read(envelope)
        now = services.clock.now()
        made = await services.writer.submit(lambda tx: _submit(services, tx, body, envelope, call.caller.key, now))
        if isinstance(made, PerunError):
            raise made
        return made

    async def listed(call: Call) -> RunList:
        wanted = call.query.get("agreement", "")
        with services.database.read() as connection:
            if wanted:
                seen = [rights.agreement(services, connection, wanted, call.caller.key)]
            else:
                seen = rights.agreements(services, connection, call.caller.key)
            rows = [
                state.read_run(row)
                for item in seen
                for row in connection.run(_OF, {"agreement": item.held.agreement.digest}).all()
            ]
            return RunList(runs=[view(services, connection, row) for row in rows[:MAX_LISTED]])

    async def show(call: Call) -> RunView:
        with services.database.read() as connection:
            run = state.run(connection, call.params["run"])
            rights.agreement(services, connection, run.agreement, call.caller.key)
            return view(services, connection, run)

    async def work(call: Call) -> Work:
        with services.database.read() as connection:
            machine = machines.load(connection, call.caller.machine)
            found = []
            for row in connection.run(_QUEUED).all():
                held = services.library.held(connection, row.agreement)
                if held.state != "in_force" or services.challenges.reserved(row.run) is not None:
                    continue
                if (
                    machines.may_take(machine, held.agreement, row.job)
                    and machine.approved_under(row.agreement)
                    and services.library.agreed(
                        connection, held, machine.operator, held.agreement.jobs[row.job].operator
                    )
                ):
                    found.append(WorkItem(run=row.run, agreement=row.agreement, job=row.job, kind=row.kind))
        return Work(items=found)

    return [
        Spec("POST", "/v1/runs", Access.PARTY, submit, takes=RunRequest),
        Spec("GET", "/v1/runs", Access.PARTY, listed, query=("agreement",)),
        Spec("GET", "/v1/runs/{run}", Access.PARTY, show),
        Spec("GET", "/v1/host/work", Access.MACHINE, work),
    ]


def view(services: Services, connection: Connection, run: StoredRun) -> RunView:
    """A run as its agreement's parties see it."""
    until, shown = "", run.state
    if run.state == "running":
        until = format_time(int(leases.load(connection, run.lease).wall))
    elif run.state == "queued" and services.challenges.reserved(run.run) is not None:
        shown = "reserved"
    return RunView(
        run=run.run,
        agreement=run.agreement,
        job=run.job,
        state=shown,
        requested_by=run.party,
        parameters=run.parameters,
        host=run.machine,
        simulated=run.simulated,
        reasons=run.reasons,
        outputs=_outputs(services, connection, run),
        receipt=stored(run.receipt) if run.receipt else None,
        endpoint=run.endpoint,
        lease_until=until,
    )


def _outputs(services: Services, connection: Connection, run: StoredRun) -> list[OutputView]:
    return views(services, connection, run.run) if run.state in ("finished", "failed") else []


def _read(envelope: Envelope) -> dict[str, Any]:
    body = envelope.unverified("RunRequest")
    texts = [body.get(name) for name in ("manager", "agreement", "job", "id")]
    if (
        set(body) != _FIELDS
        or not all(isinstance(text, str) for text in texts)
        or not _ID.fullmatch(body["id"])
        or not isinstance(body["parameters"], dict)
        or not isinstance(body["assets"], dict)
        or not all(isinstance(value, str) for value in body["assets"].values())
    ):
        raise refuse(MALFORMED, "not a run's request", expected=", ".join(sorted(_FIELDS)))
    return body


def _submit(
    services: Services, transaction: Transaction, body: dict[str, Any], envelope: Envelope, key: str, now: int
) -> RunView | PerunError:
    now = transaction.journal.at(now)
    connection = transaction.connection
    seen = rights.agreement(services, connection, body["agreement"], key)
    agreement, held = seen.held.agreement, seen.held
    envelope.verify("RunRequest", [PublicKey(text) for text in agreement.parties[seen.party].keys.values()])
    if body["manager"] != services.keys.identity.public.text:
        raise refuse(MALFORMED, "the request is for another manager", seen=body["manager"])
    before = state.find_run(connection, body["id"])
    if before is not None:
        if before.request != envelope.digest:
            raise refuse(RUN_CONFLICT, "another run has this id", seen=body["id"])
        return view(services, connection, before)
    if int(connection.run(_COUNT, {"line": held.line}).scalar() or 0) >= MAX_QUEUED:
        raise refuse(RATE_LIMITED, "too many runs of this agreement wait for a host")
    run = Run(agreement.digest, body["job"], body["id"], body["parameters"], body["assets"])
    reasons = decide_submission(
        agreement,
        # A submission releases nothing: who names another's asset learns nothing of it here, and gets no keys there.
        state=state.state_of(
            services, connection, held, now, body["job"], hidden=rights.hidden(services, connection, held, key)
        ),
        run=run,
        usage=state.usage_of(services, connection, held),
        now=now,
    )
    reasons = reasons or _no_model(connection, held, body["job"])
    if reasons:
        told = {"job": body["job"], "party": seen.party, "reasons": [reason.as_json() for reason in reasons]}
        transaction.journal.append("refusal", now, agreement.digest, body["id"], told)
        return error(reasons)
    kind = "serve" if isinstance(agreement.jobs[body["job"]], ServiceJob) else "train"
    _ADD.run(
        connection,
        run=body["id"],
        agreement=agreement.digest,
        line=held.line,
        job=body["job"],
        kind=kind,
        party=seen.party,
        request=envelope.digest,
        parameters=canonical(body["parameters"]).decode(),
        pinned=canonical(body["assets"]).decode(),
        state="queued",
        machine="",
        simulated=0,
        reasons="[]",
        endpoint="",
        lease="",
        released=0,
        refusals=0,
        created=now,
        ended=0,
        receipt=b"",
    )
    _ADD_REQUEST.run(connection, run=body["id"], envelope=envelope.encode())
    told = {"job": body["job"], "party": seen.party, "request": envelope.digest}
    transaction.journal.append("run", now, agreement.digest, body["id"], told)
    made = state.find_run(connection, body["id"])
    if made is None:
        raise outside()
    return view(services, connection, made)


def _no_model(connection: Connection, held: Held, job: str) -> tuple[Reason, ...]:
    """A service of a model that no finished run has put out yet cannot start."""
    found = held.agreement.jobs[job]
    if not isinstance(found, ServiceJob) or (source := split_ref(found.model)) is None:
        return ()
    if newest_output(connection, held.line, *source) is not None:
        return ()
    return (Reason(MODEL_MISSING, f"no run of {source[0]} has put out {source[1]} yet", "a finished run", "none"),)
