"""What a version changes, in sentences: each change narrows, widens, or is a party's own affair, and touches these parties.

Whatever is not known to narrow widens, and whatever is not known to touch certain parties touches all of them (DESIGN section 5).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from perunml.agreements import flows
from perunml.agreements.boards import in_words
from perunml.agreements.jobs import Output, TrainingJob
from perunml.agreements.narrowing import NONE, Field, job_fields, role_fields, written
from perunml.agreements.schema import Agreement, Asset, Party, Quorum


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
            elif old != new:
                yield Change(path, Effect.OWN, frozenset({name}), _party(old), _party(new))

    def assets(self) -> Iterator[Change]:
        for name in sorted({*self._before.assets, *self._after.assets}):
            old, new = self._before.assets.get(name), self._after.assets.get(name)
            if old == new:
                continue
            parties = frozenset(asset.owner for asset in (old, new) if asset) | self._readers(name)
            yield Change(f"assets.{name}", Effect.WIDENS, parties, _asset(old), _asset(new))

    def hosts(self) -> Iterator[Change]:
        for name in sorted({*self._before.hosts, *self._after.hosts}):
            old, new = self._before.hosts.get(name), self._after.hosts.get(name)
            if old == new:
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
            if old == new:
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
            if name in known or old == new:
                continue
            effect = Effect.NARROWS if name == "witnesses" and _more_witnesses(old, new) else Effect.WIDENS
            yield Change(name, effect, self._all, _top(old), _top(new))

    def _of(self, fields: Iterable[Field], jobs: set[str]) -> Iterator[Change]:
        """Changes of fields that concern these jobs. Who could stop a job anyway may narrow it: the owners of what flows in, and
        its operator."""
        versions = [(a, job) for a in (self._before, self._after) for job in jobs if job in a.jobs]
        reached = frozenset().union(*(touched(a, job) for a, job in versions)) or self._all
        may = frozenset().union(*(flows.owners(a, job) | {a.jobs[job].operator} for a, job in versions)) or self._all
        for field in fields:
            effect = Effect.NARROWS if field.narrows else Effect.WIDENS
            # Who narrows must be there to approve: a party that the new version drops is asked for that by name.
            parties = may & frozenset(self._after.parties) if field.narrows else reached
            yield Change(field.path, effect, parties or self._all, field.before, field.after)

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


def _more_witnesses(before: object, after: object) -> bool:
    """More of the same witnesses; or some, where they were waived."""
    if not isinstance(after, Quorum):
        return False
    if not isinstance(before, Quorum):
        return True
    return (before.of, before.keys) == (after.of, after.keys) and after.at_least > before.at_least


def _party(party: Party) -> str:
    keys = ", ".join(f"{name} {text[:24]}…" for name, text in party.keys.items())
    return f"[{in_words(party.board)} decides; keys {keys}; {'receives' if party.receive else 'receives nothing'}]"


def _asset(asset: Asset | None) -> str:
    return f"{asset.kind} {asset.digest} of {asset.owner}" if asset else NONE


def _top(value: object) -> str:
    if isinstance(value, Quorum):
        return f"{value.at_least} of {', '.join(value.of)}"
    return written(value)
