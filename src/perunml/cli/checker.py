"""`perunml checker`: an automated member of a party's board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perunml.cli.settings import Settings, group, manager_option
from perunml.cli.voice import table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perunml.client.checker.judge import Finding

command = group("Sign what a party's own rules allow, and say why not; a member of its board that never sleeps.")
config_option = click.option(
    "--config", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The checker's rules."
)


@command.command("try")
@config_option
@click.argument("target")
@manager_option
@click.pass_obj
def try_(settings: Settings, config: Path, target: str, manager: str) -> None:
    """Say what a checker would have against TARGET: an agreement (a file, digest or name), or a folder of code. Signs nothing; exit code 0 whether it
    would sign or not."""
    with settings.client(manager=manager) as client:
        found = client.try_checker(config, target)
    value = {"would_sign": not found, "findings": _told(found)}
    rows = [("would sign", "no" if found else "yes"), *((one.rule, one.words) for one in found)]
    settings.voice.answer(value, table(rows))


@command.command("run")
@config_option
@click.option(
    "--every", type=click.FloatRange(0.1, 3600), default=10.0, show_default=True, help="Seconds between two looks."
)
@manager_option
@click.pass_obj
def run(settings: Settings, config: Path, every: float, manager: str) -> None:
    """Look at proposals until stopped, sign those that nothing speaks against, and say of each other one why not, once. With `-o json` one JSON
    object a line."""
    import signal
    from threading import Event

    from perunml.cli.manager import say_event
    from perunml.client.checker.rules import read_rules
    from perunml.client.checker.watch import Verdict, check_until
    from perunml.wire.errors import PerunError

    rules, stop = read_rules(config.read_bytes()), Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stop.set())

    def told(event: Verdict | PerunError) -> None:
        if isinstance(event, PerunError):
            value = {"event": "waiting", "reasons": [reason.as_json() for reason in event.reasons]}
            return say_event(settings, value, f"waiting   {event}")
        what = "signed" if event.signed else "not signed"
        value = {"event": what.replace(" ", "-"), "agreement": event.agreement, "findings": _told(event.findings)}
        why = "; ".join(f"{one.rule}: {one.words}" for one in event.findings)
        return say_event(
            settings, value, f"{what:<10} {event.name} version {event.version} {event.agreement} {why}".rstrip()
        )

    with settings.client(manager=manager) as client:
        check_until(stop, client, rules, told, pause=every)


def _told(found: Iterable[Finding]) -> list[dict[str, str]]:
    return [{"rule": one.rule, "words": one.words} for one in found]
