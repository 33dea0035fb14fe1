"""`perunml infer`: ask a served model."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from perunml.cli.settings import Command, Settings, dry_run_option, manager_option
from perunml.cli.voice import table


@click.command(cls=Command)
@click.argument("run")
@click.option("--input", "source", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
              required=True, help="The inputs as JSON; - for stdin.")  # fmt: skip
@click.option("--endpoint", default="", metavar="URL", help="Reach the service here instead of where its host says.")
@click.option("--receipt", type=click.Path(path_type=Path, dir_okay=False),
              help="Where to write the receipt [default: this home's receipts folder].")  # fmt: skip
@manager_option
@dry_run_option
@click.pass_obj
def command(
    settings: Settings, run: str, source: Path, endpoint: str, receipt: Path | None, manager: str, dry_run: bool
) -> None:
    """Ask the service RUN. Its host's certificate is checked against the pinned manager, the request is sealed to that
    host's key, and the answer comes with a receipt."""
    import json

    from perunml.client.home import write_file
    from perunml.wire.canonical import load_json
    from perunml.wire.codes import MALFORMED
    from perunml.wire.errors import refuse

    data = sys.stdin.buffer.read() if str(source) == "-" else source.read_bytes()
    inputs = load_json(data)
    if not isinstance(inputs, dict):
        raise refuse(MALFORMED, "inputs are one JSON object, by name", seen=type(inputs).__name__)
    with settings.client(manager=manager, dry_run=dry_run) as client:
        outputs, kept = client.infer(run, inputs, endpoint=endpoint)
        body = client.verify_receipt(kept.encode())
    path = receipt or settings.home.receipt_path(str(body["id"]))
    write_file(path, kept.encode())
    value = {"outputs": outputs, "receipt": str(path), "simulated": body["simulated"], "model": body["model"]}
    said = "simulated: the service's host proved nothing" if body["simulated"] else "attested"
    rows = [("outputs", json.dumps(outputs)), ("model", body["model"]), ("host", said), ("receipt", path)]
    settings.voice.answer(value, table(rows))
