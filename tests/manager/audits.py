"""Whatever a test made a manager do, every party exports it afterwards and verifies it: an honest manager's history always follows."""

from __future__ import annotations

import tempfile
from pathlib import Path

from manager.world import World
from perunml.api.agreements import AgreementList
from perunml.client.audit_export import export
from perunml.client.audit_verify import verify_export
from perunml.client.home import Home
from perunml.wire.errors import Unreachable
from perunml.wire.identity import PublicKey


def audited_by_all(world: World, last: int = 0) -> None:
    """By each party that an agreement names, or the `last` ones that came. A manager that a test broke or stopped is not asked. Raises `IntegrityError`."""
    if world.server is None:
        return
    for connection in world.parties[-last:]:
        with tempfile.TemporaryDirectory() as name:
            home = Home(Path(name) / "home")
            home.folder.mkdir()
            target = Path(name) / "ledger.zip"
            try:
                views = connection.call("GET", "/v1/agreements", AgreementList).agreements
                if not views:
                    continue
                export(connection, home, [view.digest for view in views], target)
            except Unreachable:
                return
            verify_export(target, PublicKey(world.pin.identity))
