"""What holds for every verb: the home folder, the form of the output, where the passphrase comes from.

The three options may stand before or after the verb. A passphrase comes from an open file descriptor or from the
terminal; there is no option and no variable that holds one, for both can be read by other processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from perunml.cli.voice import Voice

if TYPE_CHECKING:
    from perunml.client.client import Client
    from perunml.client.home import Home

MAX_PASSPHRASE = 4096
"""Bytes read from the descriptor."""


@dataclass
class Settings:
    """One command line's settings."""

    home_folder: Path | None = None
    output: str = "text"
    passphrase_fd: int | None = None
    _passphrase: bytes | None = field(default=None, repr=False)

    @property
    def voice(self) -> Voice:
        return Voice(self.output == "json")

    @property
    def home(self) -> Home:
        from perunml.client.home import Home, default_home

        return Home(self.home_folder or default_home())

    def passphrase(self, prompt: str = "Passphrase", *, new: bool = False) -> bytes:
        """Asked for once; a new one is typed twice. Raises `UsageError` (passphrase_missing)."""
        if self._passphrase is None:
            self._passphrase = self._read() if self.passphrase_fd is not None else _ask(prompt, new)
        return self._passphrase

    def client(self, *, manager: str = "", dry_run: bool = False) -> Client:
        """The SDK, with this party's keys open."""
        from perunml.client.client import Client
        from perunml.client.identity import PublicIdentity

        home = self.home
        PublicIdentity.load(home)  # says what is missing before it asks for a passphrase
        return Client.open(home.folder, self.passphrase(), manager=manager, dry_run=dry_run)

    def _read(self) -> bytes:
        from perunml.client.codes import PASSPHRASE_MISSING
        from perunml.wire.errors import refuse

        assert self.passphrase_fd is not None
        try:
            with os.fdopen(os.dup(self.passphrase_fd), "rb") as source:
                data = source.read(MAX_PASSPHRASE + 1)
        except OSError as exc:
            raise refuse(
                PASSPHRASE_MISSING, f"descriptor {self.passphrase_fd} cannot be read", seen=exc.strerror or "OSError"
            ) from None
        passphrase = data.split(b"\n", 1)[0]
        if not passphrase or len(data) > MAX_PASSPHRASE:
            raise refuse(PASSPHRASE_MISSING, "no passphrase came", expected=f"one line of 1 to {MAX_PASSPHRASE} bytes")
        return passphrase


def _ask(prompt: str, new: bool) -> bytes:
    from perunml.client.codes import PASSPHRASE_MISSING
    from perunml.wire.errors import refuse

    if not sys.stdin.isatty():
        raise refuse(
            PASSPHRASE_MISSING,
            "there is no terminal to ask for the passphrase",
            expected="--passphrase-fd N",
            command="perunml --passphrase-fd 3 … 3<passphrase-file",
        )
    typed: str = click.prompt(prompt, hide_input=True, confirmation_prompt=new, err=True)
    return typed.encode()


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None:
        setattr(ctx.find_root().ensure_object(Settings), str(param.name), value)


def common_options() -> list[click.Parameter]:
    """New copies of the options that every verb takes."""
    return [
        click.Option(
            ["--home", "home_folder"],
            type=click.Path(path_type=Path, file_okay=False),
            expose_value=False,
            callback=_keep,
            help="This party's folder [default: $PERUNML_HOME or ~/.perunml].",
        ),
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["text", "json"]),
            expose_value=False,
            callback=_keep,
            help="How to answer [default: text].",
        ),
        click.Option(
            ["--passphrase-fd"],
            type=click.IntRange(0),
            metavar="N",
            expose_value=False,
            callback=_keep,
            help="Read the passphrase from this open file descriptor instead of the terminal.",
        ),
    ]


class Command(click.Command):
    """A verb, with the options that all verbs take."""

    def __init__(self, name: str | None, *, params: Sequence[click.Parameter] | None = None, **kwargs: Any) -> None:
        super().__init__(name, params=[*(params or ()), *common_options()], **kwargs)


class Group(click.Group):
    """Verbs under one word; an unknown one is answered with the nearest known."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)


def group(help_text: str) -> Group:
    """An empty group; its verbs are added with ``@command.command()``."""
    return Group(help=help_text)


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell completes an argument that may be a file as one."""
    return [CompletionItem(incomplete, type="file")]


dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing.")
manager_option = click.option(
    "--manager", default="", metavar="URL|NAME|KEY", help="Which pinned manager, where there are several."
)
