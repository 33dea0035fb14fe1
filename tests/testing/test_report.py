"""What a person sees of the story: one line for each refusal, and a table of the parties at the end."""

from __future__ import annotations

import pytest

from perunml.testing.story.report import Report
from perunml.testing.story.script import Story
from perunml.testing.story.tell import rows
from perunml.testing.story.world import PARTIES


def test_a_refusal_is_one_line_with_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    """Who, what was tried, the code and the reason stand on one line."""
    Report().refused("acme", "asks for a fourth run", "runs_exhausted", "train has had its 3 agreed runs")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.strip() == "✋ acme        asks for a fourth run → runs_exhausted: train has had its 3 agreed runs"


def test_the_story_ends_in_a_table_of_all_parties(capsys: pytest.CaptureFixture[str]) -> None:
    """Each of the five has its row: what it put in, what it got, what it never saw."""
    story = Story.__new__(Story)
    story.found = {"accuracy": 0.965}
    table = rows(story)
    assert [row[0].split("\n")[0] for row in table] == list(PARTIES)
    assert all(all(cell for cell in row) for row in table)
    Report().table(table)
    shown = capsys.readouterr().out
    for word in (*PARTIES, "put in", "got", "never saw"):
        assert word in shown
