"""`perunml witness`: cosign a manager's ledger, so that nothing is released from one that lost or changed its history."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from perunml.cli.settings import Settings, group, manager_option
from perunml.cli.voice import table

if TYPE_CHECKING:
    from perunml.client.witness import Witnessed
    from perunml.wire.errors import PerunError

command = group("Watch a manager's ledger, and cosign it for the agreements that name this party.")


@command.command("once")
@manager_option
@click.pass_obj
def once(settings: Settings, manager: str) -> None:
    """Look once: the ledger must contain what this party saw before; then it is cosigned."""
    with settings.client(manager=manager) as client:
        seen = client.witness()
    settings.voice.answer(asdict(seen), table(_rows(seen)))


@command.command("run")
@manager_option
@click.pass_obj
def run(settings: Settings, manager: str) -> None:
    """Witness until stopped. A manager that cannot be reached is asked again; one whose ledger lost what was seen, or shows two
    histories, ends it with exit code 14. With `-o json` one JSON object a line."""
    import signal
    from threading import Event

    from perunml.cli.manager import say_event
    from perunml.client.witness import witness_until
    from perunml.wire.errors import PerunError

    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stop.set())
    last: list[object] = [None]

    def told(event: Witnessed | PerunError) -> None:
        if isinstance(event, PerunError):
            what: object = event.code
            value = {"event": "waiting", "reasons": [reason.as_json() for reason in event.reasons]}
            line = f"waiting   {event}"
        else:
            what = (event.size, event.cosigned)
            value = {"event": "cosigned" if event.cosigned else "seen", **asdict(event)}
            line = f"{value['event']:<9} {event.size} entries, root {event.root}"
        if what != last[0]:  # the same ledger cosigned again is no news for people
            say_event(settings, value, line)
        last[0] = what

    with settings.client(manager=manager) as client:
        witness_until(stop, client.connection, client.home, client.identity.signing, told)


def _rows(seen: Witnessed) -> list[tuple[str, object]]:
    before = "first seen now" if seen.seen is None else f"contains the {seen.seen} entries seen before"
    cosigned = "yes" if seen.cosigned else "no: no agreement in force names this party's key as a witness's"
    return [("entries", f"{seen.size}, {before}"), ("root", seen.root), ("cosigned", cosigned)]
