"""What a version changes: which changes narrow, which widen, and who must therefore approve."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agreements.sample import document, key, sha
from perunml.agreements import narrowing
from perunml.agreements.diff import Effect, diff
from perunml.agreements.document import agreement_from_json
from perunml.agreements.needed import needed
from perunml.agreements.schema import Agreement, Metadata

EVERYBODY = {"st-vitus", "acme", "gpu-cloud", "clinic"}
OWNERS = {"st-vitus", "acme"}
MAY = {*OWNERS, "gpu-cloud"}
Spoil = Callable[[dict[str, Any]], Any]


def versions(change: Spoil, prepare: Spoil = lambda d: None) -> tuple[Agreement, Agreement]:
    first = document()
    prepare(first)
    before = agreement_from_json(first)
    after = document()
    prepare(after)
    change(after)
    after["metadata"] = {**after["metadata"], "version": 2, "predecessor": before.digest}
    return before, agreement_from_json(after)


def job(document: dict[str, Any], name: str = "train") -> dict[str, Any]:
    found: dict[str, Any] = document["jobs"][name]
    return found


NARROWS: dict[str, Spoil] = {
    "jobs.train.limits.runs": lambda d: job(d)["limits"].update(runs=2),
    "jobs.train.limits.until": lambda d: job(d)["limits"].update(until="2027-06-29T00:00:00Z"),
    "jobs.train.limits.wall": lambda d: job(d)["limits"].update(wall="7h"),
    "jobs.train.limits.resumes": lambda d: job(d)["limits"].update(resumes=0),
    "jobs.train.lease": lambda d: job(d).update(lease="20s"),
    "jobs.train.parameters.epochs": lambda d: job(d)["parameters"].update(epochs={"max": 40}),
    "jobs.train.parameters.batch_size": lambda d: job(d)["parameters"].update(batch_size={"value": 16}),
    "jobs.train.outputs.model.max_size": lambda d: job(d)["outputs"]["model"].update(max_size="400MiB"),
    "jobs.train.outputs.metrics.release": lambda d: job(d)["outputs"]["metrics"].update(release={"approve": ["acme"]}),
    "jobs.serve.limits.requests": lambda d: job(d, "serve")["limits"].update(requests="9999/day"),
    "jobs.serve.limits.batch": lambda d: job(d, "serve")["limits"].update(batch=64),
    "jobs.serve.limits.top_k": lambda d: job(d, "serve")["limits"].update(top_k=3),
    "jobs.serve.limits.digits": lambda d: job(d, "serve")["limits"].update(digits=0),
    "hosts.inference": lambda d: d["hosts"]["inference"]["any_of"].pop(),
    "hosts.trainer.min_driver": lambda d: d["hosts"]["trainer"].update(min_driver="550.1"),
}
WIDENS: dict[str, tuple[Spoil, set[str]]] = {
    "jobs.train.limits.runs": (lambda d: job(d)["limits"].update(runs=4), EVERYBODY),
    "jobs.train.parameters.epochs": (lambda d: job(d)["parameters"].update(epochs={"max": 51}), EVERYBODY),
    "jobs.train.parameters.fresh": (lambda d: job(d)["parameters"].update(fresh={"max": 1}), EVERYBODY),
    "jobs.train.outputs.metrics.to": (lambda d: job(d)["outputs"]["metrics"].update(to=["acme"]), EVERYBODY),
    "jobs.train.outputs.model.release": (lambda d: job(d)["outputs"]["model"].pop("release"), EVERYBODY),
    "jobs.serve.limits.requests": (lambda d: job(d, "serve")["limits"].update(requests="9999/hour"), EVERYBODY),
    "assets.scans": (lambda d: d["assets"]["scans"].update(digest=sha("9")), EVERYBODY),
    "hosts.trainer.baseline": (lambda d: d["hosts"]["trainer"].update(baseline=sha("9")), EVERYBODY),
    "hosts.trainer.machines": (
        lambda d: d["hosts"]["trainer"].update(machines=[*d["hosts"]["trainer"]["machines"], "ek:" + sha("f")]),
        EVERYBODY,
    ),
    "witnesses": (lambda d: d["witnesses"].update(at_least=2), EVERYBODY),
    "parties.nova": (
        lambda d: d["parties"].update(nova={"keys": {"n": key("nova").public.text}}),
        {*EVERYBODY, "nova"},
    ),
}


@pytest.mark.parametrize("path", sorted(NARROWS))
def test_less_is_narrower_and_one_who_could_stop_it_may(path: str) -> None:
    """One change, that narrows, by any owner of what flows in, or the operator where it is about hosting; the way back widens."""
    before, after = versions(NARROWS[path])
    (found,) = diff(before, after)
    assert (found.path, found.effect) == (path, Effect.NARROWS)
    wanted = OWNERS if ".outputs." in path or path.endswith("until") else MAY
    assert found.parties == wanted
    need = needed(after, before)
    assert (dict(need.every), need.one_of) == ({}, (frozenset(wanted),))
    (back,) = diff(after, before)
    assert back.effect is Effect.WIDENS


@pytest.mark.parametrize("path", sorted(WIDENS))
def test_all_else_widens_and_needs_everybody_whom_it_touches(path: str) -> None:
    """More of an ordered field, another digest, a recipient or vote taken away, somebody new."""
    change, wanted = WIDENS[path]
    before, after = versions(change)
    found = [item for item in diff(before, after) if item.path == path]
    assert [item.effect for item in found] == [Effect.WIDENS]
    assert found[0].parties == wanted
    assert wanted <= set(needed(after, before).every)


def test_a_partys_keys_are_its_own_affair() -> None:
    """P7: who decides for a party is said by its old board, and its new one; nobody else is asked."""
    before, after = versions(lambda d: d["parties"]["acme"]["keys"].update(ml=key("acme/new").public.text))
    (found,) = diff(before, after)
    assert (found.effect, found.parties) == (Effect.OWN, {"acme"})
    need = needed(after, before)
    assert set(need.every) == {"acme"}
    assert [side.label for side in need.every["acme"]] == ["", "the board of the version before: "]


def test_a_job_that_reads_anothers_asset_asks_its_owner() -> None:
    """Whoever adds a job over an asset, or over what was derived from it, widens for the owner."""

    def fresh(d: dict[str, Any]) -> None:
        d["parties"]["lab"] = {"keys": {"k": key("lab").public.text}}
        d["jobs"]["again"] = {**job(d), "operator": "gpu-cloud", "outputs": {}}

    before, after = versions(fresh)
    assert {"st-vitus", "acme", "gpu-cloud", "lab"} <= set(needed(after, before).every)


def test_nothing_changed_asks_everybody() -> None:
    """It would void what was approved under the version before, and that is nobody's to do alone."""
    before, after = versions(lambda d: None)
    assert diff(before, after) == []
    need = needed(after, before)
    assert (set(need.every), need.one_of) == (EVERYBODY, ())


