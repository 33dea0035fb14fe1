"""How the parts of an agreement must fit together: every name exists, every key has one vote, nothing flows in a circle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from perunml.agreements import flows
from perunml.agreements.boards import MAX_DEPTH, depth, members
from perunml.agreements.codes import INCONSISTENT
from perunml.agreements.jobs import LANGUAGE, WITH_CODE, ServiceJob, TrainingJob
from perunml.agreements.profiles import alternatives, only_simulated
from perunml.agreements.schema import Agreement, Quorum
from perunml.wire.rules import Reason

_ENGINE_FORMATS: Mapping[str, tuple[str, ...]] = {
    "torch-export": ("pt2",),
    "onnx": ("onnx",),
    "safetensors": ("safetensors",),
    "transformers": (),
    "vllm": (),
}
"""Formats of outputs that an engine loads; a language model is a folder, so it comes as an asset."""


def inconsistencies(agreement: Agreement) -> list[Reason]:
    """Every way in which the agreement contradicts itself; empty when it does not."""
    found = [*_boards(agreement), *_keys(agreement), *_assets(agreement), *_witnesses(agreement)]
    references = [*_baselines(agreement), *_jobs(agreement)]
    found += references
    if not references and (circle := flows.circle(agreement)):
        found.append(_fault("jobs", f"jobs feed each other in a circle: {' -> '.join(circle)}"))
    elif not found:
        found += _recovery(agreement)
    return found


def _fault(place: str, message: str, *, expected: str = "", seen: str = "") -> Reason:
    return Reason(INCONSISTENT, f"{place}: {message}", expected, seen)


def _boards(a: Agreement) -> Iterator[Reason]:
    for name, party in a.parties.items():
        place = f"parties.{name}.approve"
        if depth(party.board) > MAX_DEPTH:
            yield _fault(place, f"nested deeper than {MAX_DEPTH} levels")
            continue
        seen = set()
        for key in members(party.board):
            if key not in party.keys:
                yield _fault(place, f"{key!r} is none of the party's keys", expected=", ".join(party.keys))
            if key in seen:
                yield _fault(place, f"{key!r} stands twice; a key has one vote")
            seen.add(key)


def _keys(a: Agreement) -> Iterator[Reason]:
    holders: dict[str, str] = {a.manager.key: "manager.key"}
    for name, party in a.parties.items():
        named = [(f"parties.{name}.keys.{key}", text) for key, text in party.keys.items()]
        if party.receive:
            named.append((f"parties.{name}.receive", party.receive))
        for place, text in named:
            if other := holders.get(text):
                yield _fault(place, f"the same key stands at {other}; a key belongs to one place")
            holders[text] = place
    if isinstance(a.witnesses, Quorum):
        for name, text in a.witnesses.keys.items():
            place, own = f"witnesses.keys.{name}", a.parties[name].keys.values() if name in a.parties else ()
            if (other := holders.get(text)) and text not in own:
                yield _fault(place, f"the same key stands at {other}; a key belongs to one place")
            holders.setdefault(text, place)


def _assets(a: Agreement) -> Iterator[Reason]:
    digests: dict[str, str] = {}
    for name, asset in a.assets.items():
        if asset.owner not in a.parties:
            yield _fault(f"assets.{name}.owner", f"{asset.owner!r} is none of the parties")
        if other := digests.get(asset.digest):
            yield _fault(f"assets.{name}.digest", f"the same asset stands at assets.{other}")
        digests[asset.digest] = name


def _witnesses(a: Agreement) -> Iterator[Reason]:
    if not isinstance(a.witnesses, Quorum):
        if not all(only_simulated(role) for role in a.hosts.values()):
            yield _fault("witnesses", "may be waived only where every host is `simulated`")
        return
    operators = {job.operator for job in a.jobs.values()}
    named = a.witnesses.keys
    for name in a.witnesses.of:
        if name in operators:
            yield _fault("witnesses.of", f"{name!r} operates hosts; an operator is no witness")
        if name in named:
            continue
        if name not in a.parties:
            yield _fault("witnesses.of", f"{name!r} is none of the parties, and `witnesses.keys` has no key of it")
        elif not any(key.startswith("ed25519:") for key in a.parties[name].keys.values()):
            yield _fault("witnesses.of", f"{name!r} has no Ed25519 key to cosign with; name one in `witnesses.keys`")
    for name, text in named.items():
        if name not in a.witnesses.of:
            yield _fault(f"witnesses.keys.{name}", "names no witness", expected=", ".join(a.witnesses.of))
        if not text.startswith("ed25519:"):
            yield _fault(f"witnesses.keys.{name}", "cosignatures are Ed25519's", expected="ed25519:…")


def _recovery(a: Agreement) -> Iterator[Reason]:
    """A quorum that some output can meet, and that leaves no owner alone with another's output (P10)."""
    if a.recovery is None:
        return
    if a.manager.key in a.recovery.managers:
        yield _fault("recovery.managers", "names the agreement's own manager; it names lost ones", seen=a.manager.key)
    if len(set(a.recovery.managers)) != len(a.recovery.managers):
        yield _fault("recovery.managers", "names a manager twice")
    if a.recovery.at_least is None:
        return
    owners = {f"{job}.outputs.{name}": flows.owners(a, f"{job}.outputs.{name}") for job, name, _ in flows.outputs_of(a)}
    most = max((len(found) for found in owners.values()), default=0)
    if a.recovery.at_least > most:
        yield _fault("recovery.at_least", "can never be met: no output has so many owners", expected=f"at most {most}")
    if a.recovery.at_least == 1 and most > 1:
        yield _fault(
            "recovery.at_least", "would hand each owner the others' output alone", expected=f"2 to {most}", seen="1"
        )
    for party in sorted(frozenset().union(*owners.values())):
        if a.parties[party].receive is None:
            yield _fault("recovery.at_least", f"{party!r} has no receiving key to be given its share")


