"""A real manager, driven step by step beside the model; whatever the two say differently is a failure."""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from manager.road import Road, push, seal
from models.model import OWNERS, PARTIES, Condition, Model, Run, Version
from perunml.agreements.approvals import approval
from perunml.agreements.conditions import condition_change
from perunml.agreements.document import agreement_envelope, agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.agreements.withdrawals import withdrawal
from perunml.api.agreements import AgreementView, ApproveAgreement, ProposeAgreement, WithdrawApproval
from perunml.api.conditions import ChangeCondition, ConditionList
from perunml.api.runs import RunView
from perunml.client.audit_export import export
from perunml.client.audit_verify import verify_export
from perunml.client.connection import Connection
from perunml.client.home import Home
from perunml.host.session import Session
from perunml.manager import setup
from perunml.manager.backup import backup, restore
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import PerunError
from perunml.wire.identity import PublicKey, SigningKey
from perunml.wire.timestamps import format_time

MAX_OPEN = 3
"""Proposals that are voted on at a time, and runs that wait."""
LAST_YEAR = format_time(int(time.time()) - 365 * 86400)
Given = dict[str, tuple[list[Envelope], int]]
"""By key: its approvals of a version, and how often it took some back."""
parties = st.sampled_from(PARTIES)
assets = st.sampled_from(sorted(OWNERS))
names = st.sampled_from(("one", "two"))


def refusals(do: Callable[[], Any]) -> set[str]:
    """Every code with which it is refused."""
    try:
        do()
    except PerunError as exc:
        return {reason.code for reason in exc.reasons}
    return set()


