"""Replaying a ledger, second part: runs, leases, receipts and outputs, each decided again by the very rules that decided it.

What needs a host's evidence is not decided again: the ledger holds what the manager concluded, and claims, not the evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from perunml.agreements import flows
from perunml.agreements.jobs import AnyJob, TrainingJob
from perunml.agreements.profiles import alternatives
from perunml.agreements.schema import Agreement
from perunml.ledger.entries import OpenedEntry
from perunml.release import conditions, rules
from perunml.release.decide import decide_submission
from perunml.release.hosts import achieved, machines_of
from perunml.release.outputs import check_output_approval, decide_output
from perunml.release.replay_agreements import Agreements, Handler, text, wrong
from perunml.release.replay_receipts import Ended, check_receipt
from perunml.release.types import CHECKPOINT, Purpose, Refusal, RegisteredOutput, Run, State, Usage
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError
from perunml.wire.identity import PublicKey
from perunml.wire.rules import Reason
from perunml.wire.timestamps import format_time

LEASE_SLACK = 60
"""Seconds past a lease's end that an entry's time may be: the lease counts from the decision and on another clock, and who decides may have
waited in the manager's queue after the time was taken."""
_REQUEST = {"apiVersion", "kind", "manager", "agreement", "job", "parameters", "assets", "id"}


@dataclass(slots=True)
class _Lease:
    id: str
    machine: str
    assets: Mapping[str, Any]
    verdict: Mapping[str, Any]
    since: int
    renewed: bool = False
    at: int = 0
    until: int | None = None


@dataclass(slots=True)
class _Asked:
    """A run as its requester signed it, and what became of it."""

    agreement: str
    job: str
    parameters: Mapping[str, Any]
    assets: Mapping[str, str]
    released: int = 0
    lease: _Lease | None = None
    over: str = ""
    checkpoint: tuple[int, str] = (0, "")  # the last one's number and digest
    counted: list[str] = field(default_factory=list)


