"""`perunml serve`: a service of an agreement, until it answers."""

from __future__ import annotations

import click

from perunml.cli.job import run_line, show_run
from perunml.cli.settings import Command, Settings, dry_run_option, manager_option


@click.command(cls=Command)
@click.argument("agreement")
@click.argument("job", default="")
@click.option("--another", is_flag=True, help="A new run even where one answers already: a replica.")
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="How long to wait at most.")
@manager_option
@dry_run_option
@click.pass_obj
def command(
    settings: Settings, agreement: str, job: str, another: bool, timeout: float | None, manager: str, dry_run: bool
) -> None:
    """Have the service JOB of AGREEMENT (a digest or a name; JOB may be left out where there is one) run on a host of its role, and wait until it answers. One that answers already is
    shown. Clients then ask `perunml infer` or `perunml proxy`."""
    with settings.client(manager=manager, dry_run=dry_run) as client:
        view = client.serve(
            agreement, job, another=another, timeout=timeout, watch=lambda seen: settings.voice.note(run_line(seen))
        )
    show_run(settings, view)