def _baselines(a: Agreement) -> Iterator[Reason]:
    for name, role in a.hosts.items():
        for profile in alternatives(role):
            if profile.baseline_signer and profile.baseline_signer not in a.parties:
                yield _fault(f"hosts.{name}.baseline_by", f"{profile.baseline_signer!r} is none of the parties")


def _jobs(a: Agreement) -> Iterator[Reason]:
    for name, job in a.jobs.items():
        place = f"jobs.{name}"
        if job.hosts not in a.hosts:
            yield _fault(f"{place}.hosts", f"{job.hosts!r} is none of the hosts", expected=", ".join(a.hosts))
        if job.operator not in a.parties:
            yield _fault(f"{place}.operator", f"{job.operator!r} is none of the parties")
        if isinstance(job, TrainingJob):
            yield from _training(a, name, job)
        else:
            yield from _service(a, name, job)


def _training(a: Agreement, name: str, job: TrainingJob) -> Iterator[Reason]:
    place = f"jobs.{name}"
    code = a.assets.get(job.code)
    if code is None or code.kind != "code":
        yield _fault(f"{place}.code", f"{job.code!r} is no asset of kind code")
    for ref in job.inputs:
        yield from _input(a, name, f"{place}.inputs", ref, ("dataset", "model"))
    mounts = list(job.inputs.values())
    for mount in sorted({m for m in mounts if mounts.count(m) > 1}):
        yield _fault(f"{place}.inputs", f"two inputs are mounted at {mount}")
    for number, combination in enumerate(job.combinations or ()):
        for parameter, value in combination.items():
            rule = job.parameters.get(parameter)
            if rule is None or not rule.allows(value):
                allowed = rule.in_words() if rule else ", ".join(job.parameters) or "no parameters"
                yield _fault(
                    f"{place}.combinations.{number}.{parameter}", "can never be met", expected=allowed, seen=str(value)
                )
    for out_name, output in job.outputs.items():
        out = f"{place}.outputs.{out_name}"
        for party in output.to:
            if party not in a.parties:
                yield _fault(f"{out}.to", f"{party!r} is none of the parties")
            elif a.parties[party].receive is None:
                yield _fault(f"{out}.to", f"{party!r} has no receiving key (parties.{party}.receive)")
        for party in output.approvers:
            if party not in a.parties:
                yield _fault(f"{out}.release.approve", f"{party!r} is none of the parties")
        for user in output.use:
            if user not in a.jobs or f"{name}.outputs.{out_name}" not in flows.sources(a.jobs[user]):
                yield _fault(f"{out}.use", f"no job {user!r} reads this output")


def _service(a: Agreement, name: str, job: ServiceJob) -> Iterator[Reason]:
    place = f"jobs.{name}"
    yield from _input(a, name, f"{place}.model", job.model, ("model",))
    formats = _ENGINE_FORMATS[job.engine]
    if (ref := flows.split_ref(job.model)) and (training := a.training(ref[0])):
        output = training.outputs.get(ref[1])
        if output and output.form not in formats:
            yield _fault(
                f"{place}.engine",
                f"{job.engine} cannot load this model",
                expected=", ".join(formats) or "a sealed folder, as an asset of kind model",
                seen=output.form,
            )
    if (job.code is not None) != (job.engine in WITH_CODE):
        wanted = "the architecture, an asset of kind code" if job.engine in WITH_CODE else "no code"
        yield _fault(f"{place}.code", f"{job.engine} comes with other code", expected=wanted, seen=job.code or "none")
    elif job.code is not None and ((code := a.assets.get(job.code)) is None or code.kind != "code"):
        yield _fault(f"{place}.code", f"{job.code!r} is no asset of kind code")
    named = [name for name in ("batch", "top_k", "digits") if getattr(job.limits, name) is not None]
    if named and job.engine in LANGUAGE:
        yield _fault(
            f"{place}.limits.{named[0]}", f"{job.engine} answers with text, not with scores", expected="no such limit"
        )
    if job.batching and job.engine in LANGUAGE:
        yield _fault(f"{place}.batching", f"{job.engine} orders its answers itself", expected="no batching")
    for party in job.clients:
        if party not in a.parties:
            yield _fault(f"{place}.clients", f"{party!r} is none of the parties")


def _input(a: Agreement, job: str, place: str, ref: str, kinds: tuple[str, ...]) -> Iterator[Reason]:
    output_ref = flows.split_ref(ref)
    if output_ref is None:
        asset = a.assets.get(ref)
        if asset is None or asset.kind not in kinds:
            yield _fault(place, f"{ref!r} is no asset of kind {' or '.join(kinds)}")
        return
    training = a.training(output_ref[0])
    output = training.outputs.get(output_ref[1]) if training else None
    if output is None:
        yield _fault(place, f"{ref!r} is no output of a training job")
    elif job not in output.use:
        yield _fault(place, f"{ref!r} may not be used here; its `use` does not name {job!r}")
