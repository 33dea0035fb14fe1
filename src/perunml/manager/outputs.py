"""Outputs: registered by a run's session, released to the recipients that the agreement names."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects.sqlite import insert as upsert

from perunml.agreements.schema import Agreement
from perunml.api.assets import AssetView
from perunml.api.runs import ApproveOutput, OutputDelivery, OutputView, RegisterOutput
from perunml.manager import assets, leases, registered, shares, state
from perunml.manager.codes import OUTPUT_UNDECLARED
from perunml.manager.context import Services
from perunml.manager.http import Access, Call
from perunml.manager.leases import Lease
from perunml.manager.routing import Spec
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.manager.store.envelopes import fresh, stored
from perunml.manager.writer import Transaction
from perunml.release.decide import decide_submission
from perunml.release.outputs import check_output_approval
from perunml.release.types import Refusal, Run
from perunml.sealing.manifest import Manifest, open_manifest
from perunml.wire.digests import digest
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.hpke import HpkePublicKey
from perunml.wire.identity import PublicKey

_ASSET = "SELECT * FROM assets WHERE digest = :digest"
_HELD = "SELECT 1 FROM assets WHERE digest = :digest"
_ADD_APPROVAL = Statement(upsert(t.output_approvals).on_conflict_do_nothing())
_row = upsert(t.outputs)
_SET_OUTPUT = Statement(
    _row.on_conflict_do_update(
        index_elements=["run", "output"], set_={"asset": _row.excluded.asset, "session_key": _row.excluded.session_key}
    )
)


def routes(services: Services) -> list[Spec]:
    async def register(call: Call) -> AssetView:
        message = RegisterOutput.decode(call.body)
        run, lease, now = call.params["run"], call.caller.lease, services.clock.now()
        with services.database.read() as connection:
            stored_run = state.run(connection, run)
            held = state.newest(services, connection, stored_run.line, stored_run.agreement)
        await services.witnessed.demand(held.agreement, within=state.lease_of(held.agreement, stored_run.job))
        made = await services.writer.submit(lambda tx: _register(services, tx, run, lease, message, now))
        if isinstance(made, PerunError):
            raise made
        return made

    async def delivery(call: Call) -> OutputDelivery:
        asset, key, now = call.params["asset"], call.caller.key, services.clock.now()
        with services.database.read() as connection:
            output, agreement, _ = _found(services, connection, asset, key)
        await services.witnessed.demand(agreement, within=state.lease_of(agreement, output.job))
        made = await services.writer.submit(lambda tx: _deliver(services, tx, asset, key, now))
        if isinstance(made, PerunError):
            raise made
        delivery, entry = made
        await services.witnessed.demand(agreement, size=entry + 1)
        return delivery

    async def approve(call: Call) -> OutputView:
        envelope = ApproveOutput.decode(call.body).approval
        asset, key, now = call.params["asset"], call.caller.key, services.clock.now()
        return await services.writer.submit(lambda tx: _approve(services, tx, asset, key, envelope, now))

    return [
        Spec("POST", "/v1/runs/{run}/outputs", Access.LEASE, register, assets.MANIFEST_LIMIT, takes=RegisterOutput),
        Spec("GET", "/v1/outputs/{asset}/delivery", Access.PARTY, delivery),
        Spec("POST", "/v1/outputs/{asset}/approvals", Access.PARTY, approve, takes=ApproveOutput),
    ]


def _register(
    services: Services, transaction: Transaction, run_id: str, lease_id: str, message: RegisterOutput, now: int
) -> AssetView | PerunError:
    now = transaction.journal.at(now)
    connection = transaction.connection
    lease = leases.of_run(services, connection, lease_id, run_id)
    run = state.run(connection, run_id)
    held = state.newest(services, connection, run.line, run.agreement)
    manifest = open_manifest(message.manifest, [PublicKey(lease.session_key)])
    reasons = decide_submission(
        held.agreement,
        state=state.state_of(services, connection, held, now, run.job),
        run=Run(held.agreement.digest, run.job, run.run, run.parameters, {}, "renew"),
        usage=state.usage_of(services, connection, held, started=lease.started),
        now=now,
    )
    if reasons:
        told = {"output": message.name, "reasons": [reason.as_json() for reason in reasons]}
        transaction.journal.append("refusal", now, run.agreement, run.run, told)
        return error(reasons)
    _check_declared(services, held.agreement, run.job, lease, message.name, manifest)
    asset = message.manifest.digest
    if connection.run(_HELD, {"digest": asset}).first() is None:
        assets.check_room(services, manifest)
        assets.add(connection, asset, manifest, message.manifest, b"", run.run, message.name)
    _SET_OUTPUT.run(
        connection,
        run=run.run,
        output=message.name,
        asset=asset,
        agreement=run.agreement,
        line=run.line,
        job=run.job,
        session_key=lease.session_key,
        registered=0,
    )
    return assets.view(connection, connection.run(_ASSET, {"digest": asset}).one())


def _check_declared(
    services: Services, agreement: Agreement, job: str, lease: Lease, name: str, manifest: Manifest
) -> None:
    training = agreement.training(job)
    declared = training.outputs.get(name) if training else None
    wanted = services.keys.output_id(lease.run, name)
    if declared is None or declared.level == "error-class" or manifest.kind != "output" or manifest.asset_id != wanted:
        expected = ", ".join(training.outputs) if training else "none"
        raise refuse(OUTPUT_UNDECLARED, "not an output that was declared", expected=expected, seen=name)
    if manifest.size > declared.max_size:
        raise refuse(
            OUTPUT_UNDECLARED, f"the output {name} is too large", expected=f"at most {declared.max_size} bytes",
            seen=f"{manifest.size} bytes",
        )  # fmt: skip


def _found(
    services: Services, connection: Connection, asset: str, key: str
) -> tuple[registered.StoredOutput, Agreement, str]:
    """The output, the agreement that rules it today, and the caller's party in that."""
    output, seen = registered.find(services, connection, asset, key)
    return output, seen.held.agreement, seen.party


