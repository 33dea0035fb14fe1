"""Owners' conditions, looked at in every decision: they only ever forbid.

A decision says of a condition that is not met no more than whose it is; `failings` says the rest, for its owner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perunml.agreements import flows
from perunml.agreements.conditions import Condition
from perunml.agreements.jobs import AnyJob, ServiceJob, TrainingJob
from perunml.agreements.schema import Agreement
from perunml.evidence.types import Appraisal
from perunml.release import codes
from perunml.release.types import State
from perunml.wire.rules import Reason
from perunml.wire.timestamps import format_time


@dataclass(frozen=True, slots=True)
class Case:
    """What conditions are held against. `parameters` is None and `recipient` not empty for a delivery, `appraisal` None before a host
    is there; `counts` is `Usage.conditions`, None where no run is about to be counted."""

    job: str
    parameters: Mapping[str, Any] | None
    now: int
    appraisal: Appraisal | None = None
    recipient: str = ""
    counts: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Failing:
    """One member of a condition that is not met."""

    member: str
    expected: str
    seen: str


def unmet(agreement: Agreement, ref: str, state: State, case: Case) -> Iterator[Reason]:
    """A reason for each condition, on whatever flows into `ref` (a job, an asset or ``<job>.outputs.<name>``), that the case does
    not meet. It names the asset, its owner and the condition's digest; nothing of what it says."""
    if not state.conditions:
        return
    for name in sorted(flows.ancestors(agreement, ref) & set(state.conditions)):
        for condition in state.conditions[name]:
            if any(True for _ in failings(agreement, condition, case)):
                asset = agreement.assets[name]
                yield Reason(
                    codes.OWNER_CONDITION,
                    f"{asset.kind} {name} is under a condition of {asset.owner} that is not met",
                    f"the condition {condition.digest}",
                    "not met",
                    "perunml condition list",
                )


def live(agreement: Agreement, ref: str, state: State) -> tuple[Condition, ...]:
    """The conditions on whatever flows into `ref`."""
    if not state.conditions:
        return ()
    names = flows.ancestors(agreement, ref) & set(state.conditions)
    return tuple(condition for name in sorted(names) for condition in state.conditions[name])


def shortest(conditions: Iterable[Condition], member: str, most: int) -> int:
    """The least of `most` and what the conditions allow of ``wall`` or ``lease``, in seconds."""
    values: list[int | None] = [getattr(condition.form, member) for condition in conditions]
    return min([most, *(value for value in values if value is not None)])


def failings(agreement: Agreement, condition: Condition, case: Case) -> Iterator[Failing]:
    """Every member of the condition that the case does not meet; for its owner's eyes."""
    form, job = condition.form, agreement.jobs.get(case.job)
    if form.until is not None and case.now >= form.until:
        yield Failing("until", f"before {format_time(form.until)}", format_time(case.now))
    if form.runs is not None and case.counts is not None and isinstance(job, TrainingJob):
        used = case.counts.get(condition.digest)
        if used is None or used >= form.runs:
            yield Failing("runs", f"at most {form.runs}", "an unknown count" if used is None else f"run {used + 1}")
    if form.jobs is not None and case.job not in form.jobs:
        yield Failing("jobs", ", ".join(form.jobs), case.job)
    if job is None:
        return
    if form.operators is not None and job.operator not in form.operators:
        yield Failing("operators", ", ".join(form.operators), job.operator)
    yield from _parameters(condition, job, case)
    yield from _host(condition, case.appraisal)
    if form.recipients is not None and case.recipient and case.recipient not in form.recipients:
        yield Failing("recipients", ", ".join(form.recipients), case.recipient)
    if form.clients is not None and isinstance(job, ServiceJob) and not set(job.clients) <= set(form.clients):
        yield Failing("clients", ", ".join(form.clients), ", ".join(job.clients))


def _parameters(condition: Condition, job: AnyJob, case: Case) -> Iterator[Failing]:
    if not isinstance(job, TrainingJob) or case.parameters is None:
        return
    for name, rule in (condition.form.parameters or {}).items():
        if name not in case.parameters:
            yield Failing(f"parameters.{name}", rule.in_words(), "no such parameter")
        elif not rule.allows(case.parameters[name]):
            yield Failing(f"parameters.{name}", rule.in_words(), str(case.parameters[name]))


def _host(condition: Condition, appraisal: Appraisal | None) -> Iterator[Failing]:
    if appraisal is None:
        return
    form, proven = condition.form, set(appraisal.identities)
    if form.machines is not None and not any(set(named.split("+")) <= proven for named in form.machines):
        yield Failing("machines", ", ".join(form.machines), "+".join(appraisal.identities) or "no machine")
    # A TEE with a TPM proves both of its profiles, joined by a plus; each has to be one that is allowed.
    if form.profiles is not None and not set(appraisal.profile.split("+")) <= set(form.profiles):
        yield Failing("profiles", ", ".join(form.profiles), appraisal.profile or "nothing")
