"""Documents that agreements name by digest: baselines. Whoever may talk to the manager may read one, to review it."""

from __future__ import annotations

import asyncio

from sqlalchemy.dialects.sqlite import insert

from perunml.api.assets import DocumentView, PushDocument
from perunml.evidence.baseline import MAX_BASELINE, Baseline
from perunml.manager.context import Services
from perunml.manager.http import Access, Call, outside
from perunml.manager.routing import Spec
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Statement
from perunml.manager.store.envelopes import stored
from perunml.manager.writer import Transaction
from perunml.wire.dsse import Envelope
from perunml.wire.identity import PublicKey

LIMIT = MAX_BASELINE * 4 // 3 + 64 * 1024
"""Bytes: a baseline's payload in base64, and its envelope."""
KIND = "Baseline"
_ADD = Statement(insert(t.documents).on_conflict_do_nothing())
_GET = "SELECT envelope FROM documents WHERE digest = :digest"


def routes(services: Services) -> list[Spec]:
    async def push(call: Call) -> DocumentView:
        # a large one takes seconds to read, and others are waiting for decisions
        envelope = await asyncio.to_thread(_read, call.body, call.caller.key)

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


def _read(body: bytes, key: str) -> Envelope:
    """The envelope in a request, signed by its caller, with a baseline in it. Raises as the readers do."""
    envelope = PushDocument.decode(body, limit=LIMIT).document
    envelope.verify(KIND, [PublicKey(key)])
    Baseline.from_payload(envelope.payload)
    return envelope
