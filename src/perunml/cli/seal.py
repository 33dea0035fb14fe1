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
@click.option(
    "--fresh-key",
    is_flag=True,
    help="Share nothing with the version before: who was given that one's key opens nothing of this one.",
)
@click.pass_obj
def command(settings: Settings, source: Path, name: str, kind: str, fresh_key: bool) -> None:
    """Seal the folder or file SOURCE into this party's home. Nothing is sent; SOURCE stays as it is. A sealing that was interrupted goes on where it was, and of a next version only
    what changed is sealed, under the same data key."""
    from perunml.cli.progress import progress
    from perunml.wire.quantities import format_size

    voice = settings.voice
    with settings.client() as client, progress(f"sealing {name}", silent=voice.as_json) as report:
        sealed = client.seal(source, name=name, kind=kind, fresh_key=fresh_key, progress=report)
    manifest = sealed.manifest
    value = {
        "asset": sealed.asset,
        "name": manifest.name,
        "kind": manifest.kind,
        "version": manifest.version,
        "size": manifest.size,
        "reused": sealed.reused,
        "folder": str(sealed.folder),
    }
    rows = [
        ("asset", sealed.asset),
        ("name", f"{manifest.name}, version {manifest.version}, {manifest.kind}"),
        (
            "size",
            format_size(manifest.size) + (f", {format_size(sealed.reused)} of it as it was" if sealed.reused else ""),
        ),
        ("folder", sealed.folder),
    ]
    voice.answer(value, table(rows))
