"""What a version changes: which changes narrow, which widen, and who must therefore approve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agreements.sample import document, key, sha
from perunml.agreements.diff import Effect, diff
from perunml.agreements.document import agreement_from_json
from perunml.agreements.needed import needed
from perunml.agreements.schema import Agreement

EVERYBODY = {"st-vitus", "acme", "gpu-cloud", "clinic"}
MAY = {"st-vitus", "acme", "gpu-cloud"}
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
    "hosts.inference": lambda d: d["hosts"]["inference"]["any_of"].pop(),
    "hosts.trainer.min_driver": lambda d: d["hosts"]["trainer"].update(min_driver="550.1"),
    "witnesses": lambda d: d["witnesses"].update(at_least=2),
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
    "witnesses": (lambda d: d["witnesses"].update(of=["st-vitus", "acme", "clinic"]), EVERYBODY),
    "parties.nova": (
        lambda d: d["parties"].update(nova={"keys": {"n": key("nova").public.text}}),
        {*EVERYBODY, "nova"},
    ),
}


@pytest.mark.parametrize("path", sorted(NARROWS))
def test_less_is_narrower_and_one_who_could_stop_it_may(path: str) -> None:
    """One change, that narrows, by any owner of what flows in or the operator; the way back widens."""
    before, after = versions(NARROWS[path])
    (found,) = diff(before, after)
    assert (found.path, found.effect) == (path, Effect.NARROWS)
    wanted = EVERYBODY if path == "witnesses" else MAY
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


def test_nothing_changed_still_wants_somebody() -> None:
    """A version that says the same is nobody's by default."""
    before, after = versions(lambda d: None)
    assert diff(before, after) == []
    assert needed(after, before).one_of == (frozenset(EVERYBODY),)


def test_every_sentence_says_what_and_who() -> None:
    """For people: the place, both values, the effect and the names."""
    before, after = versions(NARROWS["jobs.train.limits.runs"])
    assert diff(before, after)[0].sentence == (
        "jobs.train.limits.runs: 3 becomes 2. It narrows: one of acme, gpu-cloud, st-vitus may do so alone."
    )
