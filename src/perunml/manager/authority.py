"""Who may change what an asset may be used for: the boards that the key which sealed it has agreed to itself.

Anybody can write a digest into an agreement of his own, with boards of his own; what the sealing key never agreed to counts
for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from perunml.agreements.schema import Agreement
from perunml.manager import rights
from perunml.manager.context import Services
from perunml.manager.http import outside
from perunml.manager.library import Held
from perunml.manager.store.connection import Connection
from perunml.wire.errors import PerunError

T = TypeVar("T")
_SEALER = "SELECT owner FROM assets WHERE digest = :subject AND run = ''"


def of_asset(services: Services, connection: Connection, subject: str, key: str) -> list[Held]:
    """The agreements in force whose boards decide for the asset `subject` (a digest): of each that the key which sealed it agreed to, the
    version in force, which may name other keys by now. Raises `AgreementRefusal` (not_entitled) unless one of them names `key`."""
    sealer = str(connection.run(_SEALER, {"subject": subject}).scalar() or "")
    lines = {item.held.line for item in rights.agreements(services, connection, sealer)}
    found = [
        held
        for line in sorted(lines)
        if (held := services.library.in_force(connection, line)) is not None
        and any(
            asset.digest == subject and services.library.agreed(connection, held, sealer, asset.owner)
            for asset in held.agreement.assets.values()
        )
    ]
    if not any(held.agreement.party_of(key) for held in found):
        raise outside()
    return found


def opened(agreements: list[Agreement], open_one: Callable[[Agreement, bool], T], forbids: Callable[[T], bool]) -> T:
    """A change that forbids, which any one of these agreements' boards may make; one that lets go, which all of them must, for
    what the owner let one board stop another must not let go. `open_one` opens it under an agreement, whether that calls the owner as the change does
    or not: one of them has to. Raises what the last of them that refuses it raises: by its name for the owner where none knows that, else by its
    board."""
    own: list[T] = []
    unnamed: PerunError | None = None
    refused: PerunError | None = None
    for agreement in agreements:
        try:
            own.append(open_one(agreement, True))
        except PerunError as exc:
            unnamed = exc
            try:
                open_one(agreement, False)
            except PerunError as other:
                refused = other
    if not own and unnamed is not None:
        raise unnamed
    if refused is not None and not forbids(own[0]):
        raise refused
    return own[0]
