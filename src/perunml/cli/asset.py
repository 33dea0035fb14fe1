"""`perunml asset`: show sealed assets; suspend one at once, or lift that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from perunml.cli.agreement_sign import out_option, written
from perunml.cli.settings import Settings, dry_run_option, group, manager_option
from perunml.cli.voice import columns, table

if TYPE_CHECKING:
    from pathlib import Path

    from perunml.api.agreements import SuspensionView

command = group("Sealed assets: show them; suspend one at once, or lift that.")
agreement_option = click.option("--agreement", default="", help="The agreement in which the asset has this name.")


@command.command("show")
@click.argument("asset")
@manager_option
@click.pass_obj
def show(settings: Settings, asset: str, manager: str) -> None:
    """Show ASSET (a digest, or its name in this home) as the manager holds it."""
    from perunml.wire.quantities import format_size

    with settings.client(manager=manager) as client:
        view = client.asset(asset)
    rows = [
        ("asset", view.asset),
        ("name", f"{view.name}, version {view.version}, {view.kind}"),
        ("owner", view.owner),
        ("size", format_size(view.size)),
        ("complete", "yes" if view.complete else "no"),
    ]
    settings.voice.answer(view.model_dump(mode="json"), table(rows))


@command.command("list")
@click.pass_obj
def list_(settings: Settings) -> None:
    """List the assets sealed in this home. Asks nobody; needs no passphrase."""
    from perunml.client.assets import local_assets

    found = local_assets(settings.home)
    value = {"assets": [{"asset": digest, "name": name, "version": version} for name, version, digest in found]}
    settings.voice.answer(value, columns(("NAME", "VERSION", "ASSET"), found))


@command.command("suspend")
@click.argument("asset")
@agreement_option
@manager_option
@dry_run_option
@click.pass_obj
def suspend(settings: Settings, asset: str, agreement: str, manager: str, dry_run: bool) -> None:
    """Stop every use of ASSET (a digest, or its name in an agreement) and of all that was derived from it, at once.

    Running jobs get no renewal: their keys are wiped when the lease ends.
    """
    with settings.client(manager=manager, dry_run=dry_run) as client:
        view = client.suspend(asset, agreement=agreement)
    _show(settings, view)


@command.command("lift")
@click.argument("asset")
@agreement_option
@out_option
@manager_option
@dry_run_option
@click.pass_obj
def lift(settings: Settings, asset: str, agreement: str, out: Path | None, manager: str, dry_run: bool) -> None:
    """Allow the use of a suspended ASSET again. This takes the owner's board, where suspending takes one key: where the board is more
    than this key, write it with --out and let the others `agreement attach` theirs."""
    with settings.client(manager=manager, dry_run=dry_run) as client:
        if out is not None:
            written(settings, client.lift_message(asset, agreement=agreement), out)
            return
        view = client.suspend(asset, agreement=agreement, lift=True)
    _show(settings, view)


def _show(settings: Settings, view: SuspensionView) -> None:
    rows = [("asset", view.subject), ("suspended", "yes" if view.suspended else "no")]
    settings.voice.answer(view.model_dump(mode="json"), table(rows))
