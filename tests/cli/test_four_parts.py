"""Errors in four parts: what, what was seen, who can mend it, the command that does; over every rule that is declared."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest

import perunml
from cli.verbs import leaves
from perunml.cli.root import VERBS
from perunml.cli.voice import Voice, explain, four_parts, mending
from perunml.wire.errors import error
from perunml.wire.rules import Reason, Rule

TOP = Path(__file__).parents[2]
WHO = re.compile(
    r"\b(part(y|ies)|owners?|operator|caller|client|requester|sender|signer|proposer|holder|host|agent|manager|witnesses|"
    r"vendor|whoever|asker|keys of the party's board)\b",
    re.IGNORECASE,
)
"""Everybody who mends anything; an imperative names nobody."""
HEADING = "## Codes that no command mends"


def rules() -> dict[str, Rule]:
    """Every rule of the project, from its `codes` modules: what a test declares does not count."""
    found: dict[str, Rule] = {}
    for module in pkgutil.walk_packages(perunml.__path__, "perunml."):
        if module.name.endswith(".codes"):
            values = vars(importlib.import_module(module.name)).values()
            found |= {rule.code: rule for rule in values if isinstance(rule, Rule)}
    return found


def without() -> dict[str, str]:
    """Code to reason, of the page's table."""
    section = (TOP / "docs" / "refusals.md").read_text().partition(HEADING)[2].partition("\n## ")[0]
    found: dict[str, str] = {}
    for why, codes in re.findall(r"^\| ([^|`]+) \| (`.+`) \|$", section, re.MULTILINE):
        for code in re.findall(r"`([a-z0-9_]+)`", codes):
            assert code not in found, code
            found[code] = why
    return found


def test_there_are_rules() -> None:
    """An empty table would pass everything below."""
    assert len(rules()) > 150
    assert len(without()) > 20


def test_each_rule_says_who_can_mend_it() -> None:
    """A party, an owner, an operator: "try again" is nobody's."""
    assert {code: rule.mend for code, rule in rules().items() if not WHO.search(rule.mend)} == {}


def test_each_rule_names_a_command_or_the_page_says_why_not() -> None:
    """`perunml …` (or `make`, `swapoff`) in its line, or a row of docs/refusals.md; never both, and no row for what does not exist."""
    named = {code for code, rule in rules().items() if mending(Reason(rule, "x"))}
    bare = {code: rule.mend for code, rule in rules().items() if code not in named | set(without())}
    assert bare == {}, f"name the command, or say in docs/refusals.md ({HEADING}) why there is none"
    assert set(without()) & named == set()
    assert set(without()) <= set(rules())


@pytest.mark.parametrize("path", sorted((TOP / "src" / "perunml").rglob("*.py")), ids=lambda path: path.stem)
def test_each_command_named_anywhere_is_one(path: Path) -> None:
    """Whatever source text tells people to type, in a rule, a reason, a docstring: such a verb there is."""
    known = set(leaves()) | {verb.replace("output ", "model ") for verb in leaves() if verb.startswith("output ")}
    for words in re.findall(
        r"""(?:`|command=f?["'])perunml ((?:[a-z]+(?: |(?=[`"'…]))){1,2})""", path.read_text("utf-8")
    ):
        said = words.split()
        assert said[0] in VERBS, words
        whole = " ".join(said[:2])
        group = any(verb.startswith(f"{whole} ") for verb in known)
        assert whole in known or said[0] in known or group, f"perunml {words}"


@pytest.mark.parametrize("code", sorted(rules()))
def test_each_error_is_said_in_its_parts(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On the terminal and in JSON: what, seen and expected, mend, and the command unless the page says that there is none."""
    reason = Reason(rules()[code], "what happened", expected="this", seen="that")
    lines = four_parts(reason)
    assert lines[0] == f"refused: {code}: what happened"
    parts = {line.split(None, 1)[0]: line.split(None, 1)[1] for line in lines[1:]}
    assert parts["seen"] == "that (expected: this)"
    assert parts["mend"] == reason.rule.mend
    assert ("command" in parts) == (code not in without())
    explain(error([reason]), Voice(True))
    told = json.loads(capsys.readouterr().err)["reasons"][0]
    assert {name: told[name] for name in ("code", "message", "seen", "expected", "mend")} == {
        "code": code,
        "message": "what happened",
        "seen": "that",
        "expected": "this",
        "mend": reason.rule.mend,
    }
    assert told["command"] == parts.get("command", "")


def test_a_reasons_own_command_comes_before_its_rules() -> None:
    """It knows the name and the digest."""
    rule = rules()["asset_suspended"]
    assert mending(Reason(rule, "x")) == "perunml asset lift"
    assert mending(Reason(rule, "x", command="perunml asset lift scans")) == "perunml asset lift scans"


def refusals(path: Path) -> list[ast.Call]:
    """Every ``refuse(RULE, message, …)`` and ``Reason(RULE, message, …)`` in a file."""
    return [
        call
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in ("refuse", "Reason")
        and len(call.args) >= 2
    ]


def test_what_was_seen_is_said_by_all_that_speaks_to_people() -> None:
    """The rooms whose refusals a person hears first hand: each says what was seen, or what was expected. A usage error's
    message is click's, which quotes what was typed."""
    rooms = [path for room in ("cli", "client") for path in sorted((TOP / "src" / "perunml" / room).glob("*.py"))]
    found = [(path, call) for path in rooms for call in refusals(path)]
    silent = [
        f"{path.name}:{call.lineno}"
        for path, call in found
        if not {"seen", "expected"} & {keyword.arg for keyword in call.keywords}
        and ast.unparse(call.args[0]) != "USAGE"
    ]
    assert len(found) > 50
    assert silent == []
