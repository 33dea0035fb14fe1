"""docs/cli.md: each command that it shows is understood, each verb is shown."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path

import click
import pytest

from cli.test_help import verbs
from perunml import Client, operators
from perunml.cli.root import cli
from perunml.cli.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    for line in block.splitlines()
    if line.startswith("perunml")
]
FILES = (
    "newer.json",
    "quote.msg",
    "quote.sig",
    "ak.tpm2b_public",
    "ek.der",
    "bios_measurements",
    "ima_measurements",
    "quote.bin",
    "quote.hex",
    "collateral.json",
    "ccel.bin",
    "bundle.json",
    "report.bin",
    "ark.crl",
    "report.hex",
    "chain.pem",
    "gpus.json",
    "switches.json",
    "root.tar",
    "status",
    "policy.json",
    "profile.yaml",
    "agreement.yaml",
    "newer.yaml",
    "checker.yaml",
    "manager.backup",
    "ledger-2027.zip",
    "condition.yaml",
    "approval.json",
    "approval.sig",
    "baseline.json",
    "development-root.pem",
    "baseline.yaml",
    "release.json",
    "gpu-7.eventlog",
    "golden.json",
    "account.json",
    "quote.bin",
    "devices.json",
    "cache.pem",
    "bundle.json",
    "patient.json",
    "receipt.json",
    "pin.json",
    "vendor.pem",
    "swtpm-ca.pem",
    "issuer.der",
    "root.der",
    "issuer.crl",
)


def parse(words: list[str]) -> tuple[str, ...]:
    """The verb that a command line calls, with its arguments parsed and nothing done."""
    command: click.Command = cli
    context = command.make_context("perunml", words, obj=Settings())
    path: list[str] = []
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        assert name is not None
        context = found.make_context(name, rest, parent=context)
        command = found
        path.append(name)
    return tuple(path)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_shown_command_is_understood(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verb, option and argument on the page exists and has this form."""
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        Path(name).touch()
    for name in (
        "scans",
        "roots",
        "packages",
        "sysroot",
        "manifests",
        "answers",
        "certificates",
        "vendors",
        "image",
        "secure-boot",
        "disk",
    ):
        Path(name).mkdir()
    words = shlex.split(re.sub(r" \d< \S+$", "", line))[1:]
    parse(words)


def test_every_verb_is_shown() -> None:
    """A verb that the page leaves out is a verb that nobody finds."""
    shown = {parse_name(line) for line in COMMANDS}
    groups = {words[:1] for words in verbs() if len(words) == 2}
    wanted = {words for words in verbs() if words and words not in groups and words[0] != "model"}
    missing = {words for words in wanted if words not in shown and " ".join(words) not in PAGE}
    assert COMMANDS
    assert not missing


def parse_name(line: str) -> tuple[str, ...]:
    return tuple(word for word in line.split()[1:3] if re.fullmatch("[a-z]+", word))


README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README + PAGE, re.S)
MODULE = inspect.getdoc(operators) or ""
"""Its docstring shows code, too."""


@pytest.mark.parametrize("code", [*BLOCKS, MODULE.partition("\n\n")[2].partition("\n\nEach")[0]], ids=lambda code: "")
def test_the_python_shown_fits_the_sdk(code: str) -> None:
    """What the README, docs/cli.md and `perunml.operators` show: the imports run; each method is there and takes what it is
    given there."""
    tree = ast.parse(code)
    owners = {"client": Client, "Client": Client, "operators": operators}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        exec(compile(ast.Module([node], []), "shown", "exec"), {})
    assert {node.module for node in imports} == {"perunml"}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        match call.func:
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in owners:
                given = {keyword.arg: None for keyword in call.keywords if keyword.arg}
                own = int(owner == "client" and inspect.isfunction(inspect.getattr_static(Client, name)))
                inspect.signature(getattr(owners[owner], name)).bind(*[None] * (len(call.args) + own), **given)
