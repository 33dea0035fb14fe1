"""Shares of outputs' keys: made when an owner first asks, anew in each epoch and whenever a holder has another receiving key.

The manager keeps none of them: what it keeps is the document, in which each share is sealed to its party.
"""

from __future__ import annotations

import os

from sqlalchemy.dialects.sqlite import insert as upsert

from perunml.agreements.recovery import (
    KIND,
    Holder,
    OutputShares,
    held_info,
    holders,
    key_check,
    origin,
    share_digest,
    threshold,
)
from perunml.agreements.schema import Agreement
from perunml.api.recovery import KeptShares
from perunml.manager import registered, state
from perunml.manager.codes import NO_SHARES
from perunml.manager.context import Services
from perunml.manager.http import Access, Call, outside
from perunml.manager.registered import StoredOutput
from perunml.manager.routing import Spec
from perunml.manager.store import facts
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.manager.store.envelopes import stored
from perunml.manager.writer import Transaction
from perunml.release.outputs import decide_shares
from perunml.wire.digests import digest_of
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.hpke import HpkePublicKey
from perunml.wire.shares import split

_SHARES = "SELECT * FROM shares WHERE asset = :asset AND line = :line"
_RECOVERED = "SELECT kept FROM recoveries WHERE asset = :asset AND line = :line AND recovered = 1"
_row = upsert(t.shares)
_PUT = Statement(
    _row.on_conflict_do_update(
        index_elements=["asset", "line"], set_={name: _row.excluded[name] for name in ("entry", "holders", "envelope")}
    )
)


def routes(services: Services) -> list[Spec]:
    async def shares(call: Call) -> KeptShares:
        asset, key, now = call.params["asset"], call.caller.key, services.clock.now()
        with services.database.read() as connection:
            output, agreement = _held(services, connection, asset, key)
        await services.witnessed.demand(agreement, within=state.lease_of(agreement, output.job))
        made = await services.writer.submit(lambda tx: _shares(services, tx, asset, key, now))
        if isinstance(made, PerunError):
            raise made
        kept, entry = made
        await services.witnessed.demand(agreement, size=entry + 1)
        return kept

    return [Spec("GET", "/v1/outputs/{asset}/shares", Access.PARTY, shares)]


def custody(asset: str, line: str) -> dict[str, str]:
    """What a recovered output's key is kept as."""
    return {"label": "perunml/custody-recovered", "asset": asset, "line": line}


def output_key(services: Services, connection: Connection, output: StoredOutput) -> bytes:
    """The data key of an output: derived, or where its agreement recovered it the one in custody, for that agreement alone. Raises `IntegrityError`
    (custody_broken)."""
    kept = connection.run(_RECOVERED, {"asset": output.asset, "line": output.line}).scalar()
    if kept:
        return services.keys.take(bytes(kept), custody(output.asset, output.line))
    return services.keys.output_key(output.run, output.output)


def _held(services: Services, connection: Connection, asset: str, key: str) -> tuple[StoredOutput, Agreement]:
    """The output and the version that rules it. Raises `AgreementRefusal` (not_entitled: not there, or the caller holds no share),
    `UsageError` (no_shares): nobody does."""
    output, seen = registered.find(services, connection, asset, key)
    agreement = seen.held.agreement
    among = holders(agreement, output.job, output.output) if agreement.training(output.job) else ()
    if not among:
        raise refuse(
            NO_SHARES, "an owner of what flowed into it has no receiving key", expected="parties.*.receive",
            seen=f"{output.job}.outputs.{output.output}", command="perunml agreement review FILE",
        )  # fmt: skip
    if seen.party not in among:
        raise outside()
    return output, agreement


def _shares(
    services: Services, transaction: Transaction, asset: str, key: str, now: int
) -> tuple[KeptShares, int] | PerunError:
    """The documents, and the index of the entry that says so."""
    now = transaction.journal.at(now)
    connection = transaction.connection
    output, agreement = _held(services, connection, asset, key)
    held = registered.ruled_by(services, connection, output)
    reasons = decide_shares(
        agreement,
        state=state.state_of(services, connection, held, now, output.job),
        output=output.registered_output,
        now=now,
    )
    if reasons:
        return error(reasons)
    among = {party: str(agreement.parties[party].receive) for party in holders(agreement, output.job, output.output)}
    least, epoch = threshold(agreement, len(among)), facts.number(connection, facts.EPOCH, 1)
    wanted = digest_of({"at_least": least, "receive": among, "epoch": epoch})
    row = connection.run(_SHARES, {"asset": asset, "line": output.line}).first()
    if row is not None and row.holders == wanted:
        envelope, entry = stored(row.envelope), int(row.entry)
    else:
        order = epoch, transaction.journal.size
        envelope = _split(services, connection, output, among, least, order)
        told = {
            "run": output.run, "output": output.output, "shares": envelope.digest, "epoch": epoch, "at_least": least,
            "holders": sorted(among),
        }  # fmt: skip
        entry, _ = transaction.journal.append("shares", now, agreement.digest, asset, told)
        _PUT.run(connection, asset=asset, line=output.line, entry=entry, holders=wanted, envelope=envelope.encode())
    receipt = stored(state.run(connection, output.run).receipt)
    return KeptShares(shares=envelope, receipt=receipt, manifest=services.library.manifest(connection, asset)), entry


def _split(
    services: Services,
    connection: Connection,
    output: StoredOutput,
    among: dict[str, str],
    least: int,
    order: tuple[int, int],
) -> Envelope:
    key = output_key(services, connection, output)
    manager, asset = services.keys.identity.public.text, output.asset
    parts = split(key, len(among), least, os.urandom((least - 1) * len(key)))
    found = {
        party: Holder(
            number,
            share_digest(parts[number], asset, party, order),
            HpkePublicKey(receive).seal(parts[number], held_info(manager, asset, party, order)),
        )
        for number, (party, receive) in enumerate(sorted(among.items()), 1)
    }
    made = OutputShares(
        manager, output.agreement, origin(output.run), output.job, output.output, asset, output.session_key, *order, least,
        key_check(key, asset), found,
    )  # fmt: skip
    return signed(KIND, made.body(), services.keys.identity)