def test_every_sentence_says_what_and_who() -> None:
    """For people: the place, both values, the effect and the names."""
    before, after = versions(NARROWS["jobs.train.limits.runs"])
    assert diff(before, after)[0].sentence == (
        "jobs.train.limits.runs: 3 becomes 2. It narrows: one of acme, gpu-cloud, st-vitus may do so alone."
    )


LOG = {"to": ["acme"], "level": "full", "max_size": "1MiB"}


def test_a_log_is_said_to_be_all_that_the_code_prints() -> None:
    """Whoever reads only what changes reads it too: of a new output, and of one that was another."""
    before, after = versions(lambda d: job(d)["outputs"].update(log=LOG))
    (found,) = diff(before, after)
    assert (found.path, found.effect) == ("jobs.train.outputs.log", Effect.WIDENS)
    assert "EVERYTHING THAT THE CODE PRINTS" in found.after
    assert found.after.endswith("to acme")
    before, after = versions(lambda d: job(d)["outputs"].update(metrics=LOG))
    (level,) = [each for each in diff(before, after) if each.path.endswith(".level")]
    assert level.effect is Effect.WIDENS
    assert "EVERYTHING THAT THE CODE PRINTS" in level.sentence


def test_no_log_is_narrower_than_one_and_one_is_wider_than_none() -> None:
    """`full` to `error-class` narrows, the way back widens."""
    before, after = versions(
        lambda d: job(d)["outputs"]["log"].update(level="error-class"), lambda d: job(d)["outputs"].update(log=LOG)
    )
    (there,), (back,) = diff(before, after), diff(after, before)
    assert (there.effect, back.effect) == (Effect.NARROWS, Effect.WIDENS)
    assert there.parties <= MAY


def test_the_end_of_all_jobs_is_the_end_of_every_output() -> None:
    """Outputs leave until the last `until`: a later one, of a job that has none itself, asks the owners of the outputs; an earlier one
    is for an owner of all of them, not for the operator."""
    later = versions(lambda d: job(d, "serve")["limits"].update(until="2028-01-01T00:00:00Z"))
    assert [(c.path, c.effect) for c in diff(*later)] == [
        ("jobs.serve.limits.until", Effect.WIDENS),
        ("ends", Effect.WIDENS),
    ]
    found = diff(*reversed(later))
    assert [(c.path, c.effect, c.parties) for c in found][-1] == ("ends", Effect.NARROWS, OWNERS)


