"""`perunml recovery`: shares of outputs' keys, so that what was trained outlives its manager."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perunml.cli.agreement_sign import out_option, written
from perunml.cli.settings import Settings, dry_run_option, group, manager_option
from perunml.cli.voice import columns

if TYPE_CHECKING:
    from perunml.api.recovery import RecoveryView

command = group("Keep shares of outputs' keys, and give them to the manager that takes a lost one's place.")


@command.command("keep")
@click.argument("agreement", default="")
@manager_option
@click.pass_obj
def keep(settings: Settings, agreement: str, manager: str) -> None:
    """Fetch this party's share of the key of every output of AGREEMENT (all agreements, when left out), while their manager is there, and keep it in
    this home, sealed to this identity. Again after each run; what is kept already stays."""
    with settings.client(manager=manager) as client:
        kept = client.keep_shares(agreement)
    value = [
        {
            "asset": found.shares.asset,
            "run": found.shares.run,
            "output": found.shares.output,
            "at_least": found.shares.at_least,
            "holders": list(found.shares.holders),
            "file": str(found.file),
            "fresh": found.fresh,
        }
        for found in kept
    ]
    rows = [
        (
            f"{found.shares.job}.outputs.{found.shares.output}",
            found.shares.run,
            f"{found.shares.at_least} of {', '.join(found.shares.holders)}",
            "kept now" if found.fresh else "was kept",
        )
        for found in kept
    ]
    lines = (
        columns(("output", "run", "given again by", ""), rows) if rows else ["this party holds no share of any output"]
    )
    settings.voice.answer({"shares": value}, lines)


@command.command("give")
@click.argument("agreement")
@click.option("--asset", "outputs", multiple=True, metavar="DIGEST", help="Only this output; repeat it for several.")
@out_option
@dry_run_option
@manager_option
@click.pass_obj
def give(
    settings: Settings, /, agreement: str, outputs: tuple[str, ...], out: Path | None, dry_run: bool, manager: str
) -> None:
    """Give the pinned manager this party's kept shares of outputs of the lost managers that AGREEMENT names in `recovery.managers`. The shares are
    sealed to the pinned manager alone, for this agreement alone; look at its evidence first: `perunml trust`. This takes the party's board: where
    that is more than this key, write the share of one output with --out and let the others `agreement attach` their signatures."""
    from perunml.wire.codes import MALFORMED
    from perunml.wire.errors import refuse

    if out is not None and len(outputs) != 1:
        raise refuse(MALFORMED, "a file holds one output's share", expected="--asset DIGEST once, with --out")
    with settings.client(manager=manager, dry_run=dry_run) as client:
        if out is not None:
            written(settings, client.share_message(agreement, outputs[0]), out)
            return
        views = client.give_shares(agreement, outputs=outputs)
    _answer(settings, views)


@command.command("list")
@click.argument("agreement")
@manager_option
@click.pass_obj
def listed(settings: Settings, agreement: str, manager: str) -> None:
    """Show how far outputs of lost managers are recovered under AGREEMENT: who gave a share, who has not, and whether the ciphertext is there."""
    with settings.client(manager=manager) as client:
        views = client.recoveries(agreement)
    _answer(settings, views)


def _answer(settings: Settings, views: Sequence[RecoveryView]) -> None:
    rows = [
        (
            f"{view.job}.outputs.{view.output}",
            view.run,
            f"{len(view.given)} of {view.at_least}",
            ", ".join(party for party in view.holders if party not in view.given) or "nobody",
            _state(view),
        )
        for view in views
    ]
    lines = columns(("output", "run", "shares", "not given by", ""), rows) if rows else ["no output is claimed here"]
    settings.voice.answer({"outputs": [view.model_dump(mode="json") for view in views]}, lines)


def _state(view: RecoveryView) -> str:
    if not view.recovered:
        return "waits for shares"
    return "recovered" if view.complete else "waits for its ciphertext: perunml manager adopt"
