"""An agreement in sentences, for a party that is about to approve it.

Everything is said from the document alone; who has still to approve comes from a `Standing`. The bits that may leave are
the agreement's upper bound, max_size times runs times 8: a model of that size can hold so much of the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from perunml.agreements import flows
from perunml.agreements.approvals import Standing, check_successor
from perunml.agreements.boards import in_words
from perunml.agreements.codes import INCONSISTENT
from perunml.agreements.jobs import PRINTED, Output, ServiceJob, ServiceLimits, TrainingJob
from perunml.agreements.narrowing import written
from perunml.agreements.profiles import allows_simulated
from perunml.agreements.recovery import holders, threshold
from perunml.agreements.schema import Agreement, Quorum
from perunml.agreements.versions import difference
from perunml.agreements.words import REMAINS, about_role
from perunml.wire.errors import refuse
from perunml.wire.quantities import format_size
from perunml.wire.timestamps import format_time

NOT_HERE = "The version before is not here: `perunml agreement diff` asks the manager for it, and says what changes."


@dataclass(frozen=True, slots=True)
class Section:
    """A title, and sentences for people."""

    title: str
    sentences: tuple[str, ...]


def review(
    agreement: Agreement, party: str, standing: Standing | None = None, *, predecessor: Agreement | None = None
) -> list[Section]:
    """What approving means for `party`; of a later version, against its `predecessor`, what changes. Raises `UsageError`
    (agreement_inconsistent) when it is none of the parties, `AgreementRefusal` (version_rollback) when it follows another version."""
    if party not in agreement.parties:
        raise refuse(INCONSISTENT, f"{party!r} is no party", expected=", ".join(agreement.parties), seen=party)
    made = [_head(agreement)]
    if agreement.metadata.predecessor:
        made.append(_changes(agreement, predecessor, party))
    made.append(_part(agreement, party))
    for name, job in sorted(agreement.jobs.items(), key=lambda item: isinstance(item[1], ServiceJob)):
        made.append(_training(agreement, name, job) if isinstance(job, TrainingJob) else _service(name, job))
    made.append(Section("What may leave", _leaving(agreement)))
    for name, role in agreement.hosts.items():
        users = [job for job in agreement.jobs if agreement.jobs[job].hosts == name]
        title = f"Hosts {name}, for {', '.join(users) or 'no job'}"
        made.append(Section(title, about_role(role)))
    made.append(Section("What nothing here protects", REMAINS))
    made.append(Section("Who has still to approve", _approvals(agreement, standing)))
    return made


def _changes(agreement: Agreement, predecessor: Agreement | None, party: str) -> Section:
    if predecessor is None:
        return Section("What changes", (NOT_HERE,))
    check_successor(agreement, predecessor)
    return Section("What changes", difference(predecessor, agreement).sentences(party))


def bits_leaving(agreement: Agreement) -> dict[str, int]:
    """Recipient -> upper bound of the bits that training outputs may carry to it in all."""
    total: dict[str, int] = {}
    for job_name, _, output in flows.outputs_of(agreement):
        job = agreement.training(job_name)
        for party in output.to:
            total[party] = total.get(party, 0) + output.most_bits * (job.limits.runs if job else 0)
    return total


def _head(a: Agreement) -> Section:
    meta = a.metadata
    said = [f"{meta.name}, version {meta.version}, {a.digest}."]
    if meta.predecessor:
        said.append(f"It replaces the version {meta.predecessor}.")
    said.append(f"Its manager is {a.manager.key}.")
    said.extend(f"The manager: {sentence}" for sentence in about_role(a.manager.profile)[:1])
    said.append(
        "Its root key, and with it every key that it has, goes to any other machine that proves this, once every agreement in force at it allows that machine."
    )
    if isinstance(a.witnesses, Quorum):
        least, of = a.witnesses.at_least, a.witnesses.of
        said.append(f"Nothing is released before {least} of {', '.join(of)} cosigned the ledger.")
        if outside := [name for name in of if name not in a.parties]:
            said.append(f"No party of this agreement, but a witness: {', '.join(outside)}.")
        if 2 * least <= len(of):
            said.append(
                "Two copies of the manager could each find so many witnesses: only more than half of them tell that there is "
                "one ledger."
            )
    else:
        said.append("Nobody cosigns the ledger, because every host is simulated: the manager could show two histories.")
    if any(allows_simulated(role) for role in (*a.hosts.values(), a.manager.profile)):
        said.append("This agreement allows `simulated`, which proves nothing. Approve it with data that may be seen.")
    return Section("What this is", tuple(said))


def _part(a: Agreement, party: str) -> Section:
    said = [f"For {party} decides: {in_words(a.parties[party].board)}."]
    for name, asset in a.assets.items():
        if asset.owner != party:
            continue
        readers = sorted(job for job in a.jobs if name in flows.ancestors(a, job))
        said.append(f"You bring {asset.kind} {name} ({asset.digest}).")
        said.append(f"It flows into {', '.join(readers)}." if readers else "No job reads it.")
        if readers:
            said.append(f"On hosts of {', '.join(sorted({a.jobs[job].operator for job in readers}))}.")
            said.append(f"What is made from it reaches {', '.join(sorted(_recipients(a, readers))) or 'nobody'}.")
    said.extend(_recovery(a, party))
    operated = [name for name, job in a.jobs.items() if job.operator == party]
    if operated:
        said.append(f"You run the hosts of {', '.join(operated)}.")
    for job_name, name, output in flows.outputs_of(a):
        if party in output.to:
            said.append(f"You get {job_name}.outputs.{name}.")
        if party in output.approvers:
            said.append(f"Each {job_name}.outputs.{name} waits for your approval before it leaves.")
    asks = [name for name, job in a.jobs.items() if isinstance(job, ServiceJob) and party in job.clients]
    if asks:
        said.append(f"You may ask {', '.join(asks)}.")
    return Section("Your part", tuple(said))


def _recovery(a: Agreement, party: str) -> Iterator[str]:
    """What becomes of outputs when the manager is lost, as far as it is this party's."""
    for job, name, _ in flows.outputs_of(a):
        among, ref = holders(a, job, name), f"{job}.outputs.{name}"
        if party in among:
            least = threshold(a, len(among))
            yield (
                f"You hold a share of the key of each {ref}: {least} of {', '.join(among)} give it to another manager, and together "
                "they could open it without one."
            )
        elif not among and party in flows.owners(a, ref):
            yield f"Nobody holds shares of {ref}: an owner has no receiving key. It is lost with the manager."
    if a.recovery and a.recovery.managers:
        yield f"Outputs of lost managers may be taken over: {', '.join(a.recovery.managers)}."


