"""`perunml recover`: bring all that is this party's to a manager that lost it, or to another one."""

from __future__ import annotations

import click

from perunml.cli.settings import Command, Settings, dry_run_option, manager_option
from perunml.cli.voice import columns


@click.command(cls=Command)
@click.argument("names", nargs=-1)
@manager_option
@dry_run_option
@click.pass_obj
def command(settings: Settings, names: tuple[str, ...], manager: str, dry_run: bool) -> None:
    """Seal the data keys of this home's assets (NAMES, or all of them, every version) to the pinned manager, and send what it lacks of them. Nothing is sealed
    anew, so agreements name what they named before.

    For a manager that was restored from a backup, whose intake key was replaced, or that takes another's place; look at its evidence first:
    `perunml trust`.
    """
    from perunml.cli.progress import progress

    voice = settings.voice
    with (
        settings.client(manager=manager, dry_run=dry_run) as client,
        progress("recovering", silent=voice.as_json) as report,
    ):
        views = client.recover(names, progress=report)
    rows = [(view.name, f"v{view.version}", view.asset, "whole" if view.complete else "a part") for view in views]
    lines = columns(("name", "version", "asset", "there"), rows) if rows else ["nothing is sealed in this home"]
    voice.answer({"assets": [view.model_dump(mode="json") for view in views]}, lines)
