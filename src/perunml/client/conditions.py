"""Conditions from their owner's side: what may be done with an own asset is narrowed here, alone and at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from perunml.agreements.conditions import condition_change
from perunml.api.conditions import ChangeCondition, ConditionList
from perunml.client.agreements import owned_asset
from perunml.wire.dsse import Envelope, signed

if TYPE_CHECKING:
    from perunml.client.connection import Connection
    from perunml.client.identity import Identity


def listed(connection: Connection, identity: Identity, asset: str, *, agreement: str = "") -> ConditionList:
    """The conditions on an own asset, given by digest or by its name in an agreement."""
    document, name = owned_asset(connection, identity, asset, agreement)
    return _of(connection, document.assets[name].digest)


def change(
    connection: Connection,
    identity: Identity,
    asset: str,
    name: str,
    condition: Mapping[str, Any] | None,
    *,
    agreement: str = "",
) -> ConditionList:
    """Add a condition on an own asset (JSON, as docs/spec/conditions.md has it), or drop the one of this name (None)."""
    message = ChangeCondition(change=change_of(connection, identity, asset, name, condition, agreement=agreement))
    return connection.call("POST", "/v1/conditions", ConditionList, message)


def change_of(
    connection: Connection,
    identity: Identity,
    asset: str,
    name: str,
    condition: Mapping[str, Any] | None,
    *,
    agreement: str = "",
) -> Envelope:
    """The change, signed by this identity; a board of several keys signs a drop together."""
    document, named = owned_asset(connection, identity, asset, agreement)
    state = _of(connection, document.assets[named].digest)
    action = "drop" if condition is None else "add"
    body = condition_change(document, named, action, name, condition, state.head)
    return signed("Condition", body, identity.signing)


def _of(connection: Connection, subject: str) -> ConditionList:
    return connection.call("GET", f"/v1/conditions?subject={quote(subject)}", ConditionList)
