"""Help: everywhere, with text, at once, and without loading what it does not need."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from cli.kit import Party
from perunml.cli.root import VERBS, cli


def verbs() -> list[tuple[str, ...]]:
    """Every command line word by word, groups and leaves."""
    found: list[tuple[str, ...]] = [()]
    context = click.Context(cli)
    for name in VERBS:
        command = cli.get_command(context, name)
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, inner) for inner in command.list_commands(context)]
    return found


@pytest.mark.parametrize("words", verbs(), ids=" ".join)
def test_every_help_has_text(words: tuple[str, ...], nobody: Party) -> None:
    """Each verb explains itself and each of its options, and takes the three options that all take."""
    said = nobody(*words, "--help", passphrase=None)
    assert said.code == 0
    assert "--output" in said.out or "Commands:" in said.out
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    assert command.help
    assert command.help.strip().endswith((".", ":", "`."))
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_each_line_of_help_is_the_roots() -> None:
    """The root's table knows verbs without importing them; every module that it names must exist."""
    context = click.Context(cli)
    for name in VERBS:
        assert cli.get_command(context, name) is not None


def test_help_loads_nothing_heavy() -> None:
    """DESIGN section 10: help in 150 ms, so no library that takes tens of milliseconds is imported for it."""
    heavy = "torch sqlalchemy starlette uvicorn httpx pydantic cryptography yaml rich rfc8785 sklearn numpy asyncio"
    code = (
        "import sys; from perunml.cli.root import run; code = run(['--help']);"
        f"found = set('{heavy}'.split()) & set(sys.modules); assert not found, found; sys.exit(code)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_import_perunml_imports_nothing_else() -> None:
    """`import perunml` costs nothing; the SDK comes when its name is asked for."""
    code = (
        "import sys; before = set(sys.modules); import perunml;"
        "assert not [m for m in set(sys.modules) - before if m.startswith(('perunml.', 'httpx', 'pydantic'))];"
        "from perunml import Client; assert Client.__module__ == 'perunml.client.client'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_unknown_verb_names_the_nearest(nobody: Party) -> None:
    """A slip of the finger is answered with the verb that was meant; exit code 2."""
    said = nobody("agrement", "list", passphrase=None)
    assert said.code == 2
    assert "did you mean 'agreement'?" in said.err
    inner = nobody("-o", "json", "agreement", "aprove", "x", passphrase=None)
    assert inner.reasons == ["usage"]
    assert "'approve'" in inner.err


def test_version(nobody: Party) -> None:
    """One line."""
    import perunml

    said = nobody("--version", passphrase=None)
    assert said.out == f"perunml {perunml.__version__}\n"
