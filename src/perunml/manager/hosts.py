"""Why a host was refused, for its operator and for the parties of the agreement under which it was.

The ledger has every refusal; nothing else is kept. Whoever is neither gets the answer that an unknown host gets.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from perunml.api.hosts import HostList, HostRefusal, HostView
from perunml.manager import rights
from perunml.manager.context import Services
from perunml.manager.http import Access, Call, outside
from perunml.manager.routing import Spec
from perunml.manager.store.connection import Connection

NOBODY = "-"
"""Looked for where no host has the name: an unknown one takes as long to answer as one that the caller may not know of."""
AGREEMENTS = 64
"""Of a party's agreements, so many newest ones are looked through."""
_HOSTS = "SELECT id, name, simulated, operator FROM machines WHERE id = :name OR name = :name ORDER BY id LIMIT 16"
# Looked through are the newest 5,000 entries of an agreement: a day of one host that renews every twenty seconds.
_REFUSALS = (
    "SELECT entry FROM (SELECT position, entry FROM entries WHERE agreement = :agreement ORDER BY position DESC LIMIT 5000) "
    "AS newest WHERE entry LIKE :like ORDER BY position DESC LIMIT 100"
)


def routes(services: Services) -> list[Spec]:
    async def explain(call: Call) -> HostList:
        with services.database.read() as connection:
            seen = rights.agreements(services, connection, call.caller.key)
            rows = connection.run(_HOSTS, {"name": call.params["name"]}).all()
        newest = [item.held.agreement.digest for item in reversed(seen)][:AGREEMENTS]
        # entries are looked through without an index, so not on the thread on which others wait for decisions
        found = await asyncio.to_thread(_search, services.database.path, newest, [row[0] for row in rows] or [NOBODY])
        hosts = [
            HostView(name=row[1], machine=row[0], simulated=bool(row[2]), refusals=found[row[0]])
            for row in rows
            if found[row[0]] or row[3] == call.caller.key
        ]
        if not hosts:
            raise outside()
        return HostList(hosts=hosts)

    return [Spec("GET", "/v1/hosts/{name}", Access.PARTY, explain)]


def _search(path: Path, agreements: list[str], machines: list[str]) -> dict[str, list[HostRefusal]]:
    connection = Connection(path, query_only=True)
    try:
        return {
            machine: [
                refusal for digest in agreements if (refusal := _refusal(connection, digest, machine)) is not None
            ]
            for machine in machines
        }
    finally:
        connection.close()


def _refusal(connection: Connection, agreement: str, machine: str) -> HostRefusal | None:
    """The newest refusal of the machine under the agreement."""
    # the text only finds candidates: whatever a machine sent stands in entries too
    like = f'%"machine":"{machine}"%"type":"refusal"%'
    for row in connection.run(_REFUSALS, {"agreement": agreement, "like": like}).all():
        entry: dict[str, Any] = json.loads(row[0])
        body = entry["body"]
        if entry["type"] == "refusal" and body.get("machine") == machine:
            return HostRefusal(
                agreement=agreement,
                run=entry["subject"],
                purpose=body["purpose"],
                time=entry["time"],
                reasons=body["reasons"],
            )
    return None
