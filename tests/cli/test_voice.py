"""The terminal's voice: four parts, clean of what others wrote, and coded to the last exit."""

from __future__ import annotations

import errno
import json

import click
import pytest

from cli.kit import Party
from perunml.cli.voice import Voice, clean, columns, explain, four_parts
from perunml.client.codes import NOT_FOUND
from perunml.wire.errors import error, refuse
from perunml.wire.rules import Kind, Reason, Rule


def test_an_error_has_four_parts(vitus: Party) -> None:
    """What, what was seen, who can mend it, the command that does."""
    said = vitus("push", "nothing")
    lines = said.err.splitlines()
    assert lines[0].startswith("refused: not_found: no sealed asset 'nothing'")
    assert [line.split()[0] for line in lines[1:]] == ["seen", "mend", "command"]
    assert lines[3].split(None, 1)[1].startswith("perunml seal")


def test_the_first_line_stands_alone() -> None:
    """Scripts and people read one line; a reason cannot forge a second."""
    lines = four_parts(Reason(NOT_FOUND, "two\nlines\x1b[31m", seen="a\rb"))
    assert lines[0] == r"refused: not_found: two\nlines\x1b[31m"
    assert not any(c in line for line in lines for c in "\n\r\x1b")


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "a\nb", "\x9b31m", "\u202egnp.exe", "\x7f", "a\tb"])
def test_control_characters_are_shown_not_obeyed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """D10: what another party wrote moves no cursor, rings no bell, turns no text round."""
    Voice(False).answer(None, [text])
    Voice(True).answer({"x": text}, [])
    Voice(False).note(text)
    said = capsys.readouterr()
    for shown in (said.out, said.err):
        assert text not in shown
        assert all(c.isprintable() or c == "\n" for c in shown)
    assert "\n" not in clean(text)
    assert columns(("A",), [(text,)])[1].isprintable()


def test_every_kind_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """0 and ten others, as the README lists them; JSON says the same number."""
    expected = {
        Kind.USAGE: 2,
        Kind.AGREEMENT: 10,
        Kind.EVIDENCE: 11,
        Kind.PENDING: 12,
        Kind.SUSPENDED: 13,
        Kind.INTEGRITY: 14,
        Kind.LIMIT: 15,
        Kind.UNREACHABLE: 16,
        Kind.JOB: 17,
        Kind.HELD: 18,
    }
    assert set(expected) == set(Kind)
    for kind, code in expected.items():
        found = error([Reason(Rule("some_code", kind, "meaning", "mend"), "message")])
        assert explain(found, Voice(True)) == explain(found, Voice(False)) == code
        said = capsys.readouterr().err
        assert json.loads(said[: said.index("refused: ")])["exit"] == code


def test_all_reasons_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Not the first alone; the first decides the exit code."""
    both = error([Reason(NOT_FOUND, "one"), Reason(NOT_FOUND, "two")])
    assert explain(both, Voice(False)) == 2
    assert capsys.readouterr().err.count("refused: not_found") == 2


def test_a_full_disk_is_a_limit(capsys: pytest.CaptureFixture[str]) -> None:
    """S9: no traceback; exit code 15."""
    assert explain(OSError(errno.ENOSPC, "No space left on device", "/x"), Voice(False)) == 15
    assert "disk_full" in capsys.readouterr().err
    assert explain(PermissionError(errno.EACCES, "Permission denied", "/x"), Voice(False)) == 2
    assert "local_file" in capsys.readouterr().err


def test_a_defect_shows_places_and_no_values(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it broke, not what it held: an exception's text may quote a secret."""
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("the passphrase is hunter2")
    assert explain(caught.value, Voice(False)) == explain(caught.value, Voice(True)) == 1
    said = capsys.readouterr().err
    assert "RuntimeError" in said
    assert "test_voice.py" in said
    assert "hunter2" not in said


def test_an_interrupt_is_no_defect() -> None:
    """Ctrl-C."""
    assert explain(KeyboardInterrupt(), Voice(False)) == explain(click.Abort(), Voice(False)) == 130


def test_a_closed_pipe_ends_quietly() -> None:
    """`perunml … | head -1`."""
    import subprocess
    import sys

    command = f"{sys.executable} -m perunml agreement schema | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout == "{\n"


def test_usage_errors_speak_json_too(nobody: Party) -> None:
    """Even before the options were understood."""
    for words in (["seal", "--bogus"], ["id", "create"], ["--output=json", "job", "wait"], ["manager", "run"]):
        said = nobody("-o", "json", *words, passphrase=None)
        assert (said.code, said.reasons) == (2, ["usage"])


def test_a_reason_never_needs_an_unknown_rule() -> None:
    """A newer manager's code is shown with the text and kind it came with."""
    far = Rule("from_the_future_of_tests", Kind.HELD, "meaning", "mend")
    data = {**refuse(far, "message").reasons[0].as_json(), "code": "unheard_of"}
    assert error([Reason.from_json(data)]).exit_code == 18
