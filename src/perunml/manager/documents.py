"""Documents that agreements name by digest: baselines. Whoever may talk to the manager may read one, to review it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sqlalchemy.dialects.sqlite import insert

from perunml.api.assets import DocumentView, PushDocument
from perunml.evidence.baseline import MAX_BASELINE, Baseline
from perunml.evidence.compiled import compile_baseline
from perunml.manager.context import Services
from perunml.manager.http import Access, Call, outside
from perunml.manager.library import COMPILED, COMPILED_KIND, INLINE
from perunml.manager.routing import Spec
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.manager.store.envelopes import stored
from perunml.manager.writer import Transaction
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import MAX_SIGNATURES, Envelope
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

LIMIT = MAX_BASELINE * 4 // 3 + 64 * 1024
"""Bytes: a baseline's payload in base64, and its envelope."""
KIND = "Baseline"
_ADD = Statement(insert(t.documents).on_conflict_do_nothing())
_GET = "SELECT envelope FROM documents WHERE digest = :digest AND kind = 'Baseline'"
_SET = "UPDATE documents SET envelope = :envelope WHERE digest = :digest"


def routes(services: Services) -> list[Spec]:
    async def push(call: Call) -> DocumentView:
        # a large one takes seconds to read, and others are waiting for decisions
        envelope, compiled = await asyncio.to_thread(_read, call.body, call.caller.key)

        def add(transaction: Transaction) -> None:
            if compiled:
                kept = services.keys.keep(compiled, {"compiled": envelope.digest})
                _ADD.run(transaction.connection, digest=COMPILED + envelope.digest, kind=COMPILED_KIND, envelope=kept)
            if not _ADD.run(
                transaction.connection, digest=envelope.digest, kind=KIND, envelope=envelope.encode()
            ).rowcount:
                _join(transaction.connection, envelope, call.caller.key)

        await services.writer.submit(add)
        return DocumentView(digest=envelope.digest, kind=KIND)

    async def show(call: Call) -> PushDocument:
        with services.database.read() as connection:
            data = connection.run(_GET, {"digest": call.params["digest"]}).scalar()
        if data is None:
            raise outside()
        return PushDocument(document=stored(data))

    return [
        Spec("POST", "/v1/documents", Access.PARTY, push, LIMIT, takes=PushDocument),
        Spec("GET", "/v1/documents/{digest}", Access.PARTY, show),
    ]


def _join(connection: Connection, envelope: Envelope, key: str) -> None:
    """The caller's signature beside those that the document has: several parties may have to sign one."""
    held = stored(connection.run(_GET, {"digest": envelope.digest}).scalar())
    if any(signer == key for signer, _ in held.signatures):
        return
    if len(held.signatures) >= MAX_SIGNATURES:
        raise refuse(MALFORMED, "the document has as many signatures as it may", expected=f"at most {MAX_SIGNATURES}")
    joined = replace(held, signatures=(*held.signatures, *envelope.signatures))
    connection.run(_SET, {"digest": envelope.digest, "envelope": joined.encode()})


def _read(body: bytes, key: str) -> tuple[Envelope, bytes]:
    """The envelope in a request, signed by its caller, with a baseline in it, and a long one's compiled form. Raises as the
    readers do."""
    envelope = PushDocument.decode(body, limit=LIMIT).document
    envelope.verify(KIND, [PublicKey(key)])
    baseline = Baseline.from_payload(envelope.payload)
    compiled = compile_baseline(baseline) if len(envelope.payload) > INLINE else b""
    # others' signatures were not looked at: each party brings its own
    return replace(envelope, signatures=tuple(each for each in envelope.signatures if each[0] == key)), compiled
