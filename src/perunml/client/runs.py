"""Runs: submitted, watched, waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from perunml.api.runs import RunList, RunRequest, RunView
from perunml.client.codes import NOT_FINISHED, RUN_FAILED
from perunml.client.connection import Connection
from perunml.client.identity import Identity
from perunml.wire.dsse import signed
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.rules import Reason

POLL = 0.5
"""Seconds between two looks at a run."""
ENDED = frozenset({"finished", "failed", "refused", "lost"})


def submit(
    connection: Connection,
    identity: Identity,
    agreement: str,
    job: str,
    parameters: Mapping[str, Any],
    *,
    assets: Mapping[str, str] | None = None,
) -> RunView:
    """Ask for one run. `assets` pins digests by name: a run that would use others is refused."""
    body = {
        "manager": connection.pin.identity,
        "agreement": agreement,
        "job": job,
        "parameters": dict(parameters),
        "assets": dict(assets or {}),
        "id": os.urandom(16).hex(),
    }
    request = RunRequest(request=signed("RunRequest", body, identity.signing))
    return connection.call("POST", "/v1/runs", RunView, request)


def show(connection: Connection, run: str) -> RunView:
    return connection.call("GET", f"/v1/runs/{quote(run, safe='')}", RunView)


def listed(connection: Connection, agreement: str = "") -> list[RunView]:
    """The runs that this party may see, of one agreement or of all."""
    where = f"/v1/runs?agreement={quote(agreement)}" if agreement else "/v1/runs"
    return connection.call("GET", where, RunList).runs


def settled(view: RunView) -> bool:
    """Whether waiting is over: it ended, or it is a service that answers."""
    return view.state in ENDED or (view.state == "running" and bool(view.endpoint))


def answering(connection: Connection, agreement: str, job: str) -> RunView | None:
    """The newest run of a service that answers now."""
    views = listed(connection, agreement)
    return next((view for view in views if view.job == job and view.state == "running" and view.endpoint), None)


def wait(
    connection: Connection,
    run: str,
    *,
    timeout: float | None = None,
    watch: Callable[[RunView], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> RunView:
    """The run once it is settled; `watch` sees each change of state. Raises `ApprovalPending` (not_finished) after
    `timeout` seconds. What went wrong with the run itself, `failure` says."""
    start, before = clock(), ""
    while True:
        view = show(connection, run)
        if watch is not None and view.state != before:
            watch(view)
        before = view.state
        if settled(view):
            return view
        if timeout is not None and clock() - start >= timeout:
            raise refuse(
                NOT_FINISHED,
                "the run has not finished yet",
                expected=f"an end within {timeout:g} s",
                seen=view.state,
                command=f"perunml job wait {run}",
            )
        sleep(POLL)


def failure(view: RunView) -> PerunError | None:
    """Why a run has no outputs, or None when it went well. A failed job is the job's own; what was lost or refused has
    the kind of its first reason."""
    if view.state not in ENDED - {"finished"}:
        return None
    reasons = [Reason.from_json(reason) for reason in view.reasons]
    if view.state == "failed" or not reasons:
        said = "; ".join(reason.message for reason in reasons)
        own = Reason(RUN_FAILED, f"the run {view.state}", seen=said, command=f"perunml job show {view.run}")
        return error([own, *reasons])
    return error(reasons)