def _recipients(a: Agreement, jobs: list[str]) -> set[str]:
    """Parties who get outputs of these jobs, or answers."""
    found: set[str] = set()
    for name in jobs:
        job = a.jobs[name]
        if isinstance(job, ServiceJob):
            found.update(job.clients)
        else:
            found.update(*(output.to for output in job.outputs.values()))
    return found


def _training(a: Agreement, name: str, job: TrainingJob) -> Section:
    code = a.assets[job.code]
    said = [f"Code {job.code} of {code.owner} runs {code.entry} on hosts {job.hosts}, run by {job.operator}."]
    for ref, mount in job.inputs.items():
        asset = a.assets.get(ref)
        said.append(f"It reads {f'{asset.kind} {ref} of {asset.owner}' if asset else ref} at {mount}.")
    said.extend(f"Parameter {parameter}: {rule.in_words()}." for parameter, rule in job.parameters.items())
    if job.combinations is not None:
        said.append(f"Only together: {'; or '.join(written(one) for one in job.combinations)}.")
    limits = job.limits
    said.append(
        f"At most {limits.runs} runs, each at most {_span(limits.wall)} ({limits.resumes} resumes), "
        f"until {format_time(limits.until)}."
    )
    said.append(f"No network. Fresh evidence every {_span(job.lease)}, or its keys are gone.")
    if kept := job.checkpoints:
        said.append(
            f"Every {_span(kept.every)} its checkpoint (at most {format_size(kept.max_size)}, padded to that) is sealed for the run's own "
            f"resumes, on any of its hosts; nobody is given one. {limits.resumes} resumes are allowed."
        )
    if job.tenancy == "shared":
        said.append("The machine may serve other agreements between two boots (`tenancy: shared`).")
    said.extend(_output(a, out, output) for out, output in job.outputs.items())
    return Section(f"Training {name}", tuple(said))


