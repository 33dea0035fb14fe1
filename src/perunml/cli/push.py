"""`perunml push`: send a sealed asset to the pinned manager."""

from __future__ import annotations

import click

from perunml.cli.settings import Command, Settings, dry_run_option, manager_option
from perunml.cli.voice import table


@click.command(cls=Command)
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="An older version than the newest.")
@click.option(
    "--store",
    default="",
    metavar="NAME",
    help="Put the ciphertext into this bucket of the manager's instead of its folder.",
)
@click.option("--replace", is_flag=True, help="Write what lies in the bucket anew, where a host found it altered.")
@manager_option
@dry_run_option
@click.pass_obj
def command(
    settings: Settings, name: str, version: int | None, store: str, replace: bool, manager: str, dry_run: bool
) -> None:
    """Send the sealed asset NAME: its manifest, its ciphertext, and its key sealed to the pinned manager alone.

    An interrupted push goes on where it stopped. Pushing again renews the key's wraps.
    """
    from perunml.cli.progress import progress
    from perunml.wire.quantities import format_size

    voice = settings.voice
    with (
        settings.client(manager=manager, dry_run=dry_run) as client,
        progress(f"pushing {name}", silent=voice.as_json) as report,
    ):
        view = client.push(name, version=version, store=store, replace=replace, progress=report)
        url = client.pin.url
    rows = [
        ("asset", view.asset),
        ("name", f"{view.name}, version {view.version}, {view.kind}"),
        ("size", format_size(view.size)),
        ("manager", f"{url} holds {'all of it' if view.complete else 'a part of it'}"),
        *([("store", view.store)] if view.store else []),
    ]
    voice.answer(view.model_dump(mode="json"), table(rows))