class Governance(RuleBasedStateMachine):
    """One line of versions at a manager that all examples share; `road` is set by the test."""

    road: Road
    scratch: Path

    @initialize(runs=st.integers(1, 4))
    def begin(self, runs: int) -> None:
        """The first version, in force by everybody's approval."""
        own = Road.__new__(Road)
        own.__dict__.update(self.road.__dict__)
        self.own, self.name = own, "line-" + os.urandom(6).hex()
        # The cloud is the one that enrolled the host; all else is this example's own, for what is done to an asset outlasts its agreement.
        self.keys: dict[str, SigningKey] = {"cloud": self.road.keys["cloud"], "hospital#0": SigningKey.generate()}
        self.links: dict[str, Connection] = {"cloud": self.road.party["cloud"]}
        for name in ("hospital#0", "startup", "clinic"):
            key = self.keys.setdefault(name, SigningKey.generate())
            self.links[name] = own.world.party(key)
        own.keys = {name.partition("#")[0]: key for name, key in self.keys.items()}
        folder = self.scratch / self.name
        own.scans = seal(folder / "scans", own.keys["hospital"], "scans", "dataset", {"a.csv": b"1,2"})
        own.unet = seal(folder / "unet", own.keys["startup"], "unet", "code", {"train.py": b"print('x')"})
        push(self.links["hospital#0"], own.scans)
        push(self.links["startup"], own.unet)
        self.documents: dict[int, Agreement] = {}
        self.given: dict[tuple[int, str], list[Envelope]] = {}
        self.taken: dict[tuple[int, str], int] = {}
        self.sessions: dict[str, Session] = {}
        self.heads: dict[str, str] = {}
        self.saved: tuple[Path, Model, list[Agreement], list[Given]] | None = None
        first = Version(1, runs, 0, None)
        self.model = Model(first, [first])
        self.send(first)
        for party in PARTIES:
            self.vote(first, first.key(party))
        own.tpm.reboot()  # one agreement per boot
        assert self.model.newest is first

    # Versions

    def send(self, version: Version) -> None:
        self.own.keys = {**self.keys, "hospital": self.keys["hospital#0"]}
        document = self.own.document()
        document["metadata"] = {"name": self.name, "version": version.number}
        if version.before is not None:
            document["metadata"]["predecessor"] = self.documents[id(version.before)].digest
        document["parties"]["hospital"]["keys"] = {"main": self.keys[f"hospital#{version.hospital}"].public.text}
        document["jobs"]["train"]["limits"]["runs"] = version.runs
        made = self.documents[id(version)] = agreement_from_json(document)
        envelope = agreement_envelope(made)
        key = self.keys["startup"]
        envelope = envelope.with_signature(key.public, key.sign(envelope.signing_bytes()))
        self.links["startup"].call("POST", "/v1/agreements", AgreementView, ProposeAgreement(agreement=envelope))

    def vote(self, version: Version, key: str) -> None:
        agreement = self.documents[id(version)]
        again = self.taken.get((id(version), key), 0)
        made = signed("Approval", approval(agreement, key.partition("#")[0], agreement.ends + again), self.keys[key])
        where = f"/v1/agreements/{quote(agreement.digest)}/approvals"
        message = ApproveAgreement(approval=made)
        code = self.model.vote(version, key)
        assert refusals(lambda: self.links[key].call("POST", where, AgreementView, message)) == (
            {code} if code else set()
        )
        if not code:
            self.given.setdefault((id(version), key), []).append(made)
            view = self.links["startup"].call("GET", f"/v1/agreements/{quote(agreement.digest)}", AgreementView)
            assert view.state == version.state
            open_ = set().union(*version.open())
            assert bool(view.missing) == bool(open_)
            assert set(view.missing) <= open_

    def proposals(self) -> list[Version]:
        return [version for version in self.model.versions if version.state == "proposed"]

    @precondition(lambda self: len(self.proposals()) < MAX_OPEN)
    @rule(runs=st.integers(1, 6), rotate=st.integers(0, 3))
    def propose(self, runs: int, rotate: int) -> None:
        """The startup proposes another number of runs; now and then with another key of the hospital's."""
        self.propose_one(runs, rotate=rotate == 0)

    def propose_one(self, runs: int, *, rotate: bool) -> None:
        before = self.model.newest
        hospital = before.hospital
        if rotate:
            hospital = len([key for key in self.keys if key.startswith("hospital#")])
            key = self.keys[f"hospital#{hospital}"] = SigningKey.generate()
            self.links[f"hospital#{hospital}"] = self.own.world.party(key)
        made = Version(before.number + 1, runs, hospital, before)
        if any(
            (made.runs, made.hospital) == (one.runs, one.hospital) for one in self.proposals() if one.before is before
        ):
            return  # the very document again
        self.model.versions.append(made)
        self.send(made)

    @precondition(lambda self: self.proposals())
    @rule(which=st.integers(0, MAX_OPEN), party=parties, old=st.booleans())
    def approve(self, which: int, party: str, old: bool) -> None:
        """By the key that the proposal names, or by the one that it replaces."""
        version = self.proposals()[which % len(self.proposals())]
        assert version.before is not None
        self.vote(version, (version.before if old else version).key(party))

    @precondition(lambda self: self.proposals())
    @rule(which=st.integers(0, MAX_OPEN), left_out=st.sampled_from((*PARTIES, "")))
    def approve_by_the_others(self, which: int, left_out: str) -> None:
        """All parties but one, or all of them, one after the other; seldom of a proposal that another one made void."""
        found = [version for version in self.proposals() if which == 0 or version.before is self.model.newest]
        if not found:
            return
        version = found[which % len(found)]
        for party in PARTIES:
            if party != left_out:
                self.vote(version, version.key(party))

    @precondition(lambda self: self.given)
    @rule(which=st.integers(0, 50), pending=st.booleans())
    def withdraw(self, which: int, pending: bool) -> None:
        """A key takes back all that it said of a version; once in force it cannot."""
        live = {id(version): version for version in self.model.versions}
        known = [
            (version, key)
            for version, key in self.given
            if version in live and (not pending or live[version].state == "proposed")
        ]
        if not known:
            return
        number, key = known[which % len(known)]
        self.take_back(live[number], key)

    def take_back(self, version: Version, key: str) -> None:
        if (id(version), key) not in self.given:
            return  # it was refused, or voted for a version that follows none in force
        number, agreement = id(version), self.documents[id(version)]
        body = withdrawal(agreement, key.partition("#")[0], {one.digest for one in self.given[number, key]})
        message = WithdrawApproval(withdrawal=signed("Withdrawal", body, self.keys[key]))
        where = f"/v1/agreements/{quote(agreement.digest)}/withdrawals"
        wanted = set() if version.state == "proposed" else {"already_in_force"}
        assert refusals(lambda: self.links["startup"].call("POST", where, AgreementView, message)) == wanted
        if not wanted:
            version.votes.discard(key)
            del self.given[number, key]
            self.taken[number, key] = self.taken.get((number, key), 0) + 1

    @precondition(lambda self: len(self.proposals()) < MAX_OPEN)
    @rule(party=parties, less=st.booleans())
    def one_alone(self, party: str, less: bool) -> None:
        """Proposes one run less or more, and is the first to agree."""
        runs = self.model.newest.runs + (-1 if less else 1)
        if runs >= 1:
            self.propose_one(runs, rotate=False)
            found = [one for one in self.proposals() if one.before is self.model.newest and one.runs == runs]
            self.vote(found[-1], found[-1].key(party))

    @precondition(lambda self: len(self.proposals()) < MAX_OPEN)
    @rule(party=parties)
    def thinks_better_of_it(self, party: str) -> None:
        """One run more, which all must approve: one does, takes it back, and all the others agree."""
        self.propose_one(self.model.newest.runs + 1, rotate=False)
        version = self.proposals()[-1]
        self.vote(version, version.key(party))
        self.take_back(version, version.key(party))
        for other in PARTIES:
            if other != party:
                self.vote(version, version.key(other))

    # Owners

    @rule(asset=assets, runs=st.integers(0, 2))
    def a_few_more(self, asset: str, runs: int) -> None:
        """An owner allows so many more runs; they are tried, and one more."""
        self.add_condition(asset, "few", runs)
        for _ in range(runs + 1):
            self.start()

    def owner(self, asset: str) -> tuple[str, Connection, SigningKey]:
        key = self.model.newest.key(OWNERS[asset])
        return key, self.links[key], self.keys[key]

    @rule(what=st.integers(0, 9), asset=assets, name=names, runs=st.one_of(st.none(), st.integers(0, 4)))
    def owner_says(self, what: int, asset: str, name: str, runs: int | None) -> None:
        """An owner, of its own asset; more often it lets go than not, so that there are runs."""
        if what < 1:
            self.suspend(asset, lift=False)
        elif what < 5:
            self.suspend(min(self.model.suspended, default=asset), lift=True)
        elif what < 6:
            self.add_condition(asset, name, runs)
        elif what < 9:
            self.drop_condition(*min(self.model.conditions, default=(asset, name)))
        else:
            self.others_change_nothing(asset)

    def suspend(self, asset: str, lift: bool) -> None:
        """By the owner's key of today; twice the same is out of order."""
        key, link, _ = self.owner(asset)
        self.own.agreement, self.own.party = self.documents[id(self.model.newest)], {OWNERS[asset]: link}
        self.own.keys = {OWNERS[asset]: self.keys[key]}
        wanted = set() if (asset in self.model.suspended) == lift else {"change_out_of_order"}
        assert refusals(lambda: self.own.suspend(asset, OWNERS[asset], lift=lift)) == wanted
        if not wanted:
            (self.model.suspended.discard if lift else self.model.suspended.add)(asset)

    def add_condition(self, asset: str, name: str, runs: int | None) -> None:
        """So many more runs, or none; a name that is taken is out of order."""
        form = {"until": LAST_YEAR} if runs is None else {"runs": runs}
        wanted = {"change_out_of_order"} if (asset, name) in self.model.conditions else set()
        assert self.condition(asset, "add", name, form) == wanted
        if not wanted:
            self.model.conditions[asset, name] = Condition(runs)

    def drop_condition(self, asset: str, name: str) -> None:
        """By the owner's board, which is its one key."""
        wanted = set() if (asset, name) in self.model.conditions else {"change_out_of_order"}
        assert self.condition(asset, "drop", name, None) == wanted
        self.model.conditions.pop((asset, name), None)

    def condition(self, asset: str, action: str, name: str, form: Any) -> set[str]:
        _, link, key = self.owner(asset)
        agreement = self.documents[id(self.model.newest)]
        head = link.call("GET", f"/v1/conditions?subject={agreement.assets[asset].digest}", ConditionList).head
        body = condition_change(agreement, asset, action, name, form, head)
        message = ChangeCondition(change=signed("Condition", body, key))
        return refusals(lambda: link.call("POST", "/v1/conditions", ConditionList, message))

    def others_change_nothing(self, asset: str) -> None:
        """A key that is not the owner's, the hospital's former one included, neither stops nor frees what is not its own."""
        agreement = self.documents[id(self.model.newest)]
        former = [f"hospital#{old}" for old in range(self.model.newest.hospital)]
        for key in ("clinic", *former[-1:]):
            body = condition_change(agreement, asset, "add", "loot", {"runs": 0}, "")
            message = ChangeCondition(change=signed("Condition", body, self.keys[key]))
            found = refusals(
                lambda key=key, message=message: self.links[key].call("POST", "/v1/conditions", ConditionList, message)
            )
            assert found & {"not_entitled", "bad_signature", "change_out_of_order"}
            assert found != {"change_out_of_order"} or key == "clinic"

    # Runs

    @precondition(lambda self: sum(run.state == "queued" for run in self.model.runs.values()) < MAX_OPEN)
    @rule(which=st.integers(0, 5))
    def submit(self, which: int) -> None:
        """Under some version that there is."""
        live = [version for version in self.model.versions if version.state != "superseded" or which % 3 == 0]
        self.submit_under(live[which % len(live)])

    def submit_under(self, version: Version) -> None:
        self.own.agreement = self.documents[id(version)]
        self.own.keys, self.own.party = self.keys, self.links
        wanted, made = self.model.reasons(version, first=True), []
        assert refusals(lambda: made.append(self.own.submit())) == wanted
        if not wanted:
            self.model.runs[made[0].run] = Run(version)

    @rule()
    def start(self) -> None:
        """A run under the newest version, from the request to the keys, if it may."""
        self.submit_under(self.model.newest)
        if any(run.state == "queued" for run in self.model.runs.values()):
            self.release_some(-1)

    def some(self, state: str, which: int) -> str:
        found = [name for name, run in self.model.runs.items() if run.state == state]
        return found[which % len(found)]

    @precondition(lambda self: any(run.state == "queued" for run in self.model.runs.values()))
    @rule(which=st.integers(0, MAX_OPEN))
    def release(self, which: int) -> None:
        """A host asks for the keys of a run that waits."""
        self.release_some(which)

    def release_some(self, which: int) -> None:
        name = self.some("queued", which)
        run = self.model.runs[name]
        self.own.agreement = self.documents[id(run.version)]
        wanted, made = self.model.release(run), []
        assert refusals(lambda: made.append(self.own.release(name))) == wanted
        if not wanted:
            self.sessions[name] = made[0][0]

    @precondition(lambda self: any(run.state == "running" for run in self.model.runs.values()))
    @rule(which=st.integers(0, 9), finish=st.booleans())
    def go_on(self, which: int, finish: bool) -> None:
        """A host renews its lease, or says that the job is done."""
        name = self.some("running", which)
        run, session = self.model.runs[name], self.sessions[name]
        wanted = self.model.go_on(run, "failed" if finish else "")
        do = (lambda: session.finish({}, error="code_failed")) if finish else session.renew
        assert refusals(do) == wanted
        if run.state != "running":
            self.sessions.pop(name).close()

    # The manager itself

    @rule(which=st.integers(0, 30))
    def look(self, which: int) -> None:
        """The manager tells of each run what the model knows; now and then it stops and starts before, is copied, or is lost and brought back."""
        if which < 3:
            (self.own.world.restart, self.save, self.bring_back)[which]()
        for name, run in self.model.runs.items():
            assert self.links["clinic"].call("GET", f"/v1/runs/{name}", RunView).state == run.state

    def save(self) -> None:
        """A backup, while it runs."""
        path = self.scratch / os.urandom(6).hex()
        backup(self.own.world.folder, path)
        self.saved = (path, copy.deepcopy(self.model), self.documents_by_version(), self.given_by_version())

    def documents_by_version(self) -> list[Agreement]:
        return [self.documents[id(version)] for version in self.model.versions]

    def given_by_version(self) -> list[Given]:
        """Of each version, by key, what was given, and how often it was taken back."""
        return [
            {
                key: (list(self.given.get((id(version), key), [])), self.taken.get((id(version), key), 0))
                for number, key in {*self.given, *self.taken}
                if number == id(version)
            }
            for version in self.model.versions
        ]

    def bring_back(self) -> None:
        """The manager is lost, and brought back from the backup: all is as it was then, but for the leases, which are over."""
        if self.saved is None:
            return
        path, saved, documents, given = self.saved
        model = copy.deepcopy(saved)
        world = self.own.world
        world.stop()
        shutil.rmtree(world.folder)
        restore(path, world.folder)
        setup.admit(world.folder, [key.public.text for key in self.keys.values()])
        world.start()
        for session in self.sessions.values():
            session.close()
        self.sessions.clear()
        self.model = model
        self.documents = {id(v): d for v, d in zip(model.versions, documents, strict=True)}
        self.given = {
            (id(v), key): one[0]
            for v, found in zip(model.versions, given, strict=True)
            for key, one in found.items()
            if one[0]
        }
        self.taken = {
            (id(v), key): one[1]
            for v, found in zip(model.versions, given, strict=True)
            for key, one in found.items()
            if one[1]
        }
        for run in model.runs.values():
            run.state = "lost" if run.state == "running" else run.state

    def teardown(self) -> None:
        """The audit of a party, made of nothing but signed documents, comes to the same end."""
        if not hasattr(self, "model"):
            return
        for session in self.sessions.values():
            session.close()
        home = Home(self.scratch / os.urandom(6).hex())
        home.folder.mkdir()
        digests = [self.documents[id(version)].digest for version in self.model.versions]
        target = self.scratch / (os.urandom(6).hex() + ".zip")
        export(self.links["cloud"], home, digests, target)
        report = verify_export(target, PublicKey(self.own.world.pin.identity))
        target.unlink()
        assert report.counts["releases"] >= self.model.used
        assert report.counts["runs"] == len(self.model.runs)
