"""Who must approve a version: what `approvals.standing` counts by.

The first version needs every party. A later one needs whom its changes touch (`diff`): of what widens everybody whom it
reaches, of what narrows one of those who may, of a party's own affair its old board and its new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from perunml.agreements.diff import Effect, diff
from perunml.agreements.schema import Agreement, Party

OLD = "the board of the version before: "


@dataclass(frozen=True, slots=True)
class Side:
    """A party as one of the two versions has it; `label` tells people which, empty for the new one."""

    label: str
    party: Party


@dataclass(frozen=True, slots=True)
class Need:
    """every   by party's name: all of these boards must agree
    one_of  of each of these sets of parties at least one must agree, by its board in the new version: a narrowing needs a
            party that may do it, not all of them"""

    every: Mapping[str, tuple[Side, ...]]
    one_of: tuple[frozenset[str], ...] = ()


@lru_cache(maxsize=256)
def needed(agreement: Agreement, predecessor: Agreement | None) -> Need:
    """What must be approved by whom. A version that changes nothing is asked of every party as the first one is: it voids what was
    approved under the one before, and that is nobody's to do alone."""
    changes = diff(predecessor, agreement) if predecessor else []
    if predecessor is None or not changes:
        return Need({name: (Side("", party),) for name, party in agreement.parties.items()})
    every: dict[str, tuple[Side, ...]] = {}
    one_of: list[frozenset[str]] = []
    for change in changes:
        if change.effect is Effect.NARROWS:
            one_of.append(change.parties)
            continue
        for name in change.parties:
            every[name] = _sides(name, agreement, predecessor)
    # Whose board approves all of it has approved its narrowings too.
    left = tuple(dict.fromkeys(parties for parties in one_of if not parties & set(every)))
    return Need(every, left)


def in_words(need: Need) -> tuple[str, ...]:
    """Who must approve, a sentence for each."""
    said = [
        f"{name} must approve" + (", by its board as it was and as it will be." if len(sides) > 1 else ".")
        for name, sides in sorted(need.every.items())
    ]
    for parties in need.one_of:
        names = sorted(parties)
        said.append(f"One of {', '.join(names)} must approve." if len(names) > 1 else f"{names[0]} must approve.")
    return tuple(said)


def _sides(name: str, agreement: Agreement, predecessor: Agreement) -> tuple[Side, ...]:
    """The party's board; the old one too where it is another."""
    new, old = agreement.parties.get(name), predecessor.parties.get(name)
    if new is None or old is None:
        return (Side("", new),) if new else (Side(OLD, old),) if old else ()
    if (new.keys, new.board) == (old.keys, old.board):
        return (Side("", new),)
    return Side("", new), Side(OLD, old)
