"""`perunml agreement diff`: what a version changes, and who must approve that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from perunml.cli.agreement import command
from perunml.cli.settings import Settings, manager_option

if TYPE_CHECKING:
    from perunml.agreements.versions import Difference


@command.command("diff")
@click.argument("new")
@click.argument("old", required=False, default="")
@manager_option
@click.pass_obj
def diff(settings: Settings, new: str, old: str, manager: str) -> None:
    """Say what changes from OLD to NEW (files, digests or names; OLD is the version before NEW unless told): what narrows, what widens, what
    is a party's own affair, and who must approve it."""
    with settings.client(manager=manager) as client:
        found = client.diff(new, old)
    settings.voice.answer(_value(found), [_title(found), *(f"  {sentence}" for sentence in found.sentences())])


def _title(found: Difference) -> str:
    versions = [f"version {one.metadata.version} ({one.digest})" for one in (found.before, found.after)]
    return f"{found.after.name}, from {versions[0]} to {versions[1]}"


def _value(found: Difference) -> dict[str, object]:
    changes = [
        {
            "path": change.path,
            "effect": change.effect.value,
            "parties": sorted(change.parties),
            "before": change.before,
            "after": change.after,
        }
        for change in found.changes
    ]
    need = found.need and {
        "every": {name: len(sides) > 1 for name, sides in sorted(found.need.every.items())},
        "one_of": [sorted(parties) for parties in found.need.one_of],
    }
    sentences = list(found.sentences())
    return {
        "old": found.before.digest, "new": found.after.digest, "changes": changes, "needed": need, "sentences": sentences
    }  # fmt: skip
