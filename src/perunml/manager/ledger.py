"""Reading the ledger: checkpoint, tiles, proofs, and the entries that the caller may open."""

from __future__ import annotations

import json

from perunml.api.ledger import ConsistencyProof, CosignatureList, CosignatureView, EntryList, EntryView, InclusionProof
from perunml.ledger.merkle import Tree
from perunml.ledger.tiles import TILE_WIDTH, bundle, parse_path, tile, width_at
from perunml.manager import journal, rights
from perunml.manager.context import Services
from perunml.manager.http import BYTES_TYPE, TEXT_TYPE, Access, Answer, Call, number, outside
from perunml.manager.journal import Nodes
from perunml.manager.records import named_by
from perunml.manager.routing import Spec
from perunml.manager.store.connection import Connection
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse

PAGE = 1000
"""Entries in one answer; `after` asks for what follows."""
_ENTRIES = (
    "SELECT position, leaf, salt, entry FROM entries WHERE agreement = :agreement AND position > :after "
    "ORDER BY position LIMIT 1000"
)
_COSIGNATURES = "SELECT rowid, key, size, line FROM cosignatures WHERE rowid > :after ORDER BY rowid LIMIT 1000"
_LEAVES = "SELECT leaf FROM entries WHERE position >= :first AND position < :last ORDER BY position"


def routes(services: Services) -> list[Spec]:
    async def checkpoint(call: Call) -> Answer:
        with services.database.read() as connection:
            return Answer(journal.state(connection).note.encode(), TEXT_TYPE)

    async def tiles(call: Call) -> Answer:
        path = parse_path("tile/" + call.params["path"])
        with services.database.read() as connection:
            size = journal.state(connection).size
            if path.level is not None:
                return Answer(tile(Nodes(connection), path, size), BYTES_TYPE)
            if width_at(path, size) < path.width:
                raise outside()
            first = path.index * TILE_WIDTH
            rows = connection.run(_LEAVES, {"first": first, "last": first + path.width})
            return Answer(bundle([bytes(row[0]) for row in rows]), BYTES_TYPE)

    async def entries(call: Call) -> EntryList:
        wanted = call.query.get("agreement", "")
        after = number(call, "after") if "after" in call.query else -1
        with services.database.read() as connection:
            held = rights.agreement(services, connection, wanted, call.caller.key)
            rows = connection.run(_ENTRIES, {"agreement": wanted, "after": after})
            shown = [
                EntryView(index=row[0], leaf=bytes(row[1]), salt=bytes(row[2]), entry=json.loads(row[3]))
                for row in rows
            ]
            named = []
            if call.query.get("documents") == "1":
                named = named_by(services, connection, held.held, call.caller.key, [item.entry for item in shown])
            return EntryList(checkpoint=journal.state(connection).note, entries=shown, documents=named)

    async def cosignatures(call: Call) -> CosignatureList:
        with services.database.read() as connection:
            seen = rights.agreement(services, connection, call.query.get("agreement", ""), call.caller.key)
            found = connection.run(_COSIGNATURES, {"after": number(call, "after", default=0)}).all()
        keys = {key for known in seen.held.agreement.witness_keys.values() for key in known}
        return CosignatureList(
            cosignatures=[CosignatureView(key=row[1], size=row[2], line=row[3]) for row in found if row[1] in keys],
            after=found[-1][0] if len(found) == PAGE else 0,
        )

    async def proof(call: Call) -> InclusionProof:
        with services.database.read() as connection:
            tree, note = _tree(connection)
            index, size = number(call, "index"), number(call, "size", default=tree.size)
            if not index < size <= tree.size:
                raise refuse(MALFORMED, "no such entry in such a ledger", expected=f"size up to {tree.size}")
            hashes = tree.inclusion_proof(index, size)
        return InclusionProof(index=index, size=size, hashes=hashes, checkpoint=note)

    async def consistency(call: Call) -> ConsistencyProof:
        with services.database.read() as connection:
            tree, note = _tree(connection)
            old, size = number(call, "old"), number(call, "size", default=tree.size)
            if not old <= size <= tree.size:
                raise refuse(MALFORMED, "the ledger has not had these sizes", expected=f"size up to {tree.size}")
            hashes = tree.consistency_proof(old, size)
        return ConsistencyProof(old=old, size=size, hashes=hashes, checkpoint=note)

    return [
        Spec("GET", "/v1/ledger/checkpoint", Access.PARTY, checkpoint),
        Spec("GET", "/v1/ledger/entries", Access.PARTY, entries, query=("agreement", "after", "documents")),
        Spec("GET", "/v1/ledger/cosignatures", Access.PARTY, cosignatures, query=("agreement", "after")),
        Spec("GET", "/v1/ledger/proof", Access.PARTY, proof, query=("index", "size")),
        Spec("GET", "/v1/ledger/consistency", Access.PARTY, consistency, query=("old", "size")),
        Spec("GET", "/v1/ledger/tile/{path:path}", Access.PARTY, tiles),
    ]


def _tree(connection: Connection) -> tuple[Tree, str]:
    now = journal.state(connection)
    return Tree(now.size, Nodes(connection)), now.note
