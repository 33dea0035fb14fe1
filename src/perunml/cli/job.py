"""`perunml job`: submit runs, show and list them, wait for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perunml.cli.settings import Settings, dry_run_option, group, manager_option
from perunml.cli.voice import columns, table

if TYPE_CHECKING:
    from perunml.api.runs import RunView

command = group("Runs of an agreement's jobs: submit one, watch it, wait for it.")


def pairs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    """``name=value`` options as a dictionary."""
    found: dict[str, str] = {}
    for item in value:
        name, equals, text = item.partition("=")
        if not name or not equals or name in found:
            raise click.BadParameter("give name=value, each name once", ctx, param)
        found[name] = text
    return found


@command.command("submit")
@click.argument("agreement")
@click.argument("job")
@click.option("-p", "--parameter", "parameters", multiple=True, callback=pairs, metavar="NAME=VALUE",
              help="A parameter; numbers, true and false are read as such.")  # fmt: skip
@click.option("--asset", "assets", multiple=True, callback=pairs, metavar="NAME=DIGEST",
              help="Run only with exactly this version of an asset.")  # fmt: skip
@click.option("--wait", "waits", is_flag=True, help="Wait for its end, as `job wait` does.")
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="With --wait: how long at most.")
@manager_option
@dry_run_option
@click.pass_obj
def submit(
    settings: Settings,
    agreement: str,
    job: str,
    parameters: dict[str, str],
    assets: dict[str, str],
    waits: bool,
    timeout: float | None,
    manager: str,
    dry_run: bool,
) -> None:
    """Ask for one run of JOB under AGREEMENT (a digest or a name)."""
    with settings.client(manager=manager, dry_run=dry_run) as client:
        values = {name: _value(text) for name, text in parameters.items()}
        view = client.submit(agreement, job, values, assets=assets)
        if waits:
            view = client.wait(view.run, timeout=timeout, watch=lambda seen: settings.voice.note(run_line(seen)))
    show_run(settings, view)


@command.command("show")
@click.argument("run")
@click.option(
    "--receipt", type=click.Path(path_type=Path, dir_okay=False), help="Write the run's receipt to this file."
)
@manager_option
@click.pass_obj
def show(settings: Settings, run: str, receipt: Path | None, manager: str) -> None:
    """Show RUN: its state, where it ran, why it was refused, what came out."""
    from perunml.client.home import write_file

    with settings.client(manager=manager) as client:
        view = client.run(run)
    if receipt is not None:
        if view.receipt is None:
            from perunml.client.codes import NOT_FINISHED
            from perunml.wire.errors import refuse

            raise refuse(NOT_FINISHED, "the run has no receipt yet", seen=view.state, command=f"perunml job wait {run}")
        write_file(receipt, view.receipt.encode())
    show_run(settings, view, failing=False)


@command.command("list")
@click.option("--agreement", default="", help="Only runs under this one (a digest or a name).")
@manager_option
@click.pass_obj
def list_(settings: Settings, agreement: str, manager: str) -> None:
    """List the runs that this party may see."""
    with settings.client(manager=manager) as client:
        views = client.runs(agreement)
    rows = [(view.run, view.job, _state(view), view.requested_by, view.host or "-") for view in views]
    value = {"runs": [view.model_dump(mode="json") for view in views]}
    settings.voice.answer(value, columns(("RUN", "JOB", "STATE", "ASKED BY", "HOST"), rows))


@command.command("wait")
@click.argument("run")
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="How long at most.")
@manager_option
@click.pass_obj
def wait(settings: Settings, run: str, timeout: float | None, manager: str) -> None:
    """Wait until RUN ended, or until it is a service that answers. The exit code says how it went."""
    with settings.client(manager=manager) as client:
        view = client.wait(run, timeout=timeout, watch=lambda seen: settings.voice.note(run_line(seen)))
    show_run(settings, view)


def _value(text: str) -> Any:
    """A parameter's value: JSON's numbers, booleans and quoted strings, else the text as it is."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, (str, int, float, bool)) else text


def _state(view: RunView) -> str:
    return f"{view.state} (simulated)" if view.simulated else view.state


def run_line(view: RunView) -> str:
    """A run's state, while it is waited for."""
    return f"run {view.run}: {_state(view)}" + (f" on {view.host}" if view.host else "")


def show_run(settings: Settings, view: RunView, *, failing: bool = True) -> None:
    """The run; then, where the command's outcome is the run's, its failure."""
    from perunml.client.runs import failure

    rows: list[tuple[str, object]] = [
        ("run", view.run),
        ("job", f"{view.job}, asked for by {view.requested_by}"),
        ("state", _state(view)),
    ]
    if view.host:
        rows.append(("host", view.host))
    if view.endpoint:
        rows.append(("endpoint", view.endpoint))
    if view.lease_until:
        rows.append(("lease until", view.lease_until))
    rows += [(f"output {out.name}", f"{out.asset} for {', '.join(out.to)}") for out in view.outputs]
    rows += [("reason", f"{item.get('code')}: {item.get('message')}") for item in view.reasons]
    settings.voice.answer(view.model_dump(mode="json"), table(rows))
    error = failure(view) if failing else None
    if error is not None:
        raise error
