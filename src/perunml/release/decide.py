"""THE decision: may this host have these keys for this run, now?

`decide` looks at every rule each time and gives every reason at once; it reads nothing but its arguments and changes
nothing. All values were checked when they were read, so it costs microseconds.
"""

from __future__ import annotations

from perunml.agreements.conditions import Condition
from perunml.agreements.flows import split_ref
from perunml.agreements.jobs import AnyJob, TrainingJob
from perunml.agreements.schema import Agreement
from perunml.evidence.types import Appraisal
from perunml.release import conditions, hosts, rules
from perunml.release.outputs import decide_output
from perunml.release.types import InputGrant, OutputGrant, Refusal, Release, Run, State, Usage, mint_release
from perunml.wire.rules import Reason


def decide(
    agreement: Agreement, *, state: State, run: Run, appraisal: Appraisal, usage: Usage, now: int
) -> Release | Refusal:
    """A `Release`, or a `Refusal` with every rule that failed. `now` in seconds since 1970; `usage` and `state` must be read in
    the transaction that counts this decision."""
    reasons = list(_without_host(agreement, state, run, usage, now))
    reasons += rules.cosigned(agreement, state)
    reasons += hosts.bound(run, appraisal)
    first = run.purpose == "release" and usage.resumes == 0
    job = agreement.jobs.get(run.job)
    if job is None:
        reasons += appraisal.reasons
        return Refusal(tuple(reasons))
    under = conditions.live(agreement, run.job, state)
    most = conditions.shortest(under, "wall", job.limits.wall) if isinstance(job, TrainingJob) else 0
    reasons += rules.within_wall(run, job, usage, now, most)
    reasons += hosts.good_enough(agreement.hosts[job.hosts], job.hosts, appraisal)
    reasons += hosts.right_operator(agreement, run, job)
    reasons += hosts.fresh_boot(agreement, job, usage)
    parameters = rules.effective_parameters(run, job)
    counts = usage.conditions if first else None
    case = conditions.Case(run.job, parameters, now, appraisal=appraisal, counts=counts)
    reasons += conditions.unmet(agreement, run.job, state, case)
    if reasons:
        return Refusal(tuple(reasons))
    wall = _wall_left(run, most, usage, now)
    simulated = appraisal.profile == "simulated"
    inputs = _inputs(agreement, job)
    return mint_release(
        agreement=agreement,
        run=run,
        parameters=parameters,
        inputs=inputs,
        outputs=_outputs(job),
        lease_seconds=_lease(job, under, wall, now),
        wall_seconds=wall,
        machine=appraisal.machine,
        simulated=simulated,
        sentences=_sentences(agreement, run, inputs, appraisal, simulated),
    )


def decide_submission(agreement: Agreement, *, state: State, run: Run, usage: Usage, now: int) -> tuple[Reason, ...]:
    """Every reason why the run could not be released whatever the host proves; empty when there is none yet."""
    reasons = _without_host(agreement, state, run, usage, now)
    if job := agreement.jobs.get(run.job):
        counts = usage.conditions if run.purpose == "release" and usage.resumes == 0 else None
        case = conditions.Case(run.job, rules.effective_parameters(run, job), now, counts=counts)
        reasons += conditions.unmet(agreement, run.job, state, case)
    return tuple(reasons)


def outlook(agreement: Agreement, *, state: State, case: conditions.Case, usage: Usage) -> tuple[Reason, ...]:
    """Every reason known before a host is there why a run of `case.job` would not get its keys now, witnesses included; empty when
    there is none. Parameters are the submission's to check."""
    run = Run(agreement.digest, case.job, "", {}, {})
    reasons = [*rules.in_force(agreement, state), *rules.known_job(agreement, run)]
    if job := agreement.jobs.get(case.job):
        reasons += rules.not_expired(run, job, case.now)
        reasons += rules.within_runs(run, job, usage)
        reasons += rules.not_suspended(agreement, case.job, state)
        reasons += conditions.unmet(agreement, case.job, state, case)
    reasons += rules.cosigned(agreement, state)
    return tuple(reasons)


def _without_host(agreement: Agreement, state: State, run: Run, usage: Usage, now: int) -> list[Reason]:
    reasons = [*rules.in_force(agreement, state), *rules.same_agreement(agreement, run)]
    reasons += rules.known_job(agreement, run)
    reasons += rules.pinned_assets(agreement, run)
    if job := agreement.jobs.get(run.job):
        reasons += rules.not_expired(run, job, now)
        reasons += rules.within_runs(run, job, usage)
        reasons += rules.parameters(run, job)
        reasons += rules.not_suspended(agreement, run.job, state)
    return reasons


def _wall_left(run: Run, most: int, usage: Usage, now: int) -> int:
    """Seconds of `most` that are left, at least 1 for a training; 0 for a service, which has no wall."""
    if not most or run.purpose == "release" or usage.started is None:
        return most
    return max(1, min(most, usage.started + most - now))


def _lease(job: AnyJob, under: tuple[Condition, ...], wall: int, now: int) -> int:
    """Seconds: the job's lease or an owner's shorter one, and never past a limit's end."""
    ends = [job.limits.until, *(c.form.until for c in under if c.form.until is not None)]
    return min(conditions.shortest(under, "lease", job.lease), min(ends) - now, *([wall] if wall else []))


def _inputs(agreement: Agreement, job: AnyJob) -> tuple[InputGrant, ...]:
    def grant(name: str, ref: str, mount: str) -> InputGrant:
        return InputGrant(name, ref, "" if split_ref(ref) else agreement.assets[ref].digest, mount)

    if not isinstance(job, TrainingJob):
        code = (grant("code", job.code, "/code"),) if job.code else ()
        return (*code, grant("model", job.model, "/model"))
    return (grant("code", job.code, "/code"), *(grant(ref, ref, mount) for ref, mount in job.inputs.items()))


def _outputs(job: AnyJob) -> tuple[OutputGrant, ...]:
    if not isinstance(job, TrainingJob):
        return ()
    return tuple(
        OutputGrant(name, out.form, out.max_size, out.fields, out.to, out.approvers)
        for name, out in job.outputs.items()
        if out.level != "error-class"
    )


def _sentences(
    agreement: Agreement, run: Run, inputs: tuple[InputGrant, ...], appraisal: Appraisal, simulated: bool
) -> tuple[str, ...]:
    """What happened, for the ledger and for people."""
    said = [f"{run.job} of {agreement.name} version {agreement.metadata.version}: {run.purpose} to {appraisal.machine}"]
    for item in inputs:
        if asset := agreement.assets.get(item.asset):
            said.append(f"{asset.kind} {item.asset} of {asset.owner}")
        else:
            said.append(f"model {item.asset}")
    if simulated:
        said.append("simulated: the host proves nothing")
    return tuple(said)


__all__ = ["decide", "decide_output", "decide_submission", "outlook"]
