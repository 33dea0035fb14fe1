"""`perunml infer`: ask a served model."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from perunml.cli.settings import Command, Settings, dry_run_option, manager_option
from perunml.cli.voice import table


@click.command(cls=Command)
@click.argument("run", metavar="RUN|AGREEMENT/JOB")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option("--endpoint", default="", metavar="URL", help="Reach the service here instead of where its host says.")
@click.option("--receipt", type=click.Path(path_type=Path, dir_okay=False),
              help="Where to write the receipt [default: this home's receipts folder].")  # fmt: skip
@click.option("--answer", type=click.Path(path_type=Path, dir_okay=False),
              help="Keep the answer as it came here: `perunml receipt verify --answer` holds it against the receipt.")  # fmt: skip
@manager_option
@dry_run_option
@click.pass_obj
def command(
    settings: Settings,
    run: str,
    file: Path,
    endpoint: str,
    receipt: Path | None,
    answer: Path | None,
    manager: str,
    dry_run: bool,
) -> None:
    """Ask a service with the inputs in FILE (- for stdin): a JSON object of the model's inputs by name, as nested lists of numbers, or an Open Inference Protocol request. Its host's certificate is checked against the pinned manager, the request is sealed to that
    host's key, and the answer comes with a receipt."""
    import json

    from perunml.client.home import write_file
    from perunml.wire.canonical import load_json
    from perunml.wire.codes import MALFORMED
    from perunml.wire.errors import refuse

    data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    inputs = load_json(data)
    if not isinstance(inputs, dict):
        raise refuse(MALFORMED, "inputs are one JSON object, by name", seen=type(inputs).__name__)
    with settings.client(manager=manager, dry_run=dry_run) as client:
        found = client.infer(run, inputs, endpoint=endpoint)
        kept = found.receipt.encode()
        body = client.verify_receipt(kept)
    path = receipt or settings.home.receipt_path(str(body["id"]))
    write_file(path, kept)
    if answer is not None:
        write_file(answer, found.answer)
    value = {"outputs": found.outputs, "receipt": str(path), "simulated": body["simulated"], "model": body["model"]}
    said = "simulated: the service's host proved nothing" if body["simulated"] else "attested"
    rows = [("outputs", json.dumps(found.outputs)), ("model", body["model"]), ("host", said), ("receipt", path)]
    settings.voice.answer(value, table(rows))