def test_true_is_not_one() -> None:
    """Python takes them for equal; the code that gets the parameter does not."""
    before, after = versions(
        lambda d: job(d)["parameters"].update(seed={"value": True}),
        lambda d: job(d)["parameters"].update(seed={"value": 1}),
    )
    assert [(c.path, c.effect) for c in diff(before, after)] == [("jobs.train.parameters.seed", Effect.WIDENS)]
    rules = versions(
        lambda d: d["hosts"]["inference"]["any_of"][0]["tdx"].update(strict=True),
        lambda d: d["hosts"]["inference"]["any_of"][0]["tdx"].update(strict=1),
    )
    assert [c.effect for c in diff(*rules)] == [Effect.WIDENS]


def test_who_is_in_one_job_of_a_role_narrows_it_in_no_other() -> None:
    """A role that two groups use is narrowed by who could stop both, and by nobody alone where there is none."""

    def alone(d: dict[str, Any]) -> None:
        d["parties"]["lab"] = {"keys": {"k": key("lab").public.text}}
        d["assets"]["tool"] = {"kind": "code", "owner": "lab", "digest": sha("2"), "entry": "tool.py"}
        d["jobs"]["own"] = {**job(d), "code": "tool", "inputs": {}, "operator": "lab", "outputs": {}, "parameters": {}}

    before, after = versions(NARROWS["hosts.trainer.min_driver"], alone)
    (found,) = diff(before, after)
    assert (found.effect, found.parties) == (Effect.WIDENS, {*EVERYBODY, "lab"})


def test_p20_simulated_asks_every_owner() -> None:
    """P20: a profile that proves nothing, added to a role, is for everybody whom its jobs touch, by their whole boards."""

    def loosen(d: dict[str, Any]) -> None:
        d["hosts"]["trainer"] = {"any_of": [d["hosts"]["trainer"], {"profile": "simulated"}]}

    before, after = versions(loosen)
    need = needed(after, before)
    assert set(need.every) == EVERYBODY
    assert [side.party for side in need.every["st-vitus"]] == [after.parties["st-vitus"]]


def test_p20_a_simulated_manager_asks_everybody() -> None:
    """P20: what the manager must prove is of concern to all."""
    strict = document()
    strict["manager"]["profile"] = {"profile": "tee", "tdx": {"mr_td": ["00" * 48]}}
    first = agreement_from_json(strict)
    loose = document()
    loose["metadata"] = {**loose["metadata"], "version": 2, "predecessor": first.digest}
    (found,) = diff(first, agreement_from_json(loose))
    assert (found.path, found.effect, found.parties) == ("manager", Effect.WIDENS, EVERYBODY)


def test_p10_the_last_owner_goes_only_with_its_asset_and_everybodys_word() -> None:
    """P10: an owner that is no party is refused when read; one that goes together with all it brought is missed by all, and asked itself."""

    def gone(d: dict[str, Any]) -> None:
        del d["parties"]["clinic"]
        del d["jobs"]["serve"]
        job(d)["outputs"]["model"].pop("use")

    before, after = versions(gone)
    need = needed(after, before)
    assert set(need.every) == EVERYBODY
    assert [side.label for side in need.every["clinic"]] == ["the board of the version before: "]


def test_every_place_of_the_document_is_looked_at() -> None:
    """A field that is added to the schema is compared: by its own rule, or as one that widens."""
    assert set(Metadata.model_fields) == {"name", "version", "predecessor"}, "the line itself; the rest would go unseen"
    looked = {"apiVersion", "kind", "metadata", "parties", "assets", "hosts", "jobs"}
    assert looked <= set(Agreement.model_fields)
    for name in set(Agreement.model_fields) - looked:
        assert any(c.path == name for c in diff(*_with_other(name))), name


def _with_other(name: str) -> tuple[Agreement, Agreement]:
    other: dict[str, Any] = {
        "manager": {"key": key("manager").public.text, "profile": {"profile": "simulated", "imitates": "tee"}},
        "witnesses": {"at_least": 2, "of": ["st-vitus", "acme"]},
        "recovery": {"at_least": 2},
    }
    return versions(lambda d: d.update({name: other[name]}))


def test_the_specification_lists_what_narrows() -> None:
    """docs/spec/agreement.md's table has a row for each ordered field of the code, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "spec" / "agreement.md").read_text()
    table = page.partition("| field | narrows when |")[2].partition("\n\n")[0]
    told = {name for row in table.splitlines()[2:] for name in re.findall(r"\.([a-z_]+)(?:\.P)?`", row.split("|")[1])}
    nested = {"limits", "outputs"}  # told by their own fields
    ordered = {*narrowing._LIMITS, *narrowing._OUTPUT, *narrowing._JOB, *narrowing._PROFILE} - nested
    assert told == ordered
