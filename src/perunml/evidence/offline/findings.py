"""What a check found: every reason against the evidence, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from perunml.wire.errors import PerunError
from perunml.wire.rules import Reason, Rule

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of a check. Claims are what the evidence tells; they are worth something only where it was accepted."""

    reasons: tuple[Reason, ...]
    claims: dict[str, Any]

    @property
    def accepted(self) -> bool:
        return not self.reasons

    def as_json(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted,
            "reasons": [
                {"code": r.code, "message": r.message, "expected": r.expected, "seen": r.seen} for r in self.reasons
            ],
            "claims": self.claims,
        }


@dataclass(slots=True)
class Findings:
    """Collects reasons while a check goes on: one part that cannot be read does not hide what is wrong with another."""

    reasons: list[Reason] = field(default_factory=list)

    def attempt(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What `read` gives, or None when it refuses; its reasons are kept."""
        try:
            return read(*args, **kwargs)
        except PerunError as exc:
            self.add(exc.reasons)
            return None

    def add(self, reasons: Iterable[Reason]) -> None:
        self.reasons += [reason for reason in reasons if reason not in self.reasons]

    def refuse(self, rule: Rule, message: str, *, expected: str = "", seen: str = "") -> None:
        self.add([Reason(rule, message, expected, seen)])

    def checked(self, claims: dict[str, Any]) -> Checked:
        return Checked(tuple(self.reasons), claims)
