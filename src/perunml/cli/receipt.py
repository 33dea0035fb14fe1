"""`perunml receipt`: verify a receipt, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from perunml.cli.settings import Settings, group, manager_option
from perunml.cli.voice import table

command = group("Receipts: signed proof of what ran, and of each answer.")


@command.command("verify")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@manager_option
@click.option("--pin", "pin_file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="A pin's file instead of this home's.")  # fmt: skip
@click.option("--answer", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="A service's answer, which must be the one that the receipt is about.")  # fmt: skip
@click.pass_obj
def verify(settings: Settings, file: Path, manager: str, pin_file: Path | None, answer: Path | None) -> None:
    """Check every signature of the receipt in FILE against a pinned manager. Asks nobody; needs no passphrase."""
    from perunml.api.pin import Pin
    from perunml.client.audit import verify_receipt_file

    pin = Pin.from_file(pin_file.read_bytes()) if pin_file else settings.home.pin(manager)
    body = verify_receipt_file(file.read_bytes(), pin, answer.read_bytes() if answer else None)
    rows = [("verified", f"signed under the pinned manager {pin.url}"), *_rows(body)]
    settings.voice.answer({"verified": True, "receipt": body}, table(rows))


def _rows(body: dict[str, Any]) -> list[tuple[str, object]]:
    """A receipt's members, nested ones flattened."""
    rows: list[tuple[str, object]] = []
    for name, value in body.items():
        if isinstance(value, dict):
            rows += [(f"{name} {key}", item) for key, item in value.items()]
        elif isinstance(value, list):
            rows += [(name, item) for item in value]
        else:
            rows.append((name, value))
    return rows
