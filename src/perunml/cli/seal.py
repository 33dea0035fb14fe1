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
@click.option("--record-size", type=click.IntRange(min=1), default=None, metavar="BYTES",
              help="Files other than .npy, .tar and .parquet hold records of this length: cut them at their borders.")  # fmt: skip
@click.option("--record-header", type=click.IntRange(min=0), default=0, metavar="BYTES",
              help="What stands before the first record [default: nothing].")  # fmt: skip
@click.option("--chunk-size", default="1MiB", metavar="SIZE", show_default=True,
              help="What is opened together, 64KiB to 4MiB: small for records that are read alone, large for what is read in order.")  # fmt: skip
@click.pass_obj
def command(
    settings: Settings, source: Path, name: str, kind: str, fresh_key: bool, record_size: int | None, record_header: int, chunk_size: str
) -> None:  # fmt: skip
    """Seal the folder or file SOURCE into this party's home. Nothing is sent; SOURCE stays as it is. A sealing that was interrupted goes on where it was, and of a next version only
    what changed is sealed, under the same data key."""
    from perunml.cli.progress import progress
    from perunml.sealing.chunks import MAX_CHUNK, MIN_CHUNK
    from perunml.wire.quantities import format_size, parse_size

    size = parse_size(chunk_size)
    if not MIN_CHUNK <= size <= MAX_CHUNK:
        raise click.BadParameter(f"{chunk_size} is not within 64KiB to 4MiB", param_hint="--chunk-size")
    voice = settings.voice
    with settings.client() as client, progress(f"sealing {name}", silent=voice.as_json) as report:
        sealed = client.seal(
            source, name=name, kind=kind, fresh_key=fresh_key, record_size=record_size or 0, record_header=record_header,
            chunk_size=size, progress=report,
        )  # fmt: skip
    manifest = sealed.manifest
    value = {
        "asset": sealed.asset,
        "name": manifest.name,
        "kind": manifest.kind,
        "version": manifest.version,
        "size": manifest.size,
        "reused": sealed.reused,
        "aligned": sealed.aligned,
        "folder": str(sealed.folder),
    }
    rows = [
        ("asset", sealed.asset),
        ("name", f"{manifest.name}, version {manifest.version}, {manifest.kind}"),
        (
            "size",
            format_size(manifest.size) + (f", {format_size(sealed.reused)} of it as it was" if sealed.reused else ""),
        ),
        *([("aligned", f"{format_size(sealed.aligned)}, cut at records' borders")] if sealed.aligned else []),
        ("folder", sealed.folder),
    ]
    voice.answer(value, table(rows))
