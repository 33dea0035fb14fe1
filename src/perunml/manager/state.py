"""What a decision needs to know of agreements and their use, read in the transaction that counts it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.dialects.sqlite import insert as upsert

from perunml.agreements import flows
from perunml.agreements.conditions import Condition
from perunml.agreements.schema import Agreement
from perunml.manager.codes import RUN_NOT_OPEN
from perunml.manager.context import Services
from perunml.manager.http import outside
from perunml.manager.library import Held
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.release.types import State, Usage
from perunml.wire.errors import refuse

_RUN = "SELECT * FROM runs WHERE run = :run"
_USAGE = "SELECT job, runs FROM usage WHERE line = :line"
_NEWEST = "SELECT digest FROM agreements WHERE line = :line AND state = 'in_force'"
_TAKE_BACK = "UPDATE runs SET state = 'queued', ended = 0, reasons = '[]', released = released - 1 WHERE run = :run"
_UNCOUNT_RUN = "UPDATE usage SET runs = runs - 1 WHERE line = :line AND job = :job"
_CONDITION_RUNS = "SELECT runs FROM condition_usage WHERE condition = :condition"
_UNCOUNT_CONDITION = "UPDATE condition_usage SET runs = runs - 1 WHERE condition = :condition"
_condition = upsert(t.condition_usage)
_COUNT_CONDITION = Statement(
    _condition.on_conflict_do_update(index_elements=["condition"], set_={"runs": t.condition_usage.c.runs + 1})
)
_usage = upsert(t.usage)
_COUNT_RUN = Statement(_usage.on_conflict_do_update(index_elements=["line", "job"], set_={"runs": t.usage.c.runs + 1}))


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run's row."""

    run: str
    agreement: str
    line: str
    job: str
    kind: str
    party: str
    request: str
    parameters: dict[str, Any]
    pinned: dict[str, str]
    state: str
    machine: str
    simulated: bool
    reasons: list[dict[str, Any]]
    endpoint: str
    lease: str
    released: int
    refusals: int
    created: int
    ended: int
    receipt: bytes

    @property
    def document(self) -> dict[str, Any]:
        """What the binding names by digest: {agreement, job, run, parameters}."""
        return {"agreement": self.agreement, "job": self.job, "run": self.run, "parameters": self.parameters}


def read_run(row: Any) -> StoredRun:
    values = row._asdict()
    for name in ("parameters", "pinned", "reasons"):
        values[name] = json.loads(values[name])
    values["simulated"] = bool(values["simulated"])
    return StoredRun(**values)


def find_run(connection: Connection, run: str) -> StoredRun | None:
    row = connection.run(_RUN, {"run": run}).first()
    return None if row is None else read_run(row)


def run(connection: Connection, run: str) -> StoredRun:
    """Raises `AgreementRefusal` (not_entitled)."""
    found = find_run(connection, run)
    if found is None:
        raise outside()
    return found


def queued(connection: Connection, wanted: str) -> StoredRun:
    """A run that waits for a host. Raises `AgreementRefusal` (not_entitled, run_not_open)."""
    found = run(connection, wanted)
    check_queued(found)
    return found


def check_queued(found: StoredRun) -> None:
    """Raises `AgreementRefusal` (run_not_open)."""
    if found.state != "queued":
        raise refuse(RUN_NOT_OPEN, "the run does not wait for a host", expected="queued", seen=found.state)


def newest(services: Services, connection: Connection, line: str, fallback: str) -> Held:
    """The version of an agreement that is in force; `fallback` when none is, which a decision then refuses."""
    digest = connection.run(_NEWEST, {"line": line}).scalar()
    return services.library.held(connection, str(digest or fallback))


def lease_of(agreement: Agreement, job: str) -> float:
    """Seconds for which a job's keys may be held, and how old its witnesses' word may be; 0 for an unknown job."""
    found = agreement.jobs.get(job)
    return float(found.lease) if found else 0.0


def state_of(
    services: Services, connection: Connection, held: Held, now: int, job: str, *, hidden: frozenset[str] = frozenset()
) -> State:
    """Whether the agreement is in force, which of its assets are suspended, and which witnesses have not cosigned the ledger
    within a lease of `job`. Without the suspensions and conditions of the `hidden` assets (`rights.hidden`): for answers only; where keys
    are released, renewed or an output leaves, only if a `hidden` asset stops it by itself (`delivery.strangers`)."""
    standing = services.library.standing(connection, held, now)
    in_force = standing.in_force and held.state == "in_force"
    absent = services.witnessed.absent(held.agreement, within=lease_of(held.agreement, job))
    suspended = services.library.suspended(connection, held.agreement) - hidden
    found = services.library.conditions(connection, held.agreement)
    conditions = {name: those for name, those in found.items() if name not in hidden} if hidden else found
    return State(in_force, standing.missing, suspended, not absent, absent, conditions)


def usage_of(
    services: Services,
    connection: Connection,
    held: Held,
    *,
    resumes: int = 0,
    started: int | None = None,
    other: str | None = None,
    other_shares: bool = False,
) -> Usage:
    """What was used up under the agreement, over all its versions."""
    counted = {row[0]: int(row[1]) for row in connection.run(_USAGE, {"line": held.line})}
    runs = {name: counted.get(name, 0) for name in held.agreement.jobs if held.agreement.training(name)}
    by_condition = counts(connection, services.library.conditions(connection, held.agreement))
    return Usage(runs, resumes, started, other, other_shares, by_condition)


def count_run(services: Services, connection: Connection, held: Held, job: str) -> list[str]:
    """One more run whose keys were released; the conditions (digests) that count it."""
    _COUNT_RUN.run(connection, line=held.line, job=job, runs=1, window=0, requests=0)
    conditions = services.library.conditions(connection, held.agreement)
    counted = counting(held.agreement, job, conditions)
    for condition in counted:
        _COUNT_CONDITION.run(connection, condition=condition, runs=1)
    return counted


def take_back(connection: Connection, run: StoredRun, counted: Iterable[str]) -> None:
    """A release whose keys never left the manager is none: the run waits again, and is counted as before it. `counted` are the
    conditions that counted it; those that were added meanwhile did not."""
    connection.run(_TAKE_BACK, {"run": run.run})
    if run.kind == "train" and run.released == 1:
        connection.run(_UNCOUNT_RUN, {"line": run.line, "job": run.job})
        for condition in counted:
            connection.run(_UNCOUNT_CONDITION, {"condition": condition})


def counts(connection: Connection, live: Mapping[str, tuple[Condition, ...]]) -> dict[str, int]:
    """By a condition's digest the runs since it was added, of those that count."""
    return {
        condition.digest: condition_runs(connection, condition.digest)
        for found in live.values()
        for condition in found
        if condition.form.runs is not None
    }


def condition_runs(connection: Connection, condition: str) -> int:
    """The runs that a condition (its digest) has counted."""
    return int(connection.run(_CONDITION_RUNS, {"condition": condition}).scalar() or 0)


def counting(agreement: Agreement, job: str, live: Mapping[str, tuple[Condition, ...]]) -> list[str]:
    """The conditions, by digest, that count a run of `job`."""
    names = flows.ancestors(agreement, job) & set(live) if live else set()
    return [condition.digest for name in sorted(names) for condition in live[name] if condition.form.runs is not None]
