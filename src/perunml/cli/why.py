"""`perunml why`: everything that stands in the way of a job, at once."""

from __future__ import annotations

import click

from perunml.cli.settings import Command, Settings, manager_option
from perunml.cli.voice import four_parts


@click.command("why", cls=Command)
@click.argument("job", metavar="RUN|AGREEMENT/JOB")
@manager_option
@click.pass_obj
def command(settings: Settings, job: str, manager: str) -> None:
    """Say why a run does not go on, or why a job would not run now: whose approval is missing, what is suspended or used up, which
    conditions, witnesses or hosts. All reasons at once; another owner's condition only as `owner_condition`."""
    from perunml.wire.rules import Reason

    with settings.client(manager=manager) as client:
        found = client.why(job)
    where = f"run {found.run}" if found.run else f"job {found.job}"
    lines = [f"{where} of {found.agreement}: {found.state}"]
    for reason in found.reasons:
        lines += four_parts(Reason.from_json(reason))
    for own in found.conditions:
        lines.append(
            f"your condition {own.condition} on {own.asset}: {own.member} wants {own.expected}, seen {own.seen}"
        )
    if not found.reasons:
        lines.append("nothing stands in its way")
    settings.voice.answer(found.model_dump(mode="json"), lines)