def _deliver(
    services: Services, transaction: Transaction, asset: str, key: str, now: int
) -> tuple[OutputDelivery, int] | PerunError:
    """The delivery, and the index of the entry that says so."""
    now = transaction.journal.at(now)
    connection = transaction.connection
    output, agreement, party = _found(services, connection, asset, key)
    decided = registered.decide(services, connection, output, party)
    told: dict[str, Any] = {"run": output.run, "output": output.output, "asset": asset, "party": party}
    if isinstance(decided, Refusal):
        told["reasons"] = [reason.as_json() for reason in decided.reasons]
        transaction.journal.append("refusal", now, agreement.digest, asset, told)
        return decided.error()
    entry, _ = transaction.journal.append("output-release", now, agreement.digest, asset, told)
    info = {
        "label": "perunml/output-key",
        "manager": services.keys.identity.public.text,
        "agreement": output.agreement,
        "run": output.run,
        "output": output.output,
        "asset": asset,
        "party": party,
    }
    run = state.run(connection, output.run)
    row = connection.run(_ASSET, {"digest": asset}).one()
    made = OutputDelivery(
        manifest=stored(row.manifest),
        signer=output.session_key,
        agreement=output.agreement,
        run=output.run,
        output=output.output,
        party=party,
        sealed_key=HpkePublicKey(decided.receive).seal(shares.output_key(services, connection, output), info),
        receipt=stored(run.receipt),
    )
    return made, entry


def _approve(
    services: Services, transaction: Transaction, asset: str, key: str, envelope: Envelope, now: int
) -> OutputView:
    now = transaction.journal.at(now)
    connection = transaction.connection
    output, agreement, _ = _found(services, connection, asset, key)
    party, names = check_output_approval(agreement, envelope, output.registered_output)
    keys = {agreement.parties[party].keys[name] for name in names}
    known = [stored(row[0]) for row in connection.run(registered.APPROVALS, {"asset": asset})]
    added = fresh(envelope, keys, known)
    if added is not None:
        _ADD_APPROVAL.run(connection, asset=asset, digest=digest(added.encode()), envelope=added.encode())
        told = {"party": party, "keys": sorted(names), "approval": envelope.digest, "run": output.run}
        transaction.journal.append("output-approval", now, agreement.digest, asset, told)
    return registered.view(services, connection, output)
