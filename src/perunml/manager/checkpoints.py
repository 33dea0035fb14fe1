"""A training's checkpoints: registered and kept under its lease, opened for another session of the same run alone.

Of a run there is one that is kept, and while the next is being sent, that too. The one before is removed once a newer one is kept,
and the last when the run is over.
"""

from __future__ import annotations

import asyncio

from perunml.agreements.jobs import TrainingJob
from perunml.agreements.schema import Agreement
from perunml.api.assets import AssetView
from perunml.api.runs import CheckpointKey, InputKey, RegisterCheckpoint
from perunml.manager import assets, leases, state
from perunml.manager.blobs import BlobFolder
from perunml.manager.codes import CHECKPOINT_REFUSED
from perunml.manager.context import Services
from perunml.manager.http import Access, Call
from perunml.manager.leases import Lease
from perunml.manager.routing import Spec
from perunml.manager.state import StoredRun
from perunml.manager.store.connection import Connection
from perunml.manager.store.envelopes import stored
from perunml.manager.writer import Transaction
from perunml.release.decide import decide_submission
from perunml.release.types import Run
from perunml.sealing.manifest import Manifest, open_manifest
from perunml.sealing.packed import packed_size
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.identity import PublicKey

KEPT = "kept"
"""In the column `output`: its bytes are here and the ledger says so."""
_ASSET = "SELECT * FROM assets WHERE digest = :digest"
_LAST = "SELECT * FROM assets WHERE asset_id = :id AND kind = 'checkpoint' AND output = 'kept' ORDER BY version DESC LIMIT 1"
_NUMBER = "SELECT max(version) FROM assets WHERE asset_id = :id AND kind = 'checkpoint'"
_KEEP = "UPDATE assets SET output = 'kept' WHERE digest = :digest"
_OVER = (
    "SELECT a.digest FROM assets a JOIN runs r ON r.run = a.run WHERE a.kind = 'checkpoint' AND (r.state NOT IN ('queued', 'running') OR "
    "(a.version < (SELECT max(b.version) FROM assets b WHERE b.asset_id = a.asset_id AND b.kind = 'checkpoint') AND a.version <> "
    "coalesce((SELECT max(b.version) FROM assets b WHERE b.asset_id = a.asset_id AND b.kind = 'checkpoint' AND b.output = 'kept'), 0)))"
)
"""All but the newest of a run that goes on, and the last that was kept: a host that begins ever new ones holds the room of two."""
_REMOVE_BLOBS = "DELETE FROM blobs WHERE asset = :digest"
_REMOVE = "DELETE FROM assets WHERE digest = :digest AND kind = 'checkpoint'"


def routes(services: Services) -> list[Spec]:
    async def register(call: Call) -> AssetView:
        message = RegisterCheckpoint.decode(call.body)
        run, lease, now = call.params["run"], call.caller.lease, services.clock.now()
        with services.database.read() as connection:
            stored_run = state.run(connection, run)
            held = state.newest(services, connection, stored_run.line, stored_run.agreement)
        await services.witnessed.demand(held.agreement, within=state.lease_of(held.agreement, stored_run.job))
        made = await services.writer.submit(lambda tx: _register(services, tx, run, lease, message, now))
        if isinstance(made, PerunError):
            raise made
        await clear(services)
        return made

    return [
        Spec(
            "POST",
            "/v1/runs/{run}/checkpoints",
            Access.LEASE,
            register,
            assets.MANIFEST_LIMIT,
            takes=RegisterCheckpoint,
        )
    ]


