"""`perunml condition`: what an owner forbids about its own asset, alone and at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perunml.cli.agreement_sign import out_option, written
from perunml.cli.settings import Settings, dry_run_option, group, manager_option
from perunml.cli.voice import table

if TYPE_CHECKING:
    from perunml.api.conditions import ConditionList

command = group("Narrow what may be done with an own asset, and with all that is derived from it.")
agreement_option = click.option(
    "--agreement", default="", metavar="NAME|DIGEST", help="The agreement that names the asset, where several do."
)
_MEMBERS = ("until", "runs", "wall", "lease", "jobs", "machines", "profiles", "operators", "recipients", "clients")


@command.command("add")
@click.argument("asset")
@click.argument("name")
@agreement_option
@click.option("--until", help="Nothing at or after this time: 2027-06-30T00:00:00Z.")
@click.option("--runs", type=click.IntRange(0), help="So many training runs that read it, counted from now on.")
@click.option("--wall", help="No run longer than this: 2h.")
@click.option("--lease", help="No lease longer than this: 10s.")
@click.option("--job", "jobs", multiple=True, help="Only this job; repeat it for several.")
@click.option("--machine", "machines", multiple=True, help="Only on this machine (ek:sha256:…).")
@click.option("--profile", "profiles", multiple=True, help="Only on hosts that prove this: measured, tee, gpu-cc.")
@click.option("--operator", "operators", multiple=True, help="Only on hosts of this party.")
@click.option("--recipient", "recipients", multiple=True, help="Outputs derived from it go to this party only.")
@click.option("--client", "clients", multiple=True, help="Services derived from it answer this party only.")
@click.option(
    "--file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The same as YAML, parameters included.",
)
@dry_run_option
@manager_option
@click.pass_obj
def add(
    settings: Settings,
    /,
    asset: str,
    name: str,
    agreement: str,
    file: Path | None,
    dry_run: bool,
    manager: str,
    **members: Any,
) -> None:
    """Put the condition NAME on ASSET (a digest, or its name in an agreement). It holds at once: what runs against it ends with its
    next renewal. One key of the owner's board is enough; dropping it takes the board."""
    condition = _given(file, members)
    with settings.client(manager=manager, dry_run=dry_run) as client:
        _answer(settings, client.add_condition(asset, name, condition, agreement=agreement))


@command.command("list")
@click.argument("asset")
@agreement_option
@manager_option
@click.pass_obj
def listed(settings: Settings, asset: str, agreement: str, manager: str) -> None:
    """Show the conditions on an own ASSET; nobody but its owner sees them."""
    with settings.client(manager=manager) as client:
        _answer(settings, client.conditions(asset, agreement=agreement))


@command.command("drop")
@click.argument("asset")
@click.argument("name")
@agreement_option
@out_option
@dry_run_option
@manager_option
@click.pass_obj
def drop(
    settings: Settings, /, asset: str, name: str, agreement: str, out: Path | None, dry_run: bool, manager: str
) -> None:
    """Let go of the condition NAME on ASSET. This takes the owner's board: where that is more than this key, write it with --out and
    let the others `agreement attach` theirs."""
    with settings.client(manager=manager, dry_run=dry_run) as client:
        if out is not None:
            written(settings, client.drop_message(asset, name, agreement=agreement), out)
            return
        _answer(settings, client.drop_condition(asset, name, agreement=agreement))


def _given(file: Path | None, members: dict[str, Any]) -> dict[str, Any]:
    from perunml.wire.canonical import load_yaml
    from perunml.wire.codes import MALFORMED
    from perunml.wire.errors import refuse

    made = {name: list(value) if isinstance(value, tuple) else value for name, value in members.items()}
    made = {name: made[name] for name in _MEMBERS if made[name] not in (None, [])}
    if file is not None:
        written = load_yaml(file.read_bytes())
        if not isinstance(written, dict) or set(written) & set(made):
            raise refuse(MALFORMED, "a condition's file is an object, and says nothing twice", seen=str(file))
        made |= written
    return made


def _answer(settings: Settings, found: ConditionList) -> None:
    value = found.model_dump(mode="json")
    lines = [f"asset {found.subject}"] if found.conditions else [f"asset {found.subject}: no conditions"]
    for item in found.conditions:
        rows = [(name, said) for name, said in item.condition.items()]
        counted = [("counted", f"{item.runs} runs")] if "runs" in item.condition else []
        lines += [f"{item.name} ({item.change})", *(f"  {line}" for line in table([*rows, *counted]))]
    settings.voice.answer(value, lines)
