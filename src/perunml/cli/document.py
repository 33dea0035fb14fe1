"""`perunml document`: sign and send a document that agreements name by digest."""

from __future__ import annotations

from pathlib import Path

import click

from perunml.cli.settings import Settings, dry_run_option, group, manager_option
from perunml.cli.voice import table

command = group(
    "Sign and send documents that agreements name by digest: a baseline, what a host's machine must measure."
)


@command.command("push")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@manager_option
@dry_run_option
@click.pass_obj
def push(settings: Settings, file: Path, manager: str, dry_run: bool) -> None:
    """Sign the YAML or JSON document in FILE (its `kind` says which: Baseline) and send it."""
    from perunml.client.documents import read_document

    kind, body = read_document(file.read_bytes())
    with settings.client(manager=manager, dry_run=dry_run) as client:
        view = client.push_document(kind, body)
    settings.voice.answer(view.model_dump(mode="json"), table([("digest", view.digest), ("kind", view.kind)]))


@command.command("sign")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Where to put it: a new file."
)
@click.pass_obj
def sign(settings: Settings, file: Path, out: Path) -> None:
    """Sign the ManagerProfile in FILE, to be published; a signed one gets one more signature. Sends nothing."""
    from perunml.client.codes import ALREADY_EXISTS
    from perunml.wire.errors import refuse

    with settings.client() as client:
        envelope = client.sign_document(file)
    try:
        with out.open("xb") as made:
            made.write(envelope.encode())
    except FileExistsError:
        raise refuse(ALREADY_EXISTS, "the file is there already", seen=str(out)) from None
    signers = [key for key, _ in envelope.signatures]
    value = {"digest": envelope.digest, "kind": "ManagerProfile", "signers": signers, "file": str(out)}
    settings.voice.answer(
        value, table([("digest", envelope.digest), *(("signed by", key) for key in signers), ("file", out)])
    )


@command.command("digest")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_obj
def digest(settings: Settings, file: Path) -> None:
    """Print the digest by which an agreement names the document in FILE. Sends nothing."""
    from perunml.client.client import Client
    from perunml.client.documents import read_document

    kind, body = read_document(file.read_bytes())
    found = Client.document_digest(kind, body)
    settings.voice.answer({"digest": found, "kind": kind}, [found])
