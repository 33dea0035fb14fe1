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


def test_the_modes_table_is_the_threat_models() -> None:
    """The table of modes stands in two places and says the same."""

    def rows(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("| ") and line.count("|") == 6]

    model = (TOP / "docs" / "threat-model.md").read_text()
    assert rows(README) == rows(model)
    assert len(rows(README)) >= 8
