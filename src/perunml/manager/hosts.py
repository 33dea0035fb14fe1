"""Why a host was refused, for its operator and for the parties of the agreement under which it was.

The ledger has every refusal; nothing else is kept. Whoever is neither gets the answer that an unknown host gets.
"""

from __future__ import annotations

import json
from typing import Any

from perunml.api.hosts import HostList, HostRefusal, HostView
from perunml.manager import rights
from perunml.manager.context import Services
from perunml.manager.http import Access, Call, outside
from perunml.manager.routing import Spec
from perunml.manager.store.connection import Connection

_HOSTS = "SELECT id, name, simulated, operator FROM machines WHERE id = :name OR name = :name ORDER BY id LIMIT 100"
# Looked through are the newest 5,000 entries of an agreement: a day of one host that renews every twenty seconds.
_REFUSALS = (
    "SELECT entry FROM (SELECT position, entry FROM entries WHERE agreement = :agreement ORDER BY position DESC LIMIT 5000) "
    "AS newest WHERE entry LIKE :like ORDER BY position DESC LIMIT 100"
)


def routes(services: Services) -> list[Spec]:
    async def explain(call: Call) -> HostList:
        with services.database.read() as connection:
            seen = rights.agreements(services, connection, call.caller.key)
            hosts = []
            for row in connection.run(_HOSTS, {"name": call.params["name"]}).all():
                found = [_refusal(connection, item.held.agreement.digest, row[0]) for item in seen]
                refusals = [refusal for refusal in found if refusal is not None]
                if refusals or row[3] == call.caller.key:
                    hosts.append(HostView(name=row[1], machine=row[0], simulated=bool(row[2]), refusals=refusals))
        if not hosts:
            raise outside()
        return HostList(hosts=hosts)

    return [Spec("GET", "/v1/hosts/{name}", Access.PARTY, explain)]


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
