"""The README is true: its commands exist, its links lead somewhere, its table is the threat model's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
README = (TOP / "README.md").read_text()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE))))
def test_each_make_target_exists(target: str) -> None:
    """What the README tells people to type is in the Makefile."""
    assert re.search(rf"^{target}:", (TOP / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_each_link_leads_somewhere(link: str) -> None:
    """No dead link."""
    assert (TOP / link).exists()


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"`perunml ([a-z]+(?: [a-z]+)?)`", README))))
def test_each_verb_has_help(verb: str) -> None:
    """Each command named is one, and says what it does."""
    done = subprocess.run(
        [sys.executable, "-m", "perunml", *verb.split(), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_it_opens_with_the_two_commands() -> None:
    """Before the first block: what it is and for whom, in a title and two paragraphs, no command. In the block: what a bare
    system lacks, `make demo`, `make test`, in this order, and nothing else; no set-up stands anywhere before them."""
    before, fence, rest = README.partition("```")
    assert fence
    language, *lines = rest.partition("```")[0].strip().splitlines()
    commands = [line.partition("#")[0].strip() for line in lines]
    assert (language, commands) == (
        "sh",
        ["sudo apt-get install -y make python3-venv", "make demo", "make test"],
    )
    assert all(line.partition("#")[2].strip() for line in lines), "each line says what it does"
    paragraphs = [part.strip() for part in before.split("\n\n") if part.strip()]
    title, *said = paragraphs
    assert title == "# Perun"
    assert 1 <= len(said) <= 3
    assert not any(re.match(r"#|-|\d|\||>|\[|!", part) for part in said), "sentences, no headings, lists or badges"
    assert "`" not in before, "no command before the two"


def test_what_make_needs_is_in_the_first_line() -> None:
    """`make` and what makes a virtual environment are all that the set-up cannot bring itself."""
    first = next(line for line in README.splitlines() if "apt-get install" in line)
    assert {"make", "python3-venv"} == set(first.partition("#")[0].split()[4:])
    setup = (TOP / "tools" / "setup.sh").read_text()
    assert "apt-get install" in setup
    for target in ("demo", "test"):
        assert re.search(rf"^{target}: setup$", (TOP / "Makefile").read_text(), re.MULTILINE), target


def test_the_modes_table_is_the_threat_models() -> None:
    """The table of modes stands in two places and says the same."""

    def rows(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("| ") and line.count("|") == 6]

    model = (TOP / "docs" / "threat-model.md").read_text()
    assert rows(README) == rows(model)
    assert len(rows(README)) >= 8
