"""Many small agreements that differ in some of these places, and many things that somebody may want of them.

Two groups that share nothing but a host's role and a witness list: the hospital's training and service, and a job that is the clinic's
alone.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agreements.sample import DROP, MACHINE, document, edit, key, receiving, sha
from perunml.agreements.document import agreement_from_json
from perunml.agreements.schema import Agreement
from perunml.evidence.types import Appraisal
from perunml.release.decide import decide
from perunml.release.outputs import decide_output, output_approval
from perunml.release.types import OutputRelease, RegisteredOutput, Release, Run, State, Usage
from perunml.testing.appraisals import appraisal
from perunml.wire.dsse import Envelope, unsigned
from perunml.wire.timestamps import format_time

NOW = 1_800_000_000
SOON, LATE = NOW + 1000, NOW + 100_000
OTHER = "ek:" + sha("d")
_MEASURED = {"profile": "measured", "baseline": sha("c"), "machines": [MACHINE, OTHER]}
_SIMULATED = {"profile": "simulated", "imitates": "tee"}
_FREE = {"profile": "simulated", "imitates": "tee", "machines": [MACHINE]}

AXES: dict[str, list[Any]] = {
    "assets/scans/digest": [sha("a"), sha("9")],
    "hosts/trainer": [
        _MEASURED,
        {**_MEASURED, "machines": [MACHINE]},
        {**_MEASURED, "baseline": sha("9")},
        {"any_of": [_MEASURED, _SIMULATED]},
        {"any_of": [{**_MEASURED, "machines": [MACHINE]}, _FREE]},
        {**_MEASURED, "min_driver": "550.1"},
    ],
    "jobs/train/inputs": [{"scans": "/in/scans"}, {"scans": "/in/scans", "more": "/in/more"}, {"scans": "/in/other"}],
    "jobs/train/operator": ["gpu-cloud", "clinic"],
    "jobs/train/limits/runs": [1, 2, 3],
    "jobs/train/limits/until": [format_time(time) for time in (SOON, LATE)],
    "jobs/train/limits/wall": ["1h", "8h"],
    "jobs/train/limits/resumes": [0, 1, 2],
    "jobs/train/lease": ["20s", "30s"],
    "jobs/train/tenancy": ["exclusive", "shared"],
    "jobs/train/parameters/epochs": [
        {"max": 50},
        {"max": 10},
        {"value": 5},
        {"in": [5, 6]},
        {"min": 5, "max": 10},
        {"min": 4.5, "max": 10},
        {"max": 10, "type": "number"},
    ],
    "jobs/train/combinations": [DROP, [{"epochs": 5}], [{"epochs": 5}, {"epochs": 5.0}]],
    "jobs/train/parameters/debug": [DROP, {"value": 1}, {"value": True}, {"in": [1, True]}, {"in": [True]}],
    "jobs/train/outputs/model/to": ["acme", ["acme", "st-vitus"], "st-vitus"],
    "jobs/train/outputs/model/max_size": ["1MiB", "2MiB"],
    "jobs/train/outputs/model/release": [
        DROP,
        {"approve": ["st-vitus"]},
        {"approve": ["acme"]},
        {"approve": ["acme", "st-vitus"]},
    ],
    "jobs/train/outputs/metrics": [
        DROP,
        {"to": "acme", "fields": ["loss"]},
        {"to": "acme", "fields": ["loss", "dice"]},
    ],
    "jobs/serve/clients": [["clinic"], ["clinic", "acme"]],
    "jobs/serve/limits/requests": ["10/day", "20/day", "10/hour"],
    "jobs/serve/limits/until": [format_time(time) for time in (SOON, LATE)],
    "jobs/own/limits/until": [format_time(time) for time in (SOON, LATE)],
    "jobs/own/limits/runs": [1, 2],
    "jobs/own/outputs/result/to": ["clinic", ["clinic", "acme"]],
    "witnesses/at_least": [1, 2],
}
"""Places of the document, and what may stand there; the first is the least."""
Point = tuple[int, ...]
ORIGIN: Point = (0,) * len(AXES)


def _base() -> dict[str, Any]:
    made = document()
    made["parties"]["clinic"]["receive"] = receiving("clinic").public.text
    made["assets"]["more"] = {"kind": "dataset", "owner": "clinic", "digest": sha("1")}
    made["assets"]["tool"] = {"kind": "code", "owner": "clinic", "digest": sha("2"), "entry": "tool.py"}
    made["jobs"]["train"]["parameters"] = {}
    made["jobs"]["own"] = {
        "code": "tool",
        "inputs": {"more": "/in/more"},
        "hosts": "trainer",
        "operator": "clinic",
        "limits": {"runs": 1, "until": format_time(SOON), "wall": "1h"},
        "outputs": {"result": {"to": "clinic", "format": "json", "max_size": "1KiB"}},
    }
    return made


@functools.lru_cache(maxsize=4096)
def version(point: Point, before: str = "") -> Agreement:
    """The agreement at this point; as what follows `before`, a digest."""
    made = _base()
    for path, values, place in zip(AXES, AXES.values(), point, strict=True):
        if values[place] is not DROP:
            edit(made, path, values[place])
        elif path.rpartition("/")[2] in _at(made, path):
            edit(made, path, DROP)
    if before:
        made["metadata"] = {**made["metadata"], "version": 2, "predecessor": before}
    return agreement_from_json(made)


def _at(made: Any, path: str) -> Any:
    for step in path.split("/")[:-1]:
        made = made[step]
    return made


# --- what somebody may want -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """A run, as a host asks for its keys. A cold one shows nothing wrong but what it is about."""

    job: str
    parameters: Mapping[str, Any]
    machine: str
    simulated: bool
    baseline: str
    operator: str
    usage: Usage
    purpose: Any
    now: int

    def under(self, agreement: Agreement) -> Release | None:
        usage = replace(self.usage, runs={**Usage.none(agreement).runs, **self.usage.runs})
        run = Run(
            agreement.digest,
            self.job,
            "00" * 16,
            self.parameters,
            {},
            self.purpose,
            bytes(48),
            key(self.operator).public.text,
        )
        found = decide(agreement, state=STATE, run=run, appraisal=self._judged(), usage=usage, now=self.now)
        return found if isinstance(found, Release) else None

    def _judged(self) -> Appraisal:
        how = {"profile": "simulated", "imitates": "tee"} if self.simulated else {"profile": "measured", "imitates": ""}
        return appraisal(machine=self.machine, baseline=self.baseline, binding=bytes(48), **how)


STATE = State(True, {}, frozenset(), cosigned=True)
_PARAMETERS = (
    {"epochs": 5},
    {"epochs": 5.5},
    {"epochs": 11},
    {"epochs": 6, "debug": 1},
    {"epochs": 5, "debug": True},
    {"debug": True},
    {},
)
_USAGE = (
    ("release", {}),
    ("release", {"runs": {"train": 1, "own": 1}}),
    ("release", {"runs": {"train": 2}}),
    ("release", {"resumes": 1, "started": NOW}),
    ("release", {"resumes": 2, "started": NOW}),
    ("release", {"other_agreement_this_boot": sha("3"), "other_agreement_shares": True}),
    ("renew", {"started": NOW - 3601}),
    ("finish", {"started": NOW - 3625}),
)


def wishes() -> Iterator[Wish]:
    """A run of each kind that some version allows, varied in one place or two."""
    usual = Wish("train", {"epochs": 5}, MACHINE, False, sha("c"), "gpu-cloud/ops", Usage({}), "release", NOW)
    hosts = [
        (machine, *shown, operator)
        for machine in (MACHINE, OTHER)
        for shown in ((False, sha("c")), (False, sha("9")), (True, ""))
        for operator in ("gpu-cloud/ops", "clinic/desk")
    ]
    for parameters, (purpose, used) in itertools.product(_PARAMETERS, _USAGE):
        yield replace(usual, parameters=parameters, purpose=purpose, usage=Usage(**{"runs": {}, **used}))
    for machine, simulated, baseline, operator in hosts:
        for now, parameters in itertools.product((NOW, SOON - 5, SOON), ({"epochs": 5}, {"epochs": 5, "debug": 1})):
            yield replace(
                usual,
                machine=machine,
                simulated=simulated,
                baseline=baseline,
                operator=operator,
                now=now,
                parameters=parameters,
            )
        for count in (0, 1):
            yield replace(
                usual,
                job="own",
                parameters={},
                machine=machine,
                simulated=simulated,
                baseline=baseline,
                operator=operator,
                usage=Usage({"own": count}),
            )
    for now in (NOW, SOON):
        yield replace(usual, job="serve", parameters={}, machine=MACHINE, simulated=True, baseline="", now=now)


@dataclass(frozen=True)
class Pull:
    """An output that a party wants to have, approved by these."""

    job: str
    output: str
    recipient: str
    approvers: tuple[str, ...]
    now: int

    def under(self, agreement: Agreement) -> OutputRelease | None:
        output = RegisteredOutput("00" * 16, self.job, self.output, sha("7"))
        found = decide_output(
            agreement,
            state=STATE,
            output=output,
            recipient=self.recipient,
            approvals=[_approved(agreement.digest, self.job, self.output, name) for name in self.approvers],
            now=self.now,
        )
        return found if isinstance(found, OutputRelease) else None


_KEYS = {"st-vitus": ("st-vitus/dpo", "st-vitus/dr-a"), "acme": ("acme/ml",)}


@functools.lru_cache(maxsize=4096)
def _approved(agreement: str, job: str, output: str, party: str) -> Envelope:
    class Named:
        digest = agreement
        manager = type("Manager", (), {"key": key("manager").public.text})

    body = output_approval(Named, RegisteredOutput("00" * 16, job, output, sha("7")), party)  # type: ignore[arg-type]  # its digest is all that counts
    made = unsigned("OutputApproval", body)
    for name in _KEYS[party]:
        made = made.with_signature(key(name).public, key(name).sign(made.signing_bytes()))
    return made


def pulls() -> Iterator[Pull]:
    """Each output, by each party, with each set of approvals."""
    outputs = (("train", "model"), ("train", "metrics"), ("own", "result"))
    approvals: tuple[tuple[str, ...], ...] = ((), ("st-vitus",), ("acme",), ("acme", "st-vitus"))
    for (job, output), recipient, now in itertools.product(outputs, ("acme", "st-vitus", "clinic"), (NOW, SOON)):
        for approvers in approvals if output == "model" else approvals[:1]:
            yield Pull(job, output, recipient, approvers, now)
