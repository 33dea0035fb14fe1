"""The rules that need no host: state, time, limits, parameters, pinned digests, suspensions.

Each is a function that yields a reason for each way in which it fails. None of them changes anything or knows of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from perunml.agreements import flows
from perunml.agreements.jobs import AnyJob, Fixed, TrainingJob, combined
from perunml.agreements.schema import Agreement, Quorum
from perunml.release import codes
from perunml.release.types import Run, State, Usage
from perunml.wire.rules import Reason
from perunml.wire.timestamps import format_time


def in_force(agreement: Agreement, state: State) -> Iterator[Reason]:
    if not state.in_force:
        missing = "; ".join(f"{party}: {words}" for party, words in sorted(state.missing.items()))
        yield Reason(
            codes.NOT_IN_FORCE,
            f"{agreement.name} version {agreement.metadata.version} is not in force",
            "every party's approval",
            f"missing {missing}" if missing else "another version is in force",
            f"perunml agreement approve {agreement.digest}",
        )


def cosigned(agreement: Agreement, state: State) -> Iterator[Reason]:
    witnesses = agreement.witnesses
    if isinstance(witnesses, Quorum) and not state.cosigned:
        yield Reason(
            codes.WITNESS_QUORUM_MISSING,
            "the agreement's witnesses have not cosigned the ledger",
            f"{witnesses.at_least} of {', '.join(witnesses.of)}",
            f"missing {'; '.join(state.absent)}" if state.absent else "none",
            "perunml witness run",
        )


def same_agreement(agreement: Agreement, run: Run) -> Iterator[Reason]:
    if run.agreement_digest != agreement.digest:
        yield Reason(
            codes.AGREEMENT_MISMATCH,
            "the run was requested under another agreement",
            agreement.digest,
            run.agreement_digest,
        )


def known_job(agreement: Agreement, run: Run) -> Iterator[Reason]:
    if run.job not in agreement.jobs:
        yield Reason(
            codes.JOB_UNKNOWN, f"{agreement.name} has no job {run.job!r}", ", ".join(sorted(agreement.jobs)), run.job
        )


def not_expired(run: Run, job: AnyJob, now: int) -> Iterator[Reason]:
    if now >= job.limits.until:
        yield Reason(
            codes.AGREEMENT_EXPIRED,
            f"the job {run.job} was agreed until {format_time(job.limits.until)}",
            f"before {format_time(job.limits.until)}",
            format_time(now),
        )


def within_runs(run: Run, job: AnyJob, usage: Usage) -> Iterator[Reason]:
    """Runs are counted at their first release; a resume belongs to a run that is counted already."""
    if not isinstance(job, TrainingJob) or run.purpose != "release":
        return
    if usage.resumes > job.limits.resumes:
        yield Reason(
            codes.RESUMES_EXHAUSTED,
            f"the run {run.run} was resumed as often as agreed",
            f"at most {job.limits.resumes} resumes",
            f"resume {usage.resumes}",
        )
    if usage.resumes > 0:
        return
    used = usage.runs.get(run.job)
    if used is None or used < 0:
        yield Reason(codes.USAGE_UNKNOWN, f"how often {run.job} ran is not known", "a count", str(used))
    elif used >= job.limits.runs:
        yield Reason(
            codes.RUNS_EXHAUSTED,
            f"{run.job} has had its {job.limits.runs} agreed runs",
            f"at most {job.limits.runs} runs",
            f"run {used + 1}",
        )


def within_wall(run: Run, job: AnyJob, usage: Usage, now: int, most: int) -> Iterator[Reason]:
    """`most` seconds since the start, which an owner's condition may have shortened; at `finish` one lease more, so that a run which
    its host stopped in time can still say so."""
    if not isinstance(job, TrainingJob) or run.purpose == "release":
        return
    if usage.started is None:
        yield Reason(codes.USAGE_UNKNOWN, f"when the run {run.run} started is not known", "a time", "none")
    elif now >= usage.started + most + (job.lease if run.purpose == "finish" else 0):
        yield Reason(
            codes.WALL_EXCEEDED,
            f"the run {run.run} takes too long",
            f"at most {most} s",
            f"{now - usage.started} s",
        )


def parameters(run: Run, job: AnyJob) -> Iterator[Reason]:
    declared = job.parameters if isinstance(job, TrainingJob) else {}
    for name, value in run.parameters.items():
        if name not in declared:
            yield Reason(
                codes.PARAMETER_OUT_OF_RANGE,
                f"the job {run.job} has no parameter {name!r}",
                ", ".join(sorted(declared)) or "no parameters",
                name,
            )
        elif not declared[name].allows(value):
            yield Reason(
                codes.PARAMETER_OUT_OF_RANGE,
                f"the parameter {name} is not among the agreed values",
                declared[name].in_words(),
                str(value),
            )
    for name, rule in declared.items():
        if name not in run.parameters and not isinstance(rule, Fixed):
            yield Reason(codes.PARAMETER_OUT_OF_RANGE, f"the parameter {name} is missing", rule.in_words(), "no value")
    agreed = job.combinations if isinstance(job, TrainingJob) else None
    if agreed is not None and not combined(agreed, effective := effective_parameters(run, job)):
        yield Reason(
            codes.COMBINATION_NOT_AGREED,
            "these values are not agreed together",
            " or ".join(_said(one) for one in agreed),
            _said(effective),
        )


def _said(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(values.items()))


def effective_parameters(run: Run, job: AnyJob) -> dict[str, Any]:
    """The run's parameters with the fixed ones filled in."""
    declared: Mapping[str, Any] = job.parameters if isinstance(job, TrainingJob) else {}
    fixed = {name: rule.value for name, rule in declared.items() if isinstance(rule, Fixed)}
    return {**fixed, **run.parameters}


def pinned_assets(agreement: Agreement, run: Run) -> Iterator[Reason]:
    for name, pinned in run.assets.items():
        asset = agreement.assets.get(name)
        if asset is None:
            yield Reason(
                codes.DIGEST_NOT_AGREED, f"the agreement has no asset {name!r}", ", ".join(agreement.assets), name
            )
        elif asset.digest != pinned:
            yield Reason(codes.DIGEST_NOT_AGREED, f"{asset.kind} {name} is not the one agreed", asset.digest, pinned)


def not_suspended(agreement: Agreement, ref: str, state: State) -> Iterator[Reason]:
    """`ref`: a job, an asset, or ``<job>.outputs.<name>``; everything that flows into it counts."""
    for name in sorted(flows.ancestors(agreement, ref) & state.suspended):
        asset = agreement.assets[name]
        yield Reason(
            codes.ASSET_SUSPENDED,
            f"{asset.kind} {name} is suspended by {asset.owner}",
            "not suspended",
            "suspended",
            f"perunml asset lift {name}",
        )
