"""Replaying a ledger, first part: agreements, approvals, suspensions and conditions, as the entries say and the documents prove."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from perunml.agreements.approvals import (
    Standing,
    Version,
    check_approval,
    check_successor,
    standing_of_line,
)
from perunml.agreements.changes import KIND as SUSPENSION
from perunml.agreements.changes import NEVER_CHANGED, Change, SuspensionState, fold, open_change
from perunml.agreements.conditions import (
    NO_CONDITIONS,
    Condition,
    ConditionChange,
    Conditions,
    fold_conditions,
    open_condition,
)
from perunml.agreements.document import open_agreement
from perunml.agreements.profiles import alternatives
from perunml.agreements.schema import Agreement
from perunml.agreements.withdrawals import check_withdrawal
from perunml.ledger.entries import OpenedEntry
from perunml.release.codes import HISTORY_INCONSISTENT
from perunml.release.managers import Proven, meets
from perunml.release.types import State
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError, refuse
from perunml.wire.identity import PublicKey

Documents = Mapping[str, Sequence[Envelope]]
"""Envelopes by their payload's digest; one payload may have come with several sets of signatures."""
Handler = Callable[[OpenedEntry], None]


def wrong(item: OpenedEntry, words: str, expected: str = "", seen: str = "") -> PerunError:
    """The first inconsistency: this entry."""
    entry = item.entry
    about = f"entry {item.index}, {entry.type} of {entry.subject}"
    return refuse(HISTORY_INCONSISTENT, f"{about}: {words}", expected=expected, seen=seen)


def text(item: OpenedEntry, name: str) -> str:
    """A member of an entry's body that must be a text."""
    value = item.entry.body.get(name)
    if not isinstance(value, str):
        raise wrong(item, f"its {name} is no text")
    return value


@dataclass(slots=True)
class _Signed:
    """What was signed for one version so far. `kept`: its standing, until when that holds."""

    agreement: Agreement
    approvals: list[Envelope] = field(default_factory=list)
    withdrawals: list[Envelope] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    state: str = "proposed"


