"""What must hold of agreements, conditions, suspensions and limits: a second, small account of the rules.

It knows nothing of the code under test. Four parties share one training job: the hospital's scans, the startup's code, run by the cloud; the
clinic is a client of what comes out. A version may change how often the job runs, and the hospital's key.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PARTIES = ("hospital", "startup", "cloud", "clinic")
STOPPERS = frozenset({"hospital", "startup", "cloud"})
"""Whose assets flow into the job, or who runs it: each could stop it anyway, so each may narrow it alone."""
OWNERS = {"scans": "hospital", "unet": "startup"}


@dataclass
class Version:
    """A proposal, or what became of it. `votes` by the key that stands for a party: ``hospital#2`` is its second key."""

    number: int
    runs: int
    hospital: int
    before: Version | None
    state: str = "proposed"
    votes: set[str] = field(default_factory=set)

    def key(self, party: str) -> str:
        return f"hospital#{self.hospital}" if party == "hospital" else party

    def says(self, party: str) -> bool:
        """By the party's key in this version."""
        return self.key(party) in self.votes

    def open(self) -> list[frozenset[str]]:
        """Of each of these sets of parties one has still to agree."""
        old = self.before
        if old is None:
            return [frozenset({party}) for party in PARTIES if not self.says(party)]
        asked: list[frozenset[str]] = []
        rotates = self.hospital != old.hospital
        if self.runs == old.runs and not rotates:
            asked += [frozenset({party}) for party in PARTIES]
        if self.runs > old.runs:
            asked += [frozenset({party}) for party in PARTIES]
        if self.runs < old.runs:
            asked.append(STOPPERS)
        missing = [some for some in asked if not any(self.says(party) for party in some)]
        if rotates and not (self.says("hospital") and old.key("hospital") in self.votes):
            missing.append(frozenset({"hospital"}))
        # Who was not asked keeps the word that it gave before.
        missing += [some for some in old.open() if not any(self.says(party) for party in some)]
        return missing

    def in_force(self) -> bool:
        return not self.open()


@dataclass
class Condition:
    """Of an owner on its asset: at most so many more runs, or none at all from now on."""

    runs: int | None
    since: int = 0

    def fails(self, *, first: bool) -> bool:
        return self.runs is None or (first and self.since >= self.runs)


@dataclass
class Run:
    """`version` is the one under which it was asked for; `counted` are the conditions that counted its release."""

    version: Version
    state: str = "queued"
    counted: list[Condition] = field(default_factory=list)


@dataclass
class Model:
    """The whole state of one line of versions."""

    first: Version
    versions: list[Version] = field(default_factory=list)
    used: int = 0
    suspended: set[str] = field(default_factory=set)
    conditions: dict[tuple[str, str], Condition] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def newest(self) -> Version:
        return next(version for version in self.versions if version.state == "in_force")

    def vote(self, version: Version, key: str) -> str:
        """A key approves; the code with which it is refused, or nothing."""
        if version.before is not None and version.state == "proposed" and version.before.state != "in_force":
            return "version_rollback"
        version.votes.add(key)
        if version.state == "proposed" and version.in_force():
            version.state = "in_force"
            if version.before is not None:
                version.before.state = "superseded"
        return ""

    def reasons(self, version: Version, *, first: bool, counting: bool = True) -> set[str]:
        """Why a run under this version is refused now: every reason."""
        found = set()
        if version.state != "in_force" or not version.in_force():
            found.add("agreement_not_in_force")
        if first and counting and self.used >= version.runs:
            found.add("runs_exhausted")
        if self.suspended:
            found.add("asset_suspended")
        if any(condition.fails(first=first) for condition in self.conditions.values()):
            found.add("owner_condition")
        return found

    def release(self, run: Run) -> set[str]:
        """The run's first keys: counted, or refused for good."""
        found = self.reasons(run.version, first=True)
        if found:
            run.state = "queued" if found == {"agreement_not_in_force"} else "refused"
            return found
        self.used += 1
        run.counted = [found for found in self.conditions.values() if found.runs is not None]
        for condition in run.counted:
            condition.since += 1
        run.state = "running"
        return set()

    def go_on(self, run: Run, end: str) -> set[str]:
        """A renewal, or a finish (`end`: the state after it): judged by the newest version; refused, the lease is over."""
        found = self.reasons(self.newest, first=False)
        if found:
            run.state = "lost"
        elif end:
            run.state = end
        return found
