"""`perunml audit`: export the ledger, and verify an export without asking anybody."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perunml.cli.settings import Settings, group, manager_option
from perunml.cli.voice import table

if TYPE_CHECKING:
    from perunml.client.audit_verify import AuditReport

command = group("Audit what a manager did: export its ledger, verify an export offline.")


@command.command("export")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@manager_option
@click.pass_obj
def export(settings: Settings, out: Path, manager: str) -> None:
    """Write the whole ledger, and everything that this party may read of it, to the new file OUT: a zip with the tiles of C2SP."""
    from perunml.cli.progress import progress

    with settings.client(manager=manager) as client, progress("leaves", silent=settings.voice.as_json) as report:
        found = client.export_audit(out, progress=report)
    value = {"file": str(out), "size": found.size, "root": found.root.hex(), "bytes": out.stat().st_size}
    rows = [("file", f"{out}, {value['bytes']} bytes"), ("entries", found.size), ("root", value["root"])]
    settings.voice.answer(value, table(rows))


@command.command("verify")
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--pin",
    "pin_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A pin's file, instead of this home's.",
)
@manager_option
@click.pass_obj
def verify(settings: Settings, file: Path, pin_file: Path | None, manager: str) -> None:
    """Verify everything in the export FILE (or the folder it was unpacked to), offline: the tree and its tiles, every signature, approval, release and receipt, each
    decided again. The first thing that does not follow is named, with its entry. Asks nobody; needs no passphrase."""
    from perunml.api.pin import Pin
    from perunml.client.audit_verify import verify_at_home, verify_export
    from perunml.wire.identity import PublicKey

    if pin_file is not None:
        report = verify_export(file, PublicKey(Pin.from_file(pin_file.read_bytes()).identity))
    else:
        report = verify_at_home(file, settings.home, settings.home.pin(manager))
    _show(settings, report)


def _show(settings: Settings, report: AuditReport) -> None:
    from perunml.wire.timestamps import format_time

    witnesses = [{"key": w.key, "size": w.size, "time": format_time(w.time)} for w in report.witnesses]
    value = {
        "size": report.size,
        "root": report.root,
        "agreements": dict(report.agreements),
        "counts": dict(report.counts),
        "witnesses": witnesses,
        "unchecked": list(report.unchecked),
    }
    rows: list[tuple[str, object]] = [("entries", f"{report.size}, tree and tiles as signed"), ("root", report.root)]
    rows += [("agreement", f"{digest}: {count} entries") for digest, count in report.agreements.items()]
    rows += [
        (name, f"{count}, each follows from what was signed")
        for name, count in report.counts.items()
        if name != "entries"
    ]
    rows += [("witness", f"{w['key']}: {w['size']} entries, {w['time']}") for w in witnesses]
    rows += [("not told here", words) for words in report.unchecked]
    settings.voice.answer(value, table(rows))