class Agreements:
    """What is agreed, entry by entry. `unchecked` says what this party's documents cannot tell."""

    def __init__(self, documents: Documents, manager: PublicKey) -> None:
        self._documents, self._manager = documents, manager
        self._versions: dict[str, _Signed] = {}
        self._newest: dict[str, str] = {}
        self._suspensions: dict[str, SuspensionState] = {}
        self._conditions: dict[str, Conditions] = {}
        self._partly: set[str] = set()
        self._told: set[tuple[str, str]] = set()
        self._stood: dict[str, tuple[int, float, Standing]] = {}
        self._votes = 0
        self._handovers: dict[str, tuple[OpenedEntry, set[str]]] = {}
        self.unchecked: dict[str, None] = {}
        self.added: dict[str, int] = {}

    def handlers(self) -> dict[str, Handler]:
        """By an entry's type."""
        return {
            "agreement": self._proposed,
            "approval": self._approved,
            "withdrawal": self._withdrawn,
            "in-force": self._in_force,
            "superseded": self._superseded,
            "suspension": self._suspended,
            "condition": self._conditioned,
            "handover": self._handed,
        }

    def found(self, item: OpenedEntry, kind: str, digest: str) -> Iterator[Envelope]:
        """The documents of this digest; none is an inconsistency."""
        envelopes = self._documents.get(digest, ())
        if not envelopes:
            raise wrong(item, f"the {kind} that it names is not in the export", expected=digest, seen="nothing")
        yield from envelopes

    def of(self, item: OpenedEntry, digest: str = "") -> Agreement:
        """The agreement that an entry belongs to."""
        return self._of(item, digest).agreement

    def line(self, digest: str) -> str:
        """The first version that is known of the agreement's line."""
        while (before := self._versions[digest].agreement.metadata.predecessor) in self._versions:
            digest = str(before)
        return digest

    def newest(self, digest: str) -> Agreement | None:
        """The version in force of the agreement's line, or the agreement itself when none is; None when this party is not shown it."""
        found = self._versions.get(self._newest.get(self.line(digest), digest))
        return None if found is None else found.agreement

    def all(self) -> Iterator[Agreement]:
        """Every version that was proposed."""
        return (version.agreement for version in self._versions.values())

    def rooted(self, digest: str) -> bool:
        """Whether all versions from the first one on are known."""
        return self._versions[self.line(digest)].agreement.metadata.predecessor is None

    def state(self, agreement: Agreement, now: int, *, told: bool = False) -> State:
        """What a decision is made from, as far as this party can know it: witnesses' cosignatures come and go, and are not kept. With `told`
        without the stops and conditions that this version's own entries say nothing of."""
        digest = agreement.digest
        standing = self._standing(digest, now)
        every = agreement.assets.items()
        assets = [(n, asset) for n, asset in every if not told or (digest, asset.digest) in self._told]
        suspended = frozenset(
            name for name, asset in assets if self._suspensions.get(asset.digest, NEVER_CHANGED).suspended
        )
        live: dict[str, tuple[Condition, ...]] = {
            name: tuple(known.now.values())
            for name, asset in assets
            if (known := self._conditions.get(asset.digest)) and known.now
        }
        in_force = self._versions[digest].state == "in_force" and (standing is None or standing.in_force)
        return State(in_force, standing.missing if standing else {}, suspended, True, (), live)

    def _of(self, item: OpenedEntry, digest: str = "") -> _Signed:
        wanted = digest or item.entry.agreement
        found = self._versions.get(wanted)
        if found is None:
            raise wrong(item, "its agreement was not proposed before", expected="a proposal", seen=wanted)
        return found

    def _before(self, agreement: Agreement) -> Agreement | None:
        before = agreement.metadata.predecessor
        return self._versions[before].agreement if before in self._versions else None

    def _standing(self, digest: str, now: int) -> Standing | None:
        if not self.rooted(digest):
            return None
        kept = self._stood.get(digest)
        if kept is None or kept[0] != self._votes or now >= kept[1]:
            line = [digest]
            while before := self._versions[line[-1]].agreement.metadata.predecessor:
                line.append(before)
            versions = [self._versions[name] for name in reversed(line)]
            made = standing_of_line([Version(v.agreement, v.approvals, v.withdrawals) for v in versions], now)
            until = min((end for v in versions for end in v.ends if end > now), default=float("inf"))
            kept = self._stood[digest] = (self._votes, until, made)
        return kept[2]

    # By type

    def _proposed(self, item: OpenedEntry) -> None:
        digest = item.entry.agreement
        if item.entry.subject != digest or digest in self._versions:
            raise wrong(item, "not a proposal of its own agreement")
        (envelope, *_) = self.found(item, "agreement", digest)
        made = open_agreement(envelope)
        if made.manager.key != self._manager.text:
            raise wrong(item, "the agreement names another manager", expected=self._manager.text, seen=made.manager.key)
        before = made.metadata.predecessor
        said = {"name": made.name, "version": made.metadata.version, "predecessor": before or ""}
        if dict(item.entry.body) != said:
            raise wrong(item, "it tells another name or version than the document", str(said), str(item.entry.body))
        if before in self._versions:
            if self._versions[before].state != "in_force":
                raise wrong(item, "the version before was not in force", "in_force", self._versions[before].state)
            check_successor(made, self._versions[before].agreement)
        elif before is not None:
            self.unchecked[
                f"who had to approve {made.name} version {made.metadata.version}, and what ran before: the one before is not shown"
            ] = None
        self._versions[digest] = _Signed(made)

    def _approved(self, item: OpenedEntry) -> None:
        version, now = self._of(item), item.entry.time
        party, keys = text(item, "party"), item.entry.body.get("keys")
        before = self._before(version.agreement)
        if before is None and version.agreement.metadata.predecessor is not None:
            return
        for envelope in self.found(item, "approval", text(item, "approval")):
            vote = check_approval(version.agreement, envelope, now, predecessor=before)
            if (vote.party, sorted(vote.keys)) == (party, keys):
                version.approvals.append(envelope)
                version.ends.append(vote.expires)
                self._votes += 1
                return
        raise wrong(item, "the approval is not signed by whom it says", expected=f"{party}: {keys}")

    def _withdrawn(self, item: OpenedEntry) -> None:
        version = self._of(item)
        if version.state != "proposed":
            raise wrong(item, "an approval was taken back after the agreement was in force")
        before = self._before(version.agreement)
        if before is None and version.agreement.metadata.predecessor is not None:
            return
        for envelope in self.found(item, "withdrawal", text(item, "withdrawal")):
            made = check_withdrawal(version.agreement, envelope, predecessor=before)
            if (made.party, sorted(made.keys)) == (text(item, "party"), item.entry.body.get("keys")):
                version.withdrawals.append(envelope)
                self._votes += 1
                return
        raise wrong(item, "the withdrawal is not signed by whom it says")

    def _in_force(self, item: OpenedEntry) -> None:
        version, digest = self._of(item), item.entry.agreement
        standing = self._standing(digest, item.entry.time)
        if standing is not None and not standing.in_force:
            missing = "; ".join(f"{party}: {words}" for party, words in sorted(standing.missing.items()))
            raise wrong(item, "not everybody had approved it", expected="every approval", seen=f"missing {missing}")
        line, before = self.line(digest), version.agreement.metadata.predecessor
        held = self._newest.get(line)
        if version.state != "proposed" or (held is not None and held != before):
            raise wrong(item, "another version was in force", expected=before or "none", seen=held or "none")
        version.state, self._newest[line] = "in_force", digest
        if before in self._versions:
            self._versions[before].state = "superseded"

    def _superseded(self, item: OpenedEntry) -> None:
        by, version = text(item, "by"), self._of(item)
        if by not in self._versions and version.state == "in_force":
            # Who is a party no more is not shown what came after.
            self.unchecked[f"what was decided after entry {item.index}: the version {by} is not shown"] = None
            version.state, self._newest[self.line(item.entry.agreement)] = "superseded", by
            return
        if version.state != "superseded" or self._newest.get(self.line(item.entry.agreement)) != by:
            raise wrong(item, "no version that follows it is in force", seen=by)

    def _suspended(self, item: OpenedEntry) -> None:
        entry, agreement = item.entry, self.of(item)
        subject = entry.subject
        self._told.add((entry.agreement, subject))
        state = self._suspensions.get(subject)
        if state is None:
            state = self._begun(item)
        if state.head == text(item, "change"):
            return  # the same change, told to another agreement's parties
        (envelope, *_) = self.found(item, "suspension", text(item, "change"))
        self._about(item, str(envelope.unverified(SUSPENSION).get("subject")))
        try:
            change = open_change(agreement, envelope, named=False)
        except PerunError as exc:
            if entry.body.get("action") != "suspend":
                raise
            # The owner's board under another agreement may stop it too; that stops more, and is not for this party to see.
            self.unchecked[f"who suspended {subject} at entry {item.index} ({exc.code} under this agreement)"] = None
            self._suspensions[subject] = SuspensionState(True, envelope.digest)
            return
        self._same(item, change)
        self._suspensions[subject] = fold([change], state)

    def _begun(self, item: OpenedEntry) -> SuspensionState:
        """Where an asset's changes stood before the first one shown: an agreement may be younger than what it names."""
        previous = text(item, "previous")
        if previous:
            self.unchecked[f"suspensions of {item.entry.subject} before entry {item.index}: they are not shown"] = None
        return SuspensionState(bool(previous) and item.entry.body.get("action") == "lift", previous)

    def _conditioned(self, item: OpenedEntry) -> None:
        """What others' conditions say is theirs: that there are some is all that can be told."""
        subject, change_digest = item.entry.subject, text(item, "change")
        self._told.add((item.entry.agreement, subject))
        known = self._conditions.get(subject)
        if known is None:
            known = Conditions(NO_CONDITIONS.now, text(item, "previous"))
        if known.head == change_digest:
            return
        if change_digest not in self._documents:
            self.unchecked[f"conditions on {subject}: their owner alone sees them"] = None
            return
        (envelope, *_) = self.found(item, "condition", change_digest)
        change = open_condition(self.of(item), envelope, named=False)
        self._about(item, change.subject)
        self._same(item, change)
        if subject not in self._conditions and change.previous:
            self.unchecked[f"conditions on {subject} before entry {item.index}: they are not shown"] = None
            self._partly.add(subject)
        if subject in self._partly and change.action == "drop" and change.name not in known.now:
            self._conditions[subject] = Conditions(known.now, change.digest)
            return
        self._conditions[subject] = fold_conditions([change], known)
        if change.action == "add":
            self.added[change.digest] = 0

    def _handed(self, item: OpenedEntry) -> None:
        """The root key went to a machine that proved what this version, which was in force, says of a manager."""
        version, body = self._of(item), item.entry.body
        verdict, custody = body["verdict"], body["custody"]
        if version.state != "in_force" or item.entry.subject != item.entry.agreement:
            raise wrong(
                item, "the root key was handed over by a version that was not in force", "in_force", version.state
            )
        proven = Proven(
            verdict["profile"], verdict["imitates"], verdict["judged_by"], tuple(verdict["identities"]), custody["kind"],
            tuple(custody["pcrs"]),
        )  # fmt: skip
        wanted = alternatives(version.agreement.manager.profile)
        if not meets(wanted, proven) or verdict["simulated"] is not (proven.profile == "simulated"):
            expected = " or ".join(found.profile for found in wanted)
            raise wrong(
                item, "the root key was handed to what this version does not name", expected, str(verdict["profile"])
            )
        others = {
            digest
            for digest in self._newest.values()
            if digest in self._versions and digest != version.agreement.digest
        }
        _, left = self._handovers.setdefault(text(item, "handover"), (item, {*others, version.agreement.digest}))
        left.discard(version.agreement.digest)

    def finish(self) -> None:
        """What can be told only when all entries were seen: each agreement in force admitted whoever got the root key."""
        for item, left in self._handovers.values():
            if left:
                raise wrong(
                    item, "an agreement in force did not admit who got the root key", expected=", ".join(sorted(left))
                )

    def _about(self, item: OpenedEntry, subject: str) -> None:
        if subject != item.entry.subject:
            raise wrong(item, "the document is about another asset", subject, item.entry.subject)

    def _same(self, item: OpenedEntry, change: Change | ConditionChange) -> None:
        """The entry says what the document says."""
        said = {"action": change.action, "party": change.party, "previous": change.previous}
        for name, value in said.items():
            if item.entry.body.get(name) != value:
                raise wrong(item, f"the document has another {name}", value, str(item.entry.body.get(name)))
