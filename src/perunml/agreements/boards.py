"""Boards: who decides for a party. A key's name, ``{all: […]}`` or ``{at_least: k, of: […]}``, nested.

A key has one vote: it may stand only once in a board, and one key under two names is refused in the whole agreement
(P4), so that no `at_least` is met by one person twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from perunml.agreements.forms import Items, Name, Part

MAX_DEPTH = 8
"""Deepest nesting of a board; people can follow three."""


def _form(value: Any) -> str:
    if isinstance(value, dict):
        return "<all>" if "all" in value else "<at_least>"
    return "<all>" if isinstance(value, All) else "<at_least>" if isinstance(value, AtLeast) else "<key>"


class All(Part):
    """Every member must agree."""

    all: Items[Board]


class AtLeast(Part):
    """At least so many of the members must agree."""

    at_least: Annotated[int, Field(ge=1)]
    of: Items[Board]

    @model_validator(mode="after")
    def _can_be_met(self) -> AtLeast:
        if self.at_least > len(self.of):
            raise PydanticCustomError(
                "malformed", "at_least {k} of {n} can never be met", {"k": self.at_least, "n": len(self.of)}
            )
        return self


Board = Annotated[
    Annotated[Name, Tag("<key>")] | Annotated[All, Tag("<all>")] | Annotated[AtLeast, Tag("<at_least>")],
    Discriminator(_form),
]

All.model_rebuild()
AtLeast.model_rebuild()


def members(board: str | All | AtLeast) -> Iterator[str]:
    """Names of the keys on a board, once for each place where they stand."""
    if isinstance(board, str):
        yield board
    else:
        for member in board.all if isinstance(board, All) else board.of:
            yield from members(member)


def depth(board: str | All | AtLeast) -> int:
    """1 for a single key, one more for each `all` or `at_least` around it."""
    if isinstance(board, str):
        return 1
    return 1 + max(depth(member) for member in (board.all if isinstance(board, All) else board.of))


def satisfied(board: str | All | AtLeast, agreed: Set[str]) -> bool:
    """Whether the keys named in `agreed` make up the board."""
    if isinstance(board, str):
        return board in agreed
    if isinstance(board, All):
        return all(satisfied(member, agreed) for member in board.all)
    return sum(satisfied(member, agreed) for member in board.of) >= board.at_least


def lacking(board: str | All | AtLeast, agreed: Set[str]) -> str:
    """What is still missing, in words; empty when the board is satisfied."""
    if satisfied(board, agreed):
        return ""
    if isinstance(board, str):
        return board
    rest = [text for m in (board.all if isinstance(board, All) else board.of) if (text := lacking(m, agreed))]
    if isinstance(board, AtLeast):
        need = board.at_least - sum(satisfied(member, agreed) for member in board.of)
        if need < len(rest):
            return f"{need} of {', '.join(_group(text) for text in rest)}"
    return rest[0] if len(rest) == 1 else " and ".join(_group(text) for text in rest)


def in_words(board: str | All | AtLeast) -> str:
    """The whole board in words: ``dpo and (1 of dr-a, dr-b)``."""
    return lacking(board, frozenset())


def _group(text: str) -> str:
    return f"({text})" if " " in text else text
