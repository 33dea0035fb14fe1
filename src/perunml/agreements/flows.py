"""What reaches what: assets flow into jobs, through their outputs into other jobs, and out to recipients."""

from __future__ import annotations

from collections.abc import Iterator

from perunml.agreements.jobs import AnyJob, Output, TrainingJob
from perunml.agreements.schema import Agreement


def split_ref(ref: str) -> tuple[str, str] | None:
    """(job, output) of ``<job>.outputs.<name>``; None for an asset's name."""
    job, dot, rest = ref.partition(".outputs.")
    return (job, rest) if dot else None


def sources(job: AnyJob) -> tuple[str, ...]:
    """What a job reads: asset names and ``<job>.outputs.<name>``, its code first."""
    if isinstance(job, TrainingJob):
        return (job.code, *job.inputs)
    return (job.code, job.model) if job.code else (job.model,)


def ancestors(agreement: Agreement, ref: str) -> frozenset[str]:
    """Names of the assets that flow, through any number of jobs, into an asset, a job's output or a job. Raises `KeyError`
    for what the agreement does not name."""
    found: set[str] = set()
    seen: set[str] = set()
    todo = [ref]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if output := split_ref(name):
            todo.extend(sources(agreement.jobs[output[0]]))
        elif name in agreement.assets:
            found.add(name)
        else:
            todo.extend(sources(agreement.jobs[name]))
    return frozenset(found)


def owners(agreement: Agreement, ref: str) -> frozenset[str]:
    """Parties whose assets flow into `ref` (as in `ancestors`)."""
    return frozenset(agreement.assets[name].owner for name in ancestors(agreement, ref))


def outputs_of(agreement: Agreement) -> Iterator[tuple[str, str, Output]]:
    """(job, name, output) of every output."""
    for job_name, job in agreement.jobs.items():
        if isinstance(job, TrainingJob):
            for name, output in job.outputs.items():
                yield job_name, name, output


def affected(agreement: Agreement, job: str) -> frozenset[str]:
    """Parties that a change of `job` touches: whose assets flow into it, who get what comes out of it through any number
    of jobs, its operator and its clients."""
    touched = set(owners(agreement, job))
    todo, seen = [job], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        found = agreement.jobs[name]
        touched.add(found.operator)
        if isinstance(found, TrainingJob):
            for output in found.outputs.values():
                touched.update(output.to, output.approvers)
                todo.extend(output.use)
        else:
            touched.update(found.clients)
        touched |= owners(agreement, name)
    return frozenset(touched)


def circle(agreement: Agreement) -> tuple[str, ...]:
    """Jobs that feed each other in a circle, in order; empty when there is none. References must exist."""
    done: set[str] = set()

    def visit(job: str, path: tuple[str, ...]) -> tuple[str, ...]:
        if job in path:
            return (*path[path.index(job) :], job)
        if job in done:
            return ()
        for ref in sources(agreement.jobs[job]):
            if (output := split_ref(ref)) and (found := visit(output[0], (*path, job))):
                return found
        done.add(job)
        return ()

    for name in agreement.jobs:
        if found := visit(name, ()):
            return found
    return ()
