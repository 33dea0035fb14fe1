"""`perunml quickstart`: the story of the demo, in a temporary folder, from an installed package."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import click

from perunml.cli.settings import Command, Settings


@click.command(cls=Command)
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="A folder of CSV files (a header line, numbers, the label last) instead of the bundled data.")  # fmt: skip
@click.option("--keep", type=click.Path(path_type=Path), help="Work in this new folder and leave it there.")
@click.pass_obj
def command(settings: Settings, data: Path | None, keep: Path | None) -> None:
    """Tell the whole story on this machine: five parties, one manager, two hosts, a model trained and served, and what is
    refused when things go wrong. Everything about its machines is simulated, and says so."""
    from perunml.testing.story.codes import PROGRAM_MISSING
    from perunml.testing.story.tell import missing_programs, tell
    from perunml.wire.errors import refuse

    if absent := missing_programs():
        raise refuse(
            PROGRAM_MISSING,
            "the story needs programs that are not installed here",
            seen=", ".join(absent),
            command="apt-get install bubblewrap swtpm swtpm-tools libtss2-dev libtss2-tcti-swtpm0",
        )
    with contextlib.ExitStack() as stack:
        if keep is None:
            folder = Path(tempfile.mkdtemp(prefix="perunml-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        else:
            keep.mkdir(parents=True)
            folder = keep
        result = tell(folder, data=data, quiet=settings.voice.as_json)
    if settings.voice.as_json:
        settings.voice.answer(result, "")
