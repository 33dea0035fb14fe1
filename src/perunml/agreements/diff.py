"""What a version changes, in sentences: each change narrows, widens, or is a party's own affair, and touches these parties.

Whatever is not known to narrow widens, and whatever is not known to touch certain parties touches all of them (DESIGN section 5).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from perunml.agreements import flows
from perunml.agreements.boards import Board, in_words
from perunml.agreements.jobs import Output, TrainingJob
from perunml.agreements.narrowing import (
    NONE,
    Compare,
    Field,
    alike,
    compared,
    job_fields,
    role_fields,
    written,
)
from perunml.agreements.schema import Agreement, Asset, Quorum, Recovery
from perunml.wire.digests import digest
from perunml.wire.timestamps import format_time


class Effect(enum.Enum):
    """What a change does, for the parties that it touches."""

    NARROWS = "narrows"
    WIDENS = "widens"
    OWN = "own"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `parties` must approve: all of them where it widens, one of them where it narrows, and of a party's own
    affair the party itself, by its old board and its new one."""

    path: str
    effect: Effect
    parties: frozenset[str]
    before: str
    after: str

    @property
    def sentence(self) -> str:
        """For people."""
        said = f"{self.path}: {self.before} becomes {self.after}"
        names = ", ".join(sorted(self.parties))
        if self.effect is Effect.NARROWS:
            return f"{said}. It narrows: one of {names} may do so alone."
        if self.effect is Effect.OWN:
            return f"{said}. It is the affair of {names}, whose old board must approve it too."
        return f"{said}. It widens: {names} must approve."


def diff(before: Agreement, after: Agreement) -> list[Change]:
    """Every change from one version to the next; empty when both say the same."""
    both = _Both(before, after)
    return [*both.parties(), *both.assets(), *both.hosts(), *both.jobs(), *both.frame()]


def touched(agreement: Agreement, job: str) -> frozenset[str]:
    """Parties whose assets or outputs flow, through any number of jobs, into or out of a job, its operator and its clients: whom a
    change of the job touches."""
    found = set(flows.affected(agreement, job))
    todo, seen = [job], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for ref in flows.sources(agreement.jobs[name]):
            if output := flows.split_ref(ref):
                declared = _output(agreement, *output)
                if declared is not None:
                    found.update(declared.to, declared.approvers)
                todo.append(output[0])
    return frozenset(found)


