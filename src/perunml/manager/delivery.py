"""What a host is given: the keys of exactly the inputs and outputs of a `Release`. Nothing else opens the vault.

Here alone data keys leave custody, and only into a message that is sealed to the session key right after.
"""

from __future__ import annotations

import functools
from typing import Any

from perunml.agreements.flows import ancestors, sources, split_ref
from perunml.agreements.jobs import ServiceJob
from perunml.agreements.schema import Agreement
from perunml.api.runs import InputKey, KeyDelivery, OutputKey
from perunml.api.service import ServiceCertificate
from perunml.manager import checkpoints
from perunml.manager.assets import custody
from perunml.manager.codes import ASSET_INCOMPLETE, MODEL_MISSING, OWNER_NOT_AGREED
from perunml.manager.context import Services
from perunml.manager.library import Held
from perunml.manager.registered import newest_output
from perunml.manager.shares import output_key
from perunml.manager.state import StoredRun
from perunml.manager.store.connection import Connection
from perunml.release.clients import client_keys
from perunml.release.types import CHECKPOINT, InputGrant, Release
from perunml.wire.dsse import Envelope
from perunml.wire.errors import error, refuse
from perunml.wire.rules import Reason
from perunml.wire.timestamps import format_time

_ASSET = "SELECT owner, complete, kept, store FROM assets WHERE digest = :digest AND run = ''"


def build(
    services: Services, connection: Connection, held: Held, run: StoredRun, release: Release
) -> tuple[KeyDelivery, dict[str, str]]:
    """The delivery, and the digests of the assets granted by input name. Raises `ApprovalPending` (asset_incomplete,
    model_missing, owner_not_agreed), `IntegrityError` (custody_broken)."""
    if type(release) is not Release:
        raise TypeError("keys leave custody for a Release only")
    agreement = held.agreement
    job = agreement.jobs[run.job]
    inputs: dict[str, InputKey] = {}
    grants: dict[str, str] = {}
    for grant in release.inputs:
        found = _input(services, connection, held, grant) if grant.digest else _made(services, connection, held, grant)
        inputs[grant.name] = found
        grants[grant.name] = found.manifest.digest
    outputs = {
        grant.name: OutputKey(
            key=services.keys.output_key(run.run, grant.name),
            asset_id=services.keys.output_id(run.run, grant.name),
            format=grant.format,
            max_size=grant.max_size,
            fields=list(grant.fields),
        )
        for grant in release.outputs
    }
    code = agreement.assets[job.code] if job.code else None
    kept = checkpoints.delivered(services, connection, agreement, run)
    if kept is not None and kept.last is not None:
        grants[CHECKPOINT] = kept.last.asset
    message = KeyDelivery(
        run=run.run,
        agreement=run.agreement,
        kind=run.kind,
        job=_job_json(agreement, run.job),
        entry=(code.entry or "") if code else "",
        parameters=dict(release.parameters),
        inputs=inputs,
        outputs=outputs,
        clients=client_keys(agreement, job) if isinstance(job, ServiceJob) else {},
        wall_seconds=release.wall_seconds,
        simulated=release.simulated,
        checkpoints=kept,
    )
    return message, grants


def service_certificate(
    services: Services,
    run: StoredRun,
    job: ServiceJob,
    machine: str,
    verdict: dict[str, Any],
    model: str,
    hpke: str,
    session_key: str,
    now: int,
    seconds: int,
) -> Envelope:
    """The manager's word on a service's keys, for one lease."""
    return ServiceCertificate(
        manager=services.keys.identity.public.text,
        agreement=run.agreement,
        job=run.job,
        run=run.run,
        model=model,
        engine=job.engine,
        machine=machine,
        profile=verdict["profile"],
        imitates=verdict["imitates"],
        simulated=verdict["simulated"],
        verdict=verdict["digest"],
        hpke=hpke,
        session_key=session_key,
        not_before=format_time(now),
        not_after=format_time(now + seconds),
    ).envelope(services.keys.identity)


def strangers(
    services: Services, connection: Connection, held: Held, job: str
) -> tuple[frozenset[str], tuple[Reason, ...]]:
    """Of what flows into a job the assets that nobody vouched for (`Library.vouched`), and a reason for each: nothing that is said of
    them elsewhere may be told to who asks, and the job gets nothing. An asset that only flows in through another job's output and is
    not here counts as none: what is not here has not flowed."""
    direct = sources(held.agreement.jobs[job])
    names = frozenset(
        name
        for name in ancestors(held.agreement, job)
        if not services.library.vouched(connection, held, name)
        and (name in direct or services.library.sealer(connection, held.agreement.assets[name].digest))
    )
    return names, tuple(_unvouched(services, connection, held, name) for name in sorted(names))


def _unvouched(services: Services, connection: Connection, held: Held, name: str) -> Reason:
    """Why an asset that nobody vouched for is not given out. It depends on the agreement's own keys alone, not on whether the asset is
    here and whose it is: anybody can write a digest into an agreement of his own."""
    owner, library = held.agreement.assets[name].owner, services.library
    if all(library.agreed(connection, held, key, owner) for key in held.agreement.parties[owner].keys.values()):
        return _absent(held.agreement, name)
    return Reason(
        OWNER_NOT_AGREED,
        f"no key of {owner} that has itself agreed sealed {name} and pushed it",
        "an approval by the key that sealed it",
        "none",
        f"perunml agreement approve {held.agreement.digest}",
    )


def _absent(agreement: Agreement, name: str) -> Reason:
    asset = agreement.assets[name]
    return Reason(
        ASSET_INCOMPLETE,
        f"the {asset.kind} {name}, as sealed by {asset.owner}, is not here, or not whole",
        asset.digest,
        "not here",
        "perunml push NAME",
    )


@functools.lru_cache(maxsize=256)
def _job_json(agreement: Agreement, job: str) -> dict[str, Any]:
    """A job as the document writes it; parsing an agreement takes a quarter of a millisecond. Nobody changes it."""
    return agreement.job_json(job)


def _input(services: Services, connection: Connection, held: Held, grant: InputGrant) -> InputKey:
    """An asset of the agreement."""
    named = held.agreement.assets[grant.asset]
    owners = services.library.keys_of(connection, held, named.owner)
    row = connection.run(_ASSET, {"digest": grant.digest}).first()
    if row is None or not services.library.vouched(connection, held, grant.asset):
        raise error([_unvouched(services, connection, held, grant.asset)])
    if not row.complete:
        raise error([_absent(held.agreement, grant.asset)])
    return InputKey(
        asset=grant.digest,
        kind=named.kind,
        mount=grant.mount,
        manifest=services.library.manifest(connection, grant.digest),
        owners=owners,
        key=services.keys.take(bytes(row.kept), custody(grant.digest, row.owner)),
        store=row.store,
    )


def _made(services: Services, connection: Connection, held: Held, grant: InputGrant) -> InputKey:
    """Another job's output: the newest finished run's."""
    source = split_ref(grant.asset)
    assert source is not None, "a grant without a digest names an output"
    output = newest_output(connection, held.line, *source)
    if output is None:
        raise refuse(MODEL_MISSING, f"no run has put out {grant.asset} yet", command=f"perunml job submit {source[0]}")
    return InputKey(
        asset=output.asset,
        kind="output",
        mount=grant.mount,
        manifest=services.library.manifest(connection, output.asset),
        owners=[output.session_key],
        key=output_key(services, connection, output),
    )
