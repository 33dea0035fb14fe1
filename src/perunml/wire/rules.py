"""Rules: every way in which Perun says no, each with a stable code.

A *rule* is declared once, in the `codes.py` of the room that enforces it, with `rule(...)`; `docs/refusals.md` lists
every rule and a test compares the two. A *reason* is one rule that failed, with what was seen. Both are plain values:
reasons travel as JSON from the manager to whoever is entitled to them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_TEXT = 500
"""Longest text of a reason's field, in characters: evidence is the attacker's, and a reason is shown on terminals."""


class Kind(enum.Enum):
    """What sort of refusal a rule is; the value is the exit code of the command line."""

    USAGE = 2
    AGREEMENT = 10
    EVIDENCE = 11
    PENDING = 12
    SUSPENDED = 13
    INTEGRITY = 14
    LIMIT = 15
    UNREACHABLE = 16
    JOB = 17
    HELD = 18


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is refused: `code` is stable for ever, `meaning` is its line in docs/refusals.md, `mend` says
    who can mend it and how."""

    code: str
    kind: Kind
    meaning: str
    mend: str


RULES: dict[str, Rule] = {}


def rule(code: str, kind: Kind, meaning: str, mend: str) -> Rule:
    """Declare a rule. Raises `ValueError` when another rule has the code."""
    made = Rule(code, kind, meaning, mend)
    if RULES.setdefault(code, made) != made:
        raise ValueError(f"rule {code!r} is declared twice")
    return made


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """`text` without control characters, ANSI escapes or bidi marks (each shown as \\xNN), cut to `limit` characters."""
    if len(text) <= limit and text.isprintable():
        return text
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule that failed. `message` says it in a sentence; `expected` and `seen` are for people and never secret;
    `command` is the command that mends it, if there is one. Texts are made `printable` here, at the one place that every
    log line, terminal and answer gets them from."""

    rule: Rule
    message: str
    expected: str = ""
    seen: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        for name in ("message", "expected", "seen", "command"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    @property
    def code(self) -> str:
        return self.rule.code

    def as_json(self) -> dict[str, Any]:
        return {
            "code": self.rule.code,
            "kind": self.rule.kind.name.lower(),
            "message": self.message,
            "expected": self.expected,
            "seen": self.seen,
            "mend": printable(self.rule.mend),
            "command": self.command,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reason:
        """The reason as another program told it. A code that this version does not know keeps its text and kind; an
        unknown kind becomes `AGREEMENT`."""

        def text(key: str) -> str:
            value = data.get(key, "")
            return printable(value) if isinstance(value, str) else ""

        code, kind = text("code"), text("kind").upper()
        known = RULES.get(code) or Rule(
            code, Kind[kind] if kind in Kind.__members__ else Kind.AGREEMENT, text("message"), text("mend")
        )
        return cls(known, text("message"), text("expected"), text("seen"), text("command"))
