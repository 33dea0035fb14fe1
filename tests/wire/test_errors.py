"""Rules, reasons, the tree of errors: stable codes, exit codes, and texts that cannot write to a terminal."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.wire import errors
from perunml.wire.codes import BAD_SIGNATURE, MALFORMED
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.rules import MAX_TEXT, RULES, Kind, Reason, Rule, printable, rule

EVIL = "a\r\nroot: ok\x1b[31m\x07\x00\u202eevil\u2066\u200b\u2028\x9b\ud800"


def test_each_kind_has_its_class_and_exit_code() -> None:
    """The table in the module's docstring, line by line."""
    seen = {}
    for kind in Kind:
        found = error([Reason(Rule("test", kind, "", ""), "message")])
        seen[type(found).__name__] = found.exit_code
        assert isinstance(found, PerunError)
        assert type(found) is not PerunError
    lines = [line.split() for line in (errors.__doc__ or "").splitlines() if "exit" in line]
    assert seen == {line[1]: int(line[3]) for line in lines}
    assert len(seen) == len(Kind) == 10


def test_an_error_without_reasons_is_a_bug() -> None:
    """It could not be explained to anybody."""
    with pytest.raises(ValueError, match="reason"):
        PerunError([])
    with pytest.raises(ValueError, match="reason"):
        error([])


def test_the_first_reason_decides() -> None:
    """Class, code and exit code; the others are kept."""
    made = error([Reason(BAD_SIGNATURE, "one"), Reason(MALFORMED, "two")])
    assert isinstance(made, errors.IntegrityError)
    assert (made.code, made.exit_code, [r.code for r in made.reasons]) == (
        "bad_signature",
        14,
        ["bad_signature", "malformed"],
    )
    assert str(made) == "bad_signature: one; malformed: two"


def test_a_code_is_declared_once() -> None:
    """The same line again is the same rule; another meaning is refused."""
    known = RULES["malformed"]
    assert rule(known.code, known.kind, known.meaning, known.mend) == known
    with pytest.raises(ValueError, match="twice"):
        rule("malformed", Kind.USAGE, "something else", "")


def test_d10_nothing_reaches_a_terminal_raw() -> None:
    """D10: CR, LF, ANSI, bidi marks, C1 controls, zero-width and lone surrogates are shown, in every field and in str()."""
    made = refuse(MALFORMED, EVIL, expected=EVIL, seen=EVIL, command=EVIL)
    reason = made.reasons[0]
    for text in (
        str(made),
        reason.message,
        reason.expected,
        reason.seen,
        reason.command,
        *map(str, reason.as_json().values()),
    ):
        assert text.isprintable()
        text.encode()
    assert reason.message.startswith(r"a\r\nroot: ok\x1b[31m\x07\x00\u202eevil\u2066\u200b\u2028\x9b\ud800")


def test_d10_a_reason_from_the_wire_is_printable_too() -> None:
    """What another program says, in fields known and unknown."""
    told = Reason.from_json(
        {"code": "x\n", "kind": "limit\x1b", "message": EVIL, "seen": EVIL, "mend": EVIL, "command": EVIL}
    )
    assert all(str(text).isprintable() for text in told.as_json().values())


def test_texts_are_cut() -> None:
    """Evidence is the attacker's: no field is longer than MAX_TEXT, even when each character is shown as ten."""
    for text in ("x" * 10**6, "\U000e0001" * 10**6):
        assert len(Reason(MALFORMED, text).message) == MAX_TEXT
    assert printable("x" * MAX_TEXT) == "x" * MAX_TEXT


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=600))
def test_printable_is_printable(text: str) -> None:
    """And stays as it is when it is made printable again."""
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= MAX_TEXT
    assert printable(shown) == shown


def test_a_reason_travels_as_json() -> None:
    """Round trip of a known code; the rule's own kind wins over what was claimed."""
    reason = Reason(MALFORMED, "m", "e", "s", "c")
    assert Reason.from_json(reason.as_json()) == reason
    assert Reason.from_json({**reason.as_json(), "kind": "held"}).rule is MALFORMED


def test_unknown_codes_and_kinds_are_kept() -> None:
    """A newer manager's refusal is shown as it told it; an unknown kind is a refusal by agreement."""
    told = Reason.from_json({"code": "brand_new", "kind": "suspended", "message": "m", "mend": "ask"})
    assert (told.code, told.rule.kind, told.message, told.rule.mend) == ("brand_new", Kind.SUSPENDED, "m", "ask")
    assert Reason.from_json({"code": "brand_new", "kind": "nonsense"}).rule.kind is Kind.AGREEMENT
    assert Reason.from_json({"code": 5, "kind": None, "message": ["x"]}).rule.kind is Kind.AGREEMENT
    assert "brand_new" not in RULES


def test_a_rule_is_not_changed_and_survives_a_copy() -> None:
    """Frozen, equal by value."""
    assert pickle.loads(pickle.dumps(MALFORMED)) == MALFORMED
    with pytest.raises(AttributeError):
        MALFORMED.code = "x"  # type: ignore[misc]  # that it is refused is the point


def test_importing_the_ground_floor_is_quick_and_does_no_io() -> None:
    """No socket, HTTP or database module comes with it."""
    code = "import sys, perunml.wire.dsse, perunml.wire.httpsig; print(sorted({'socket', 'httpx', 'sqlite3', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
