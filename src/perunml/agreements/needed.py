"""Who must approve a version: what `approvals.standing` counts by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perunml.agreements.schema import Agreement, Party


@dataclass(frozen=True, slots=True)
class Side:
    """A party as one of the two versions has it; `label` tells people which, empty for the new one."""

    label: str
    party: Party


@dataclass(frozen=True, slots=True)
class Need:
    """every   by party's name: all of these boards must agree
    one_of  of each of these sets of parties at least one must agree, by its board in the new version: a narrowing needs a
            party that it touches, not all of them"""

    every: Mapping[str, tuple[Side, ...]]
    one_of: tuple[frozenset[str], ...] = ()


def needed(agreement: Agreement, predecessor: Agreement | None) -> Need:
    """Every party's board; of a later version also every board of its predecessor."""
    every: dict[str, tuple[Side, ...]] = {name: (Side("", party),) for name, party in agreement.parties.items()}
    for name, party in predecessor.parties.items() if predecessor else ():
        every[name] = (*every.get(name, ()), Side("the board of the version before: ", party))
    return Need(every)
