"""`perunml completion`: print the shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from perunml.cli.settings import Command, Settings


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def command(settings: Settings, shell: str) -> None:
    """Print the completion script for a shell: `eval "$(perunml completion bash)"`."""
    from perunml.cli.root import cli

    found = get_completion_class(shell)
    assert found is not None
    script = found(cli, {}, "perunml", "_PERUNML_COMPLETE").source()
    settings.voice.answer({"shell": shell, "script": script}, script.splitlines())
