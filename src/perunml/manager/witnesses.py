"""Witnesses: they ask for the newest checkpoint, cosign it, and show what contradicts it.

A checkpoint that this manager's own key signed and that its ledger does not contain ends its work: it is an old copy, or one
of two (REFUSALS S1, S5).
"""

from __future__ import annotations

from sqlalchemy.dialects.sqlite import insert as upsert

from perunml.api.witness import MAX_WAIT, Accepted, Cosignature, Objection, WitnessView
from perunml.ledger.checkpoint import Checkpoint, open_checkpoint, origin
from perunml.ledger.codes import SPLIT_VIEW
from perunml.ledger.merkle import Tree
from perunml.ledger.witnessing import open_cosigned
from perunml.manager import journal, rights
from perunml.manager.context import Services
from perunml.manager.http import Access, Call, number
from perunml.manager.journal import Nodes
from perunml.manager.routing import Spec
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.manager.writer import Transaction
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

MAX_BODY = 128 * 1024
"""Bytes of a note in JSON: twice the longest note."""
_STAND_ALONE = "SELECT 1 FROM witness_keys w JOIN agreements a ON a.digest = w.agreement WHERE w.key = :key AND a.state = 'in_force'"
_KEEP = Statement(upsert(t.cosignatures).on_conflict_do_nothing())


def routes(services: Services) -> list[Spec]:
    async def look(call: Call) -> WitnessView:
        seen, hold = number(call, "size", default=0), number(call, "wait", high=MAX_WAIT, default=0)
        if hold:
            await services.witnessed.news(call.caller.key, lambda: _size(services), seen, hold)
        with services.database.read() as connection:
            now = journal.state(connection)
            # Who saw more than there is gets no proof: the checkpoint alone shows what is missing.
            old = min(seen, now.size)
            proof = Tree(now.size, Nodes(connection)).consistency_proof(old, now.size) if 0 < old < now.size else []
            named = is_witness(services, connection, call.caller.key)
        return WitnessView(
            checkpoint=now.note, old=old, proof=proof, named=named, every=max(1, int(services.witnessed.every))
        )

    async def cosign(call: Call) -> Accepted:
        services.rollback.check()
        key = call.caller.key
        found = open_cosigned(Cosignature.decode(call.body).note, _ed25519(key))
        with services.database.read() as connection:
            # The very text: another origin, or a further line, is another statement, which an audit would not find here.
            ours = Checkpoint(origin(services.keys.identity.public), found.checkpoint.size, found.checkpoint.root)
            if found.checkpoint != ours or not _contains(services, connection, found.checkpoint):
                raise refuse(
                    SPLIT_VIEW, "the cosigned checkpoint is not one of this ledger", seen=f"{found.checkpoint.size}"
                )
        services.witnessed.add(key, found)
        return Accepted(size=found.checkpoint.size)

    async def object(call: Call) -> Accepted:
        shown = open_checkpoint(Objection.decode(call.body).note, services.keys.identity.public)

        def work(transaction: Transaction) -> int:
            size = journal.state(transaction.connection).size
            if not _contains(services, transaction.connection, shown):
                words = (
                    f"entries {size} to {shown.size - 1}, of which a checkpoint is known"
                    if shown.size > size
                    else f"the entries under another checkpoint of size {shown.size}"
                )
                services.rollback.found(transaction.connection, words)
            return size

        return Accepted(size=await services.writer.submit(work))

    return [
        Spec("GET", "/v1/witness", Access.WITNESS, look, query=("size", "wait")),
        Spec("POST", "/v1/witness", Access.WITNESS, cosign, MAX_BODY, takes=Cosignature),
        Spec("POST", "/v1/witness/objections", Access.WITNESS, object, MAX_BODY, takes=Objection),
    ]


def is_witness(services: Services, connection: Connection, key: str) -> bool:
    """Whether an agreement in force names the key as a witness's."""
    if connection.run(_STAND_ALONE, {"key": key}).first() is not None:
        return True
    return any(
        seen.held.state == "in_force" and any(key in keys for keys in seen.held.agreement.witness_keys.values())
        for seen in rights.agreements(services, connection, key)
    )


def keep(services: Services, transaction: Transaction) -> None:
    """Write down the first cosignature of each size that a witness signed, for audits; decisions count those in memory."""
    for (key, size), found in services.witnessed.take_lines().items():
        _KEEP.run(transaction.connection, key=key, size=size, time=found.time, line=found.line)


def _size(services: Services) -> int:
    with services.database.read() as connection:
        return journal.state(connection).size


def _contains(services: Services, connection: Connection, shown: Checkpoint) -> bool:
    """Whether the ledger was in this state: its first `size` entries have this root."""
    now = journal.state(connection)
    return shown.size <= now.size and shown.root == Tree(shown.size, Nodes(connection)).root()


def _ed25519(key: str) -> PublicKey:
    found = PublicKey(key)
    if found.algorithm != "ed25519":
        raise refuse(MALFORMED, "cosignatures are Ed25519's", expected="ed25519:…", seen=key)
    return found
