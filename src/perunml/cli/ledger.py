"""`perunml ledger`: verify the manager's ledger since it was last seen."""

from __future__ import annotations

import click

from perunml.cli.settings import Settings, group, manager_option
from perunml.cli.voice import table

command = group("The manager's append-only ledger of everything it did.")


@command.command("verify")
@manager_option
@click.pass_obj
def verify(settings: Settings, manager: str) -> None:
    """Check that the ledger only grew since this party last saw it, that it holds every entry of this party's agreements,
    in order and unaltered, and what every receipt in this home says."""
    with settings.client(manager=manager) as client:
        audit = client.verify_ledger()
    value = {"size": audit.size, "seen": audit.seen, "root": audit.root, "agreements": dict(audit.agreements)}
    value["receipts"] = audit.receipts
    before = "first seen now" if audit.seen is None else f"contains the {audit.seen} entries seen before"
    rows: list[tuple[str, object]] = [("entries", f"{audit.size}, {before}"), ("root", audit.root)]
    rows += [("agreement", f"{digest}: {count} entries, all in it") for digest, count in audit.agreements.items()]
    rows.append(("receipts", f"{audit.receipts} of this home, all recorded in it"))
    settings.voice.answer(value, table(rows))
