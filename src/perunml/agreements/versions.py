"""Two versions of an agreement side by side: what changes, and who must approve that."""

from __future__ import annotations

from dataclasses import dataclass

from perunml.agreements.diff import Change, diff
from perunml.agreements.needed import Need, in_words, needed
from perunml.agreements.schema import Agreement


@dataclass(frozen=True, slots=True)
class Difference:
    """`need` only where one follows the other: other pairs are nobody's to approve."""

    before: Agreement
    after: Agreement
    changes: tuple[Change, ...]
    need: Need | None

    def sentences(self, party: str = "") -> tuple[str, ...]:
        """For people; what touches `party` comes first."""
        found = sorted(self.changes, key=lambda change: party not in change.parties)
        said = tuple(change.sentence for change in found) or ("Nothing changes.",)
        return (*said, *(in_words(self.need) if self.need else ()))


def difference(before: Agreement, after: Agreement) -> Difference:
    """From one version to another, in whichever order they were made."""
    follows = after.metadata.predecessor == before.digest
    return Difference(before, after, tuple(diff(before, after)), needed(after, before) if follows else None)
