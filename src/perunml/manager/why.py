"""Why a job does not run: every reason at once, to those entitled.

What stands in the way is decided anew, from the state as it is now, by the same rules; a run that was refused keeps the
reasons that it was refused for.
"""

from __future__ import annotations

from perunml.agreements import flows
from perunml.api.why import OwnCondition, Why
from perunml.manager import conditions, rights, state
from perunml.manager.codes import NO_HOST_YET
from perunml.manager.context import Services
from perunml.manager.http import Access, Call
from perunml.manager.library import Held
from perunml.manager.routing import Spec
from perunml.manager.state import StoredRun
from perunml.manager.store.connection import Connection
from perunml.release import codes
from perunml.release.conditions import Case, failings
from perunml.release.decide import outlook
from perunml.release.rules import effective_parameters
from perunml.release.types import Run, State, Usage
from perunml.wire.errors import refuse
from perunml.wire.rules import Kind, Reason

_PENDING = (Kind.PENDING, Kind.SUSPENDED, Kind.HELD)
_OVER = ("refused", "lost", "failed")


def routes(services: Services) -> list[Spec]:
    async def of_run(call: Call) -> Why:
        with services.database.read() as connection:
            run = state.run(connection, call.params["run"])
            seen = rights.agreement(services, connection, run.agreement, call.caller.key)
            return _run(services, connection, run, seen.held, call.caller.key, services.clock.now())

    async def of_job(call: Call) -> Why:
        job, now = call.query.get("job", ""), services.clock.now()
        with services.database.read() as connection:
            seen = rights.agreement(services, connection, call.params["digest"], call.caller.key)
            held = seen.held
            if job not in held.agreement.jobs:
                known = ", ".join(sorted(held.agreement.jobs))
                raise refuse(codes.JOB_UNKNOWN, f"{held.agreement.name} has no job {job!r}", expected=known, seen=job)
            key = call.caller.key
            hidden = rights.hidden(services, connection, held, key)
            now_state = state.state_of(services, connection, held, now, job, hidden=hidden)
            usage = state.usage_of(services, connection, held)
            case = Case(job, None, now, counts=usage.conditions)
            reasons = outlook(held.agreement, state=now_state, case=case, usage=usage)
            return _why(held, job, "", reasons, _own(services, connection, held, job, now_state, case, key))

    return [
        Spec("GET", "/v1/runs/{run}/why", Access.PARTY, of_run),
        Spec("GET", "/v1/agreements/{digest}/why", Access.PARTY, of_job, query=("job",)),
    ]


def _run(services: Services, connection: Connection, run: StoredRun, held: Held, key: str, now: int) -> Why:
    hidden = rights.hidden(services, connection, held, key)
    if run.state in _OVER:
        reasons = tuple(Reason.from_json(reason) for reason in run.reasons)
        case = _case(held, run, now, None)
        now_state = state.state_of(services, connection, held, now, run.job, hidden=hidden)
        own = _own(services, connection, held, run.job, now_state, case, key)
        return _why(held, run.job, run.run, reasons, own, run.state)
    if run.state != "queued":
        return _why(held, run.job, run.run, (), [], run.state)
    now_state = state.state_of(services, connection, held, now, run.job, hidden=hidden)
    usage = state.usage_of(services, connection, held, resumes=run.released)
    case = _case(held, run, now, usage if run.released == 0 else None)
    reasons = outlook(held.agreement, state=now_state, case=case, usage=usage)
    # What its hosts were refused for last still stands; where nobody else is missing, a host is.
    reasons += tuple(Reason.from_json(reason) for reason in run.reasons)
    if not reasons:
        role = held.agreement.jobs[run.job].hosts
        operator = held.agreement.jobs[run.job].operator
        reasons = (Reason(NO_HOST_YET, f"no host of {operator} has taken the run yet", f"a host for {role}", "none"),)
    return _why(held, run.job, run.run, reasons, _own(services, connection, held, run.job, now_state, case, key))


def _case(held: Held, run: StoredRun, now: int, usage: Usage | None) -> Case:
    wanted = Run(run.agreement, run.job, run.run, run.parameters, {})
    job = held.agreement.jobs[run.job]
    return Case(run.job, effective_parameters(wanted, job), now, counts=usage.conditions if usage else None)


def _why(held: Held, job: str, run: str, reasons: tuple[Reason, ...], own: list[OwnCondition], over: str = "") -> Why:
    pending = bool(reasons) and all(reason.rule.kind in _PENDING for reason in reasons)
    return Why(
        agreement=held.agreement.digest,
        job=job,
        run=run,
        state=over or ("pending" if pending else "refused" if reasons else "clear"),
        reasons=[reason.as_json() for reason in reasons],
        conditions=own,
    )


def _own(
    services: Services, connection: Connection, held: Held, job: str, now_state: State, case: Case, key: str
) -> list[OwnCondition]:
    """What the caller's own conditions say to this; nobody else's. Whose they are is not for this agreement alone to say: anybody can
    call himself an owner in one of his own, and a replaced key is in the old one still."""
    agreement = held.agreement
    return [
        OwnCondition(
            asset=name, condition=condition.name, member=found.member, expected=found.expected, seen=found.seen
        )
        for name in sorted(flows.ancestors(agreement, job) & set(now_state.conditions))
        if conditions.is_owner(services, connection, agreement.assets[name].digest, key)
        for condition in now_state.conditions[name]
        for found in failings(agreement, condition, case)
    ]
