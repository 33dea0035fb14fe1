"""Documents that agreements name by digest: baselines. Whoever may talk to the manager may read one, to review it."""

from __future__ import annotations

from sqlalchemy.dialects.sqlite import insert

from perunml.api.assets import DocumentView, PushDocument
from perunml.evidence.baseline import Baseline
from perunml.manager.context import Services
from perunml.manager.http import Access, Call, outside
from perunml.manager.routing import Spec
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Statement
from perunml.manager.store.envelopes import stored
from perunml.manager.writer import Transaction
from perunml.wire.identity import PublicKey

LIMIT = 8 * 1024 * 1024
"""Bytes: the payload of a document has at most 4 MiB, a third more in base64."""
KIND = "Baseline"
_ADD = Statement(insert(t.documents).on_conflict_do_nothing())
_GET = "SELECT envelope FROM documents WHERE digest = :digest"


def routes(services: Services) -> list[Spec]:
    async def push(call: Call) -> DocumentView:
        envelope = PushDocument.decode(call.body).document
        Baseline.from_json(envelope.open(KIND, [PublicKey(call.caller.key)]))

        def add(transaction: Transaction) -> None:
            _ADD.run(transaction.connection, digest=envelope.digest, kind=KIND, envelope=envelope.encode())

        await services.writer.submit(add)
        return DocumentView(digest=envelope.digest, kind=KIND)

    async def show(call: Call) -> PushDocument:
        with services.database.read() as connection:
            data = connection.run(_GET, {"digest": call.params["digest"]}).scalar()
        if data is None:
            raise outside()
        return PushDocument(document=stored(data))

    return [
        Spec("POST", "/v1/documents", Access.PARTY, push, LIMIT),
        Spec("GET", "/v1/documents/{digest}", Access.PARTY, show),
    ]