def _output(a: Agreement, name: str, output: Output) -> str:
    if output.level == "error-class":
        return f"Output {name} is the class of a run's error, one of nine; nothing else that the code prints leaves."
    if output.level == "full":
        what = PRINTED
    else:
        what = f"numbers {', '.join(output.fields)}" if output.fields else output.format
    text = f"Output {name} ({what}, at most {format_size(output.max_size)}) goes to {', '.join(output.to)}"
    if output.use:
        text += f", is used by {', '.join(output.use)}"
    if output.approvers:
        text += f", and leaves only when approved by {', '.join(output.approvers)}"
    return text + "."


def _service(name: str, job: ServiceJob) -> Section:
    count, window = job.limits.requests
    said = [
        f"{job.model} answers {', '.join(job.clients)} on hosts {job.hosts}, run by {job.operator}.",
        f"At most {count} requests in {_span(window)}, until {format_time(job.limits.until)}.",
        f"Fresh evidence every {_span(job.lease)}, or its keys are gone.",
    ]
    limits = job.limits
    if limits.batch is not None:
        said.append(f"A request has at most {limits.batch} row{'s' if limits.batch != 1 else ''}.")
    if limits.top_k is not None or limits.digits is not None:
        said.append(
            f"Of its scores an answer has {_scores(limits)}; whole numbers, such as labels, leave as the model gives them."
        )
    if job.code:
        said.append(f"Code {job.code} computes the answers with the model's weights; it reads every request.")
    if job.batching:
        said.append(
            f"Requests of different clients are computed together, up to {job.batching.rows} rows, after {job.batching.delay_ms} ms at most: that one's rows "
            "tell nothing of another's is for the model to keep."
        )
    return Section(f"Service {name}", tuple(said))


def _scores(limits: ServiceLimits) -> str:
    """What an answer has of a row's scores."""
    which = f"the {limits.top_k} greatest of each row" if limits.top_k is not None else "all"
    return which if limits.digits is None else f"{which}, rounded to {limits.digits} decimal digits"


def _leaving(a: Agreement) -> tuple[str, ...]:
    said = [
        f"To {party}: at most {bits:,} bits ({format_size(bits // 8)}) over all runs."
        for party, bits in sorted(bits_leaving(a).items())
    ]
    for name, job in a.jobs.items():
        if isinstance(job, ServiceJob):
            count, window = job.limits.requests
            said.append(
                f"To {', '.join(job.clients)}: the answers of {name}, {count} in {_span(window)}; their size is the model's "
                "to choose, and answers can tell something about what it was trained on."
            )
    return tuple(said) or ("Nothing leaves.",)


def _approvals(a: Agreement, standing: Standing | None) -> tuple[str, ...]:
    if standing is None:
        return tuple(f"{name}: {in_words(party.board)}." for name, party in a.parties.items())
    if standing.in_force:
        return ("Nobody: it is in force.",)
    return tuple(f"{name}: {words}." for name, words in sorted(standing.missing.items()))


def _span(seconds: int) -> str:
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds % size == 0 and seconds:
            count = seconds // size
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return f"{seconds} second{'s' if seconds != 1 else ''}"
