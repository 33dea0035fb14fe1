"""`perunml seal`: seal a folder or file into this party's home."""

from __future__ import annotations

from pathlib import Path

import click

from perunml.cli.settings import Command, Settings
from perunml.cli.voice import table


@click.command(cls=Command)
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("--name", required=True, help="The asset's name; sealing it again makes its next version.")
@click.option("--kind", required=True, type=click.Choice(["dataset", "code", "model"]), help="What it is.")
@click.pass_obj
def command(settings: Settings, source: Path, name: str, kind: str) -> None:
    """Seal the folder or file SOURCE into this party's home. Nothing is sent; SOURCE stays as it is."""
    from perunml.cli.progress import progress
    from perunml.wire.quantities import format_size

    voice = settings.voice
    with settings.client() as client, progress(f"sealing {name}", silent=voice.as_json) as report:
        sealed = client.seal(source, name=name, kind=kind, progress=report)
    manifest = sealed.manifest
    value = {
        "asset": sealed.asset,
        "name": manifest.name,
        "kind": manifest.kind,
        "version": manifest.version,
        "size": manifest.size,
        "folder": str(sealed.folder),
    }
    rows = [
        ("asset", sealed.asset),
        ("name", f"{manifest.name}, version {manifest.version}, {manifest.kind}"),
        ("size", format_size(manifest.size)),
        ("folder", sealed.folder),
    ]
    voice.answer(value, table(rows))