class Runs:
    """What ran. `counts` tells people how much of what was checked; `released` by agreement the entries under which keys left, and their times."""

    def __init__(self, agreements: Agreements, receipts: Mapping[str, Envelope], manager: PublicKey) -> None:
        self._agreements, self._receipts, self._manager = agreements, receipts, manager
        self._runs: dict[str, _Asked] = {}
        self._used: dict[tuple[str, str], int] = {}
        self._outputs: dict[tuple[str, str], RegisteredOutput] = {}  # by line of agreements, and asset
        self._approvals: dict[str, list[Envelope]] = {}
        self._epochs: dict[str, int] = {}
        self.released: dict[str, dict[int, int]] = {}
        self.counts = {"runs": 0, "releases": 0, "renewals": 0, "receipts": 0, "outputs": 0, "cosigned": 0}

    def handlers(self) -> dict[str, Handler]:
        """By an entry's type."""
        return {
            "run": self._asked,
            "release": self._released,
            "renewal": self._renewed,
            "lease-end": self._ended,
            "checkpoint": self._checkpointed,
            "finished": self._finished,
            "failed": self._finished,
            "output-approval": self._output_approved,
            "output-release": self._output_released,
            "epoch": self._began_anew,
        }

    def _asked(self, item: OpenedEntry) -> None:
        entry, agreement = item.entry, self._agreements.of(item)
        party = text(item, "party")
        if entry.subject in self._runs or party not in agreement.parties:
            raise wrong(item, "a second run of this id, or one of no party", seen=party)
        keys = [PublicKey(key) for key in agreement.parties[party].keys.values()]
        (envelope, *_) = self._agreements.found(item, "request", text(item, "request"))
        body = envelope.open("RunRequest", keys)
        wanted = {
            "manager": self._manager.text,
            "agreement": entry.agreement,
            "id": entry.subject,
            "job": text(item, "job"),
        }
        for name, value in wanted.items():
            if body.get(name) != value:
                raise wrong(item, f"the request is for another {name}", value, str(body.get(name)))
        if set(body) != _REQUEST or not isinstance(body["parameters"], dict) or not isinstance(body["assets"], dict):
            raise wrong(item, "not a run's request")
        made = _Asked(entry.agreement, body["job"], body["parameters"], body["assets"])
        self._runs[entry.subject] = made
        self._allowed(item, made, agreement, "release")
        self.counts["runs"] += 1

    def _released(self, item: OpenedEntry) -> None:
        run, agreement = self._run(item), self._agreements.of(item)
        if run.lease is not None or run.over:
            raise wrong(item, "keys went out twice at once, or after the end", seen=run.over or "another lease holds")
        body, verdict = item.entry.body, item.entry.body.get("verdict")
        if text(item, "job") != run.job or not isinstance(verdict, dict) or not isinstance(body.get("assets"), dict):
            raise wrong(item, "not a release of this run")
        state = self._allowed(item, run, agreement, "release")
        self._host(item, agreement, run.job, verdict)
        self._owners(item, agreement, run.job, state, text(item, "machine"), str(verdict.get("profile")))
        self._granted(item, agreement, run, body["assets"])
        job = agreement.jobs[run.job]
        if isinstance(job, TrainingJob) and run.released == 0:
            self._count(agreement, run, state)
        run.released += 1
        run.lease = _Lease(text(item, "lease"), text(item, "machine"), body["assets"], verdict, item.entry.time)
        self.released.setdefault(item.entry.agreement, {})[item.index] = item.entry.time
        run.lease.at = item.index
        run.lease.until = _until(item, job)
        self.counts["releases"] += 1

    def _renewed(self, item: OpenedEntry) -> None:
        run = self._run(item)
        lease = self._lease(item, run, text(item, "lease"))
        agreement = self._goes_on(item, run, lease, "renew")
        lease.renewed = True
        lease.until = None if agreement is None else _until(item, agreement.jobs[run.job])
        self.counts["renewals"] += 1

    def _ended(self, item: OpenedEntry) -> None:
        run = self._runs.get(text(item, "run"))
        if run is None or run.agreement != item.entry.agreement:
            raise wrong(item, "its run was not asked for under this agreement")
        lease = self._lease(item, run, item.entry.subject)
        if item.entry.body.get("withheld"):
            if lease.renewed:
                raise wrong(item, "a release is called withheld whose keys were used")
            run.released -= 1
            del self.released[run.agreement][lease.at]
            self._agreements.unchecked["whether releases that the manager calls withheld ever left it"] = None
            if run.released == 0:
                self._uncount(run)
        run.lease = None

    def _checkpointed(self, item: OpenedEntry) -> None:
        run, number = self._run(item), item.entry.body.get("number")
        lease = self._lease(item, run, text(item, "lease"))
        agreement = self._goes_on(item, run, lease, "renew") or self._agreements.of(item)
        job = agreement.jobs[run.job]
        if not isinstance(job, TrainingJob) or job.checkpoints is None:
            raise wrong(item, "a checkpoint where the agreement allows none")
        if type(number) is not int or number <= run.checkpoint[0]:
            raise wrong(item, "checkpoints are not numbered upwards", f"above {run.checkpoint[0]}", str(number))
        run.checkpoint = (number, text(item, "asset"))

    def _finished(self, item: OpenedEntry) -> None:
        entry, run = item.entry, self._run(item)
        lease = self._lease(item, run, text(item, "lease"))
        self._goes_on(item, run, lease, "finish")
        outputs = entry.body.get("outputs")
        # By the run's own version, under which it got its outputs' keys: what a later one took away is made, and never released.
        job = self._agreements.of(item).jobs[run.job]
        declared = job.outputs if isinstance(job, TrainingJob) else {}
        if entry.type == "failed":  # of which only its log may leave
            declared = {name: output for name, output in declared.items() if output.level == "full"}
        if not isinstance(outputs, dict) or not set(outputs) <= set(declared):
            raise wrong(item, "outputs that the agreement does not declare", ", ".join(declared), str(outputs))
        for name, asset in outputs.items():
            made = RegisteredOutput(entry.subject, run.job, name, asset)
            self._outputs[self._agreements.line(run.agreement), asset] = made
        ran = Ended(run.agreement, run.job, run.parameters, lease.assets, lease.machine, lease.verdict, outputs)
        check_receipt(item, ran, self._receipts.get(entry.subject), self._manager)
        self.counts["receipts"] += 1
        run.lease, run.over = None, entry.type
        self.counts["outputs"] += len(outputs)

    def _output_approved(self, item: OpenedEntry) -> None:
        output = self.output(item)
        if output is None:
            return
        for envelope in self._agreements.found(item, "output approval", text(item, "approval")):
            party, names = check_output_approval(self._agreements.of(item), envelope, output)
            if (party, sorted(names)) == (text(item, "party"), item.entry.body.get("keys")):
                self._approvals.setdefault(output.asset, []).append(envelope)
                return
        raise wrong(item, "the approval is not signed by whom it says")

    def _output_released(self, item: OpenedEntry) -> None:
        output, agreement, now = self.output(item), self._agreements.of(item), item.entry.time
        if output is None:
            return
        if (text(item, "run"), text(item, "output")) != (output.run, output.name):
            raise wrong(item, "another run's output", f"{output.name} of {output.run}")
        decided = decide_output(
            agreement,
            state=self._agreements.state(agreement, now),
            output=output,
            recipient=text(item, "party"),
            approvals=self._approvals.get(output.asset, ()),
            now=now,
        )
        if isinstance(decided, Refusal):
            raise _refused(item, decided.reasons)
        self.released.setdefault(agreement.digest, {})[item.index] = now

    def _began_anew(self, item: OpenedEntry) -> None:
        """A manager that was restored: it has ended every lease before it goes on."""
        agreement, epoch = item.entry.agreement, item.entry.body.get("epoch")
        if type(epoch) is not int or epoch <= self._epochs.get(agreement, 1):
            raise wrong(item, "epochs do not rise", f"above {self._epochs.get(agreement, 1)}", str(epoch))
        held = [name for name, run in self._runs.items() if run.agreement == agreement and run.lease is not None]
        if held:
            raise wrong(item, "leases go on from the epoch before", "none", ", ".join(held))
        self._epochs[agreement] = epoch
        told = f"what the manager did between its backup and entry {item.index}, where it began as a restored copy"
        self._agreements.unchecked[told] = None

    def recovered(self, item: OpenedEntry, output: RegisteredOutput) -> None:
        """An output of a lost manager's run is this agreement's from now on."""
        line, known = self._agreements.line(item.entry.agreement), self._runs.get(output.run)
        if known is not None and (known.over != "recovered" or self._agreements.line(known.agreement) != line):
            raise wrong(item, "a run of this id is known already", seen=output.run)
        self._runs[output.run] = known or _Asked(item.entry.agreement, output.job, {}, {}, over="recovered")
        if (line, output.asset) in self._outputs:
            raise wrong(item, "the output is there already", seen=output.asset)
        self._outputs[line, output.asset] = output
        self.counts["outputs"] += 1

    # Parts

    def _run(self, item: OpenedEntry) -> _Asked:
        found = self._runs.get(item.entry.subject)
        if found is None or found.agreement != item.entry.agreement:
            raise wrong(item, "its run was not asked for under this agreement")
        return found

    def _lease(self, item: OpenedEntry, run: _Asked, lease: str) -> _Lease:
        if run.lease is None or run.lease.id != lease:
            raise wrong(item, "the run does not hold this lease", run.lease.id if run.lease else "none", lease)
        return run.lease

    def output(self, item: OpenedEntry) -> RegisteredOutput | None:
        """None: made under an earlier version, which this party is not shown."""
        found = self._outputs.get((self._agreements.line(item.entry.agreement), item.entry.subject))
        if found is None and self._unrooted(item, item.entry.subject):
            return None
        if found is None or not self._same_line(item, found):
            raise wrong(item, "no finished run of this agreement made this output")
        return found

    def _same_line(self, item: OpenedEntry, output: RegisteredOutput) -> bool:
        """A party may be in several agreements whose jobs have the same names."""
        line = self._agreements.line
        return line(self._runs[output.run].agreement) == line(item.entry.agreement)

    def _unrooted(self, item: OpenedEntry, asset: str) -> bool:
        if self._agreements.rooted(item.entry.agreement):
            return False
        self._agreements.unchecked[f"which run made {asset}: earlier versions are not shown"] = None
        return True

    def _goes_on(self, item: OpenedEntry, run: _Asked, lease: _Lease, purpose: Purpose) -> Agreement | None:
        """Whether the version in force allowed it, and which that is; None when this party is not shown it."""
        agreement = self._agreements.newest(run.agreement)
        if lease.until is not None and item.entry.time > lease.until:
            raise wrong(item, "its lease had ended", format_time(lease.until), format_time(item.entry.time))
        if agreement is not None:
            state = self._allowed(item, run, agreement, purpose)
            self._owners(item, agreement, run.job, state, lease.machine, str(lease.verdict.get("profile")))
        return agreement

    def _allowed(self, item: OpenedEntry, run: _Asked, agreement: Agreement, purpose: Purpose) -> State:
        """Every rule that needs no host, as it stood then."""
        now = item.entry.time
        # Asking releases nothing, and a manager tells who only names another's asset in an agreement of his own nothing of what stops it:
        # an auditor who is in both agreements knows more than it may say. Releases are held against all that is known.
        state = self._agreements.state(agreement, now, told=item.entry.type == "run")
        line = self._agreements.line(agreement.digest)
        used = {name: self._used.get((line, name), 0) for name in agreement.jobs if agreement.training(name)}
        started = run.lease.since if run.lease else None
        usage = Usage(used, run.released, started, conditions=self._agreements.added)
        pinned = run.assets if purpose == "release" else {}
        asked = Run(agreement.digest, run.job, item.entry.subject, run.parameters, pinned, purpose)
        reasons = list(decide_submission(agreement, state=state, run=asked, usage=usage, now=now))
        job = agreement.jobs.get(run.job)
        if isinstance(job, TrainingJob):
            most = conditions.shortest(conditions.live(agreement, run.job, state), "wall", job.limits.wall)
            reasons += rules.within_wall(asked, job, usage, now, most)
        if reasons:
            raise _refused(item, tuple(reasons))
        return state

    def _host(self, item: OpenedEntry, agreement: Agreement, job: str, verdict: Mapping[str, Any]) -> None:
        """What the manager says that the host proved is what the role asks for, on a machine that it names."""
        role, machine = agreement.hosts[agreement.jobs[job].hosts], text(item, "machine")
        profile = str(verdict.get("profile"))
        met = [found for found in alternatives(role) if achieved(found, profile, str(verdict.get("imitates")))]
        if not met or verdict.get("simulated") is not (profile == "simulated"):
            expected = " or ".join(found.profile for found in alternatives(role))
            raise wrong(item, "the host proved another profile than was agreed", expected, profile)
        named = [{part for listed in machines_of(found) for one in listed for part in one.split("+")} for found in met]
        if not any(not one or machine in one for one in named):
            raise wrong(
                item, "the agreement does not name this machine", ", ".join(sorted(set().union(*named))), machine
            )

    def _owners(
        self, item: OpenedEntry, agreement: Agreement, job: str, state: State, machine: str, profile: str
    ) -> None:
        """Owners' conditions on hosts, as far as this party knows them."""
        for condition in conditions.live(agreement, job, state):
            machines, profiles = condition.form.machines, condition.form.profiles
            if machines is not None and not any(machine in named.split("+") for named in machines):
                raise wrong(
                    item, f"the condition {condition.name} does not name this machine", ", ".join(machines), machine
                )
            if profiles is not None and not set(profile.split("+")) <= set(profiles):
                raise wrong(item, f"the condition {condition.name} wants another profile", ", ".join(profiles), profile)

    def _granted(self, item: OpenedEntry, agreement: Agreement, run: _Asked, given: Mapping[str, Any]) -> None:
        """The keys were those of the agreed assets, or of outputs of finished runs, and of the run's own last checkpoint."""
        job, assets = run.job, {name: asset for name, asset in given.items() if name != CHECKPOINT}
        if given.get(CHECKPOINT, run.checkpoint[1]) != run.checkpoint[1]:
            raise wrong(item, "not the run's last checkpoint", run.checkpoint[1], str(given[CHECKPOINT]))
        for ref in flows.sources(agreement.jobs[job]):
            found = assets.get(_input(agreement, job, ref))
            split = flows.split_ref(ref)
            if split is None and found != agreement.assets[ref].digest:
                raise wrong(item, f"{ref} is not the one agreed", agreement.assets[ref].digest, str(found))
            if split is not None:
                made = self._outputs.get((self._agreements.line(agreement.digest), str(found)))
                if made is None and self._unrooted(item, str(found)):
                    continue
                if made is None or (made.job, made.name) != split or not self._same_line(item, made):
                    raise wrong(item, f"{ref} is no output of a finished run", ref, str(found))
        if len(assets) != len(list(flows.sources(agreement.jobs[job]))):
            raise wrong(item, "keys of more assets than were agreed", seen=", ".join(assets))

    def _count(self, agreement: Agreement, run: _Asked, state: State) -> None:
        key = (self._agreements.line(agreement.digest), run.job)
        self._used[key] = self._used.get(key, 0) + 1
        reach = flows.ancestors(agreement, run.job) & set(state.conditions)
        run.counted = [found.digest for name in sorted(reach) for found in state.conditions[name]]
        for digest in run.counted:
            self._agreements.added[digest] += 1

    def _uncount(self, run: _Asked) -> None:
        key = (self._agreements.line(run.agreement), run.job)
        if key in self._used:
            self._used[key] -= 1
        for digest in run.counted:
            self._agreements.added[digest] -= 1
        run.counted = []


def _until(item: OpenedEntry, job: AnyJob) -> int:
    """When a lease that begins or goes on here is surely over."""
    return item.entry.time + job.lease + LEASE_SLACK


def _input(agreement: Agreement, job: str, ref: str) -> str:
    """Under which name a release grants what the job reads."""
    found = agreement.jobs[job]
    if not isinstance(found, TrainingJob):
        return "model"
    return "code" if ref == found.code else ref


def _refused(item: OpenedEntry, reasons: tuple[Reason, ...]) -> PerunError:
    said = "; ".join(f"{reason.code}: {reason.message}" for reason in reasons)
    first = reasons[0]
    return wrong(item, f"the agreement did not allow it then: {said}", first.expected, first.seen)
