"""`Client`: conditions on own assets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perunml.client.party import Party

if TYPE_CHECKING:
    from perunml.api.conditions import ConditionList


class Conditions(Party):
    """Add, list, drop."""

    def conditions(self, asset: str, *, agreement: str = "") -> ConditionList:
        """The conditions in force on an own asset (a digest, or its name in an agreement); nobody else is shown them."""
        from perunml.client import conditions

        return conditions.listed(self.connection, self.identity, asset, agreement=agreement)

    def add_condition(
        self, asset: str, name: str, condition: Mapping[str, Any], *, agreement: str = ""
    ) -> ConditionList:
        """Narrow at once what may be done with an own asset and with all that is derived from it; `condition` as
        docs/spec/conditions.md has it. One key of the owner's board suffices."""
        from perunml.client import conditions

        return conditions.change(self.connection, self.identity, asset, name, condition, agreement=agreement)

    def drop_condition(self, asset: str, name: str, *, agreement: str = "") -> ConditionList:
        """Let go of a condition again; that takes the owner's board."""
        from perunml.client import conditions

        return conditions.change(self.connection, self.identity, asset, name, None, agreement=agreement)