class _Both:
    """The two versions, walked part by part."""

    def __init__(self, before: Agreement, after: Agreement) -> None:
        self._before, self._after = before, after
        self._all = frozenset(before.parties) | frozenset(after.parties)

    def parties(self) -> Iterator[Change]:
        for name in sorted(self._all):
            old, new = self._before.parties.get(name), self._after.parties.get(name)
            path = f"parties.{name}"
            if old is None or new is None:
                words = ("takes part" if side else NONE for side in (old, new))
                yield Change(path, Effect.WIDENS, self._all, *words)
                continue
            for field in compared(path, old, new, _PARTY):
                yield Change(field.path, Effect.OWN, frozenset({name}), field.before, field.after)

    def assets(self) -> Iterator[Change]:
        for name in sorted({*self._before.assets, *self._after.assets}):
            old, new = self._before.assets.get(name), self._after.assets.get(name)
            if alike(old, new):
                continue
            parties = frozenset(asset.owner for asset in (old, new) if asset) | self._readers(name)
            yield Change(f"assets.{name}", Effect.WIDENS, parties, _asset(old), _asset(new))

    def hosts(self) -> Iterator[Change]:
        for name in sorted({*self._before.hosts, *self._after.hosts}):
            old, new = self._before.hosts.get(name), self._after.hosts.get(name)
            if alike(old, new):
                continue
            users = {job for a in (self._before, self._after) for job in a.jobs if a.jobs[job].hosts == name}
            path = f"hosts.{name}"
            if old is None or new is None:
                fields: Iterable[Field] = [Field(path, "a role" if old else NONE, "a role" if new else NONE, False)]
            else:
                fields = role_fields(path, old, new)
            yield from self._of(fields, users)

    def jobs(self) -> Iterator[Change]:
        for name in sorted({*self._before.jobs, *self._after.jobs}):
            old, new = self._before.jobs.get(name), self._after.jobs.get(name)
            if alike(old, new):
                continue
            path = f"jobs.{name}"
            if old is None or new is None:
                fields: Iterable[Field] = [Field(path, "agreed" if old else NONE, "agreed" if new else NONE, False)]
            else:
                fields = job_fields(path, old, new)
            yield from self._of(fields, {name})

    def frame(self) -> Iterator[Change]:
        """Manager, witnesses, and whatever else stands at the top: of concern to everybody."""
        known = {"metadata", "parties", "assets", "hosts", "jobs", "apiVersion", "kind"}
        for name in Agreement.model_fields:
            old, new = getattr(self._before, name), getattr(self._after, name)
            if name in known or alike(old, new):
                continue
            yield Change(name, Effect.WIDENS, self._all, _top(old), _top(new))
        yield from self._end()

    def _end(self) -> Iterator[Change]:
        """Outputs of every training leave until the last `until` of all jobs."""
        old, new = self._before.ends, self._after.ends
        made = {job for a in (self._before, self._after) for job, _, _ in flows.outputs_of(a)}
        if old != new and made:
            yield from self._of([Field("ends", format_time(old), format_time(new), new < old, hosting=False)], made)

    def _of(self, fields: Iterable[Field], jobs: set[str]) -> Iterator[Change]:
        """Changes of fields that concern these jobs. Who could stop each of the jobs anyway may narrow it: an owner of what flows
        into all of them, who can suspend; and where it is about hosting, their operator. Where nobody can, all are asked."""
        versions = [(a, job) for a in (self._before, self._after) for job in jobs if job in a.jobs]
        reached = frozenset().union(*(touched(a, job) for a, job in versions)) or self._all
        for field in fields:
            may = self._stoppers(jobs, field.hosting) if field.narrows else frozenset()
            effect = Effect.NARROWS if may else Effect.WIDENS
            yield Change(field.path, effect, may or reached, field.before, field.after)

    def _stoppers(self, jobs: set[str], hosting: bool) -> frozenset[str]:
        """Parties of both versions each of whom could have stopped every one of these jobs."""
        found = frozenset(self._before.parties) & frozenset(self._after.parties)
        for job in jobs & set(self._before.jobs):
            could = flows.owners(self._before, job)
            found &= could | {self._before.jobs[job].operator} if hosting else could
        return found

    def _readers(self, asset: str) -> frozenset[str]:
        """Whom the jobs that an asset flows into touch, in either version."""
        users = [
            touched(a, job)
            for a in (self._before, self._after)
            for job in a.jobs
            if asset in a.assets and asset in flows.ancestors(a, job)
        ]
        return frozenset().union(*users)


def _output(agreement: Agreement, job: str, name: str) -> Output | None:
    found = agreement.jobs.get(job)
    return found.outputs.get(name) if isinstance(found, TrainingJob) else None


def _keys(path: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Field]:
    """Those that differ alone."""
    old, new = (
        ", ".join(f"{name} {text}" for name, text in sorted(set(one.items()) - set(other.items()))) or NONE
        for one, other in ((before, after), (after, before))
    )
    yield Field(path, old, new, False)


def _board(path: str, before: Board | None, after: Board | None) -> Iterator[Field]:
    old, new = (in_words(board) if board else "the only key" for board in (before, after))
    yield Field(path, old, new, False)


def _receive(path: str, before: str | None, after: str | None) -> Iterator[Field]:
    """These keys are longer than a line."""
    old, new = (f"the key {digest(text.encode())}" if text else NONE for text in (before, after))
    yield Field(path, old, new, False)


_PARTY: Mapping[str, Compare] = {"keys": _keys, "approve": _board, "receive": _receive}
"""How a party's own affairs are told."""


def _asset(asset: Asset | None) -> str:
    return f"{asset.kind} {asset.digest} of {asset.owner}" if asset else NONE


def _top(value: object) -> str:
    if isinstance(value, Quorum):
        return f"{value.at_least} of {', '.join(value.of)}"
    if isinstance(value, Recovery):
        from_ = f", from {', '.join(value.managers)}" if value.managers else ""
        return f"{value.at_least or 'all'} of the owners{from_}"
    return written(value)
