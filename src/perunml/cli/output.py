"""`perunml output` and `perunml model`: list, approve and pull what runs produced."""

from __future__ import annotations

from pathlib import Path

import click

from perunml.cli.settings import Settings, dry_run_option, group, manager_option
from perunml.cli.voice import columns, table

command = group("What runs produced: list it, approve that it leaves, pull it.")


@command.command("list")
@click.option("--agreement", default="", help="Only outputs under this one (a digest or a name).")
@manager_option
@click.pass_obj
def list_(settings: Settings, agreement: str, manager: str) -> None:
    """List outputs of finished runs: for whom they are, and who may pull them now."""
    with settings.client(manager=manager) as client:
        found = client.outputs(agreement)
    rows = [
        (view.run, output.name, ", ".join(output.to), ", ".join(output.released_to) or "nobody yet", output.asset)
        for view, output in found
    ]
    value = {
        "outputs": [
            {"run": view.run, "job": view.job, "simulated": view.simulated, **output.model_dump(mode="json")}
            for view, output in found
        ]
    }
    settings.voice.answer(value, columns(("RUN", "OUTPUT", "FOR", "RELEASED TO", "ASSET"), rows))


@command.command("approve")
@click.argument("run")
@click.argument("name", metavar="OUTPUT")
@manager_option
@dry_run_option
@click.pass_obj
def approve(settings: Settings, run: str, name: str, manager: str, dry_run: bool) -> None:
    """Sign for this party that OUTPUT of RUN may leave to whom the agreement names."""
    with settings.client(manager=manager, dry_run=dry_run) as client:
        view = client.approve_output(run, name)
    rows = [("output", view.name), ("asset", view.asset), ("released to", ", ".join(view.released_to) or "nobody yet")]
    settings.voice.answer(view.model_dump(mode="json"), table(rows))


@command.command("pull")
@click.argument("run")
@click.argument("name", metavar="[OUTPUT]", default="model")
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder that does not exist yet.",
)
@manager_option
@click.pass_obj
def pull(settings: Settings, run: str, name: str, target: Path, manager: str) -> None:
    """Unpack OUTPUT (default: model) of RUN into a new folder, after every signature and digest was checked.

    The receipt is kept in this home; `perunml receipt verify` checks it again, offline.
    """
    from perunml.cli.progress import progress

    voice = settings.voice
    with settings.client(manager=manager) as client, progress(f"pulling {name}", silent=voice.as_json) as report:
        pulled = client.pull(run, name, target, progress=report)
    host = pulled.receipt.host
    value = {
        "asset": pulled.asset,
        "run": pulled.receipt.run,
        "output": name,
        "folder": str(pulled.folder),
        "files": pulled.files,
        "receipt": str(pulled.receipt_file),
        "simulated": host.simulated,
    }
    rows = [
        ("asset", pulled.asset),
        ("folder", pulled.folder),
        ("files", ", ".join(f"{path} ({size} bytes)" for path, size in pulled.files.items())),
        ("made on", f"{host.machine}, {host.profile}" + (f" (imitates {host.imitates})" if host.imitates else "")),
        ("receipt", pulled.receipt_file),
    ]
    voice.answer(value, table(rows))