def delivered(services: Services, connection: Connection, agreement: Agreement, run: StoredRun) -> CheckpointKey | None:
    """What a session is given to keep the run's checkpoints and to open the last one; None where the agreement has none. For `delivery`
    alone, which has the `Release`."""
    job = agreement.jobs[run.job]
    if not isinstance(job, TrainingJob) or job.checkpoints is None:
        return None
    key, asset_id = services.keys.checkpoint_key(run.run), services.keys.checkpoint_id(run.run)
    row = connection.run(_LAST, {"id": asset_id}).first()
    last = None if row is None else InputKey(
        asset=row.digest, kind="checkpoint", mount="/checkpoints", manifest=stored(row.manifest), owners=[row.owner], key=key
    )  # fmt: skip
    number = int(connection.run(_NUMBER, {"id": asset_id}).scalar() or 0) + 1
    every, most = job.checkpoints.every, job.checkpoints.max_size
    return CheckpointKey(key=key, asset_id=asset_id, number=number, every=every, max_size=most, last=last)


async def clear(services: Services) -> None:
    """Remove the checkpoints that nobody can go on from any more: files first, so that rows are left to find them by."""
    with services.database.read() as connection:
        over = [str(row[0]) for row in connection.run(_OVER)]
    folder = BlobFolder(services.config.blobs)
    for digest in over:
        await asyncio.to_thread(folder.remove, digest)

    def forget(transaction: Transaction) -> None:
        for digest in over:
            transaction.connection.run(_REMOVE_BLOBS, {"digest": digest})
            transaction.connection.run(_REMOVE, {"digest": digest})

    if over:
        await services.writer.submit(forget)


def _register(
    services: Services, transaction: Transaction, run_id: str, lease_id: str, message: RegisterCheckpoint, now: int
) -> AssetView | PerunError:
    """What is known of it. It is kept once all of it is here."""
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
        told = {"checkpoint": manifest.version, "reasons": [reason.as_json() for reason in reasons]}
        transaction.journal.append("refusal", now, run.agreement, run.run, told)
        return error(reasons)
    first = services.library.held(connection, run.agreement).agreement
    _check_form(services, (first, held.agreement), run, lease, manifest)
    digest = message.manifest.digest
    row = connection.run(_ASSET, {"digest": digest}).first()
    if row is None:
        newest = int(connection.run(_NUMBER, {"id": manifest.asset_id}).scalar() or 0)
        if manifest.version <= newest:
            raise refuse(
                CHECKPOINT_REFUSED, "checkpoints are numbered upwards", expected=f"{newest + 1} or more", seen=str(manifest.version)
            )  # fmt: skip
        assets.check_room(services, manifest)
        assets.add(connection, digest, manifest, message.manifest, b"", run.run, "")
        row = connection.run(_ASSET, {"digest": digest}).one()
    if row.complete and row.output != KEPT:
        connection.run(_KEEP, {"digest": digest})
        told = {"lease": lease.lease, "number": manifest.version, "asset": digest}
        transaction.journal.append("checkpoint", now, run.agreement, run.run, told)
    return assets.view(connection, row)


def _check_form(
    services: Services, agreements: tuple[Agreement, Agreement], run: StoredRun, lease: Lease, manifest: Manifest
) -> None:
    """Raises `AgreementRefusal` (checkpoint_refused): not this run's, or not as the version that it runs under, and the newest, allow."""
    sizes = []
    for agreement in agreements:
        job = agreement.training(run.job)
        if job is None or job.checkpoints is None:
            raise refuse(CHECKPOINT_REFUSED, "the agreement allows the run no checkpoints", seen=run.job)
        sizes.append(packed_size(job.checkpoints.max_size))
    if manifest.kind != "checkpoint" or manifest.asset_id != services.keys.checkpoint_id(lease.run):
        raise refuse(CHECKPOINT_REFUSED, "not a checkpoint of this run", expected="checkpoint", seen=manifest.kind)
    if manifest.size != sizes[0] or manifest.size > sizes[1]:
        raise refuse(
            CHECKPOINT_REFUSED, "a checkpoint is padded to the agreed size, and not larger", expected=f"{min(sizes)} bytes",
            seen=f"{manifest.size} bytes",
        )  # fmt: skip
