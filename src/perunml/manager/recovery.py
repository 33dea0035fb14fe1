"""Outputs of lost managers: claimed by their holders, given again by enough of their shares, then an output of the run here as it was there.

Nothing of the operator's is believed: the shares' document is signed by a manager that the agreement names, the receipt by that manager, the
manifest by the run's session; whoever reads the ciphertext checks it against that.
"""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest
from typing import Any

from sqlalchemy import insert

from perunml.agreements.codes import SHARE_MISMATCH
from perunml.agreements.recovery import (
    GIVEN,
    SHARE_SIZE,
    Given,
    OutputShares,
    given_info,
    key_check,
    open_given,
    open_shares,
    renamed,
    share_digest,
)
from perunml.agreements.schema import Agreement
from perunml.api.recovery import ClaimOutput, GiveShare, KeptShares, RecoveryList, RecoveryView
from perunml.ledger.receipts import KIND as RECEIPT
from perunml.ledger.receipts import Receipt, open_receipt
from perunml.manager import assets, rights, state
from perunml.manager.codes import ASSET_CONFLICT, INTAKE_ROTATED, SHARE_GIVEN, SHARE_STALE, SHARE_WRONG
from perunml.manager.context import Services
from perunml.manager.http import Access, Call
from perunml.manager.library import Held
from perunml.manager.routing import Spec
from perunml.manager.shares import custody
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.manager.store.envelopes import stored
from perunml.manager.writer import Transaction
from perunml.release.outputs import decide_shares
from perunml.release.types import RegisteredOutput
from perunml.sealing.manifest import Manifest, open_manifest
from perunml.wire.canonical import canonical
from perunml.wire.dsse import Envelope
from perunml.wire.errors import PerunError, error, refuse
from perunml.wire.identity import PublicKey
from perunml.wire.shares import join

_OF_LINE = "SELECT * FROM recoveries WHERE line = :line ORDER BY rowid"
_ONE = "SELECT * FROM recoveries WHERE asset = :asset AND line = :line"
_GIVEN = "SELECT party, envelope, kept FROM given_shares WHERE asset = :asset AND line = :line AND shares = :shares ORDER BY rowid"
_WIPE = "UPDATE given_shares SET kept = X'' WHERE asset = :asset AND line = :line"
_AGAIN = "UPDATE recoveries SET shares = :shares, envelope = :envelope WHERE asset = :asset AND line = :line"
_DONE = "UPDATE recoveries SET recovered = 1, kept = :kept WHERE asset = :asset AND line = :line"
_ELSEWHERE = "SELECT envelope FROM recoveries WHERE asset = :asset AND line != :line AND recovered = 1"
_HERE = "SELECT run FROM outputs WHERE asset = :asset AND line = :line"
_RUN = "SELECT line, receipt FROM runs WHERE run = :run"
_ASSET = "SELECT complete FROM assets WHERE digest = :asset"
_CLAIM = Statement(insert(t.recoveries))
_ADD_GIVEN = Statement(insert(t.given_shares))
_ADD_RUN = Statement(insert(t.runs))
_ADD_OUTPUT = Statement(insert(t.outputs))


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed output, for the agreement `held`."""

    held: Held
    shares: OutputShares
    receipt: Envelope
    recovered: bool

    @property
    def where(self) -> dict[str, str]:
        return {"asset": self.shares.asset, "line": self.held.line}

    @property
    def output(self) -> RegisteredOutput:
        return RegisteredOutput(self.shares.run, self.shares.job, self.shares.output, self.shares.asset)


def routes(services: Services) -> list[Spec]:
    async def claim(call: Call) -> RecoveryView:
        message, key = ClaimOutput.decode(call.body), call.caller.key
        return await services.writer.submit(lambda tx: _claim(services, tx, message, key))

    async def give(call: Call) -> RecoveryView:
        envelope, key, now = GiveShare.decode(call.body).share, call.caller.key, services.clock.now()
        with services.database.read() as connection:
            found = _named(services, connection, envelope, key)
        await services.witnessed.demand(
            found.held.agreement, within=state.lease_of(found.held.agreement, found.shares.job)
        )
        made = await services.writer.submit(lambda tx: _give(services, tx, envelope, key, now))
        if isinstance(made, PerunError):
            raise made
        return made

    async def listed(call: Call) -> RecoveryList:
        with services.database.read() as connection:
            seen = rights.agreement(services, connection, call.query.get("agreement", ""), call.caller.key)
            held = state.newest(services, connection, seen.held.line, seen.held.agreement.digest)
            rows = connection.run(_OF_LINE, {"line": held.line}).all()
            return RecoveryList(outputs=[_view(connection, _read(held, row)) for row in rows])

    return [
        Spec("POST", "/v1/recovery/outputs", Access.PARTY, claim, assets.MANIFEST_LIMIT, takes=ClaimOutput),
        Spec("POST", "/v1/recovery/shares", Access.PARTY, give, takes=GiveShare),
        Spec("GET", "/v1/recovery", Access.PARTY, listed, query=("agreement",)),
    ]


def _claim(services: Services, transaction: Transaction, message: ClaimOutput, key: str) -> RecoveryView:
    connection = transaction.connection
    seen = rights.agreement(services, connection, message.agreement, key)
    held = state.newest(services, connection, seen.held.line, seen.held.agreement.digest)
    shares, manifest = _checked(held, message.kept, seen.party)
    found = (
        _read(held, row) if (row := connection.run(_ONE, {"asset": shares.asset, "line": held.line}).first()) else None
    )
    if found is None:
        found = Claim(held, shares, message.kept.receipt, False)
        assets.check_room(services, manifest)
        if connection.run(_ASSET, {"asset": shares.asset}).first() is None:
            assets.add(connection, shares.asset, manifest, message.kept.manifest, b"", shares.run, shares.output)
        _CLAIM.run(connection, **found.where, shares=shares.digest, envelope=message.kept.shares.encode(),
                   receipt=message.kept.receipt.encode(), recovered=0, kept=b"")  # fmt: skip
    elif not found.recovered and shares.order > found.shares.order:
        connection.run(_AGAIN, {**found.where, "shares": shares.digest, "envelope": message.kept.shares.encode()})
        connection.run(_WIPE, found.where)
        found = Claim(held, shares, found.receipt, False)
    elif not found.recovered and shares.digest != found.shares.digest:
        raise _stale(seen.party, found.shares, shares.digest)
    return _view(connection, found)


def _checked(held: Held, kept: KeptShares, party: str) -> tuple[OutputShares, Manifest]:
    """What a holder kept, if all of it belongs together and the agreement takes outputs of that manager."""
    managers = _named_manager(held.agreement, str(kept.shares.unverified("OutputShares").get("manager")))
    shares = open_shares(kept.shares, managers)
    # What the lost manager had itself taken over was trained under another one, whose receipt counts if the agreement names that too.
    trained = str(kept.receipt.unverified(RECEIPT).get("manager"))
    _named_manager(held.agreement, trained)
    receipt = open_receipt(kept.receipt, PublicKey(trained))
    proven = (receipt.run, receipt.job, receipt.outputs.get(shares.output))
    if proven != (shares.run, shares.job, shares.asset) or kept.manifest.digest != shares.asset:
        raise refuse(
            SHARE_MISMATCH, "the receipt or the manifest is of another output", expected=f"{shares.output} of {shares.run}",
            seen=f"{receipt.run}: {proven[2]}",
        )  # fmt: skip
    if party not in shares.holders:
        raise refuse(
            SHARE_MISMATCH, f"{party} holds no share of this output", expected=", ".join(shares.holders), seen=party
        )
    manifest = open_manifest(kept.manifest, [PublicKey(shares.signer)])
    if manifest.kind != "output":
        raise refuse(SHARE_MISMATCH, "not an output", expected="output", seen=manifest.kind)
    return shares, manifest


def _named_manager(agreement: Agreement, said: str) -> tuple[str, ...]:
    """The managers that the agreement takes outputs over from, of which this is one. Raises `AgreementRefusal` (share_mismatch)."""
    managers = agreement.recovery.managers if agreement.recovery else ()
    if said not in managers:
        raise refuse(
            SHARE_MISMATCH, "the agreement takes no outputs of this manager", seen=said,
            expected=", ".join(managers) or "a version with recovery.managers", command="perunml agreement propose FILE",
        )  # fmt: skip
    return managers


def _named(services: Services, connection: Connection, envelope: Envelope, key: str) -> Claim:
    """The claim that a given share is for."""
    body = envelope.unverified(GIVEN)
    seen = rights.agreement(services, connection, str(body.get("agreement", "")), key)
    held = state.newest(services, connection, seen.held.line, seen.held.agreement.digest)
    row = connection.run(_ONE, {"asset": str(body.get("asset", "")), "line": held.line}).first()
    if row is None:
        raise refuse(
            SHARE_MISMATCH, "no holder has claimed this output here", expected="its shares' document first",
            seen=str(body.get("asset", ""))[:80], command="perunml recovery give",
        )  # fmt: skip
    return _read(held, row)


def _give(
    services: Services, transaction: Transaction, envelope: Envelope, key: str, now: int
) -> RecoveryView | PerunError:
    now = transaction.journal.at(now)
    connection = transaction.connection
    claim = _named(services, connection, envelope, key)
    agreement, shares = claim.held.agreement, claim.shares
    given = open_given(agreement, envelope)
    _named_manager(agreement, shares.manager)  # a later version may name it no more
    found = state.state_of(services, connection, claim.held, now, shares.job)
    if reasons := decide_shares(agreement, state=found, output=claim.output, now=now):
        return error(reasons)
    if given.shares != shares.digest:
        raise _stale(given.party, shares, given.shares)
    before = {row.party: row for row in connection.run(_GIVEN, {**claim.where, "shares": shares.digest}).all()}
    if given.party in before:
        if stored(before[given.party].envelope).digest == given.digest:
            return _view(connection, claim)  # the same request once more
        raise refuse(SHARE_GIVEN, f"{given.party} gave its share of this output already", seen=given.party)
    if claim.recovered:
        return _view(connection, claim)
    share = _opened(services, claim, given)
    kept = services.keys.keep(share, _custody(claim, given.party))
    _ADD_GIVEN.run(
        connection, **claim.where, shares=shares.digest, party=given.party, envelope=envelope.encode(), kept=kept
    )
    told = {"party": given.party, "shares": shares.digest, "share": given.digest}
    transaction.journal.append("share", now, agreement.digest, shares.asset, told)
    parts = {shares.holders[given.party].number: share}
    for party, row in before.items():
        parts[shares.holders[party].number] = services.keys.take(bytes(row.kept), _custody(claim, party))
    if len(parts) == shares.at_least:
        _recovered(services, transaction, claim, join(parts, shares.at_least), now)
    return _view(connection, claim)


def _opened(services: Services, claim: Claim, given: Given) -> bytes:
    """The party's share, as the lost manager made it."""
    shares = claim.shares
    holder = shares.holders.get(given.party)
    if holder is None:
        raise refuse(SHARE_MISMATCH, f"{given.party} holds no share of this output", expected=", ".join(shares.holders))
    try:
        share = services.keys.intake.open(given.sealed, given_info(claim.held.agreement, given.party, shares))
    except PerunError:
        if services.keys.generation > 1:
            raise refuse(
                INTAKE_ROTATED, f"the share of {given.party} does not open; this manager has had another intake key",
                expected=services.keys.intake.public.id,
            ) from None  # fmt: skip
        raise refuse(SHARE_WRONG, f"what {given.party} gave does not open as its share", seen=given.party) from None
    said = share_digest(share, shares.asset, given.party, shares.order)
    if len(share) != SHARE_SIZE or not compare_digest(said, holder.digest):
        raise refuse(
            SHARE_WRONG, f"the share of {given.party} is not the one that it was given", expected=holder.digest,
            seen=given.party,
        )  # fmt: skip
    return share


def _recovered(services: Services, transaction: Transaction, claim: Claim, key: bytes, now: int) -> None:
    """The output is one of the agreement's from now on."""
    connection, shares, agreement = transaction.connection, claim.shares, claim.held.agreement
    if not compare_digest(key_check(key, shares.asset), shares.check):
        raise refuse(SHARE_WRONG, "the shares together do not give the output's key", expected=shares.check)
    taken = [stored(row[0]).unverified("OutputShares")["manager"] for row in connection.run(_ELSEWHERE, claim.where)]
    if shares.manager in (services.keys.identity.public.text, *taken):
        raise refuse(
            ASSET_CONFLICT, "the output is here already, under another agreement", seen=shares.asset,
            expected="an output that no agreement here has of that manager",
        )  # fmt: skip
    kept = services.keys.keep(key, custody(shares.asset, claim.held.line))
    run, known = _run_here(connection, claim)
    if not known:
        _ADD_RUN.run(connection, **_run_row(claim, run))
    _ADD_OUTPUT.run(
        connection, run=run, output=shares.output, asset=shares.asset, agreement=agreement.digest,
        line=claim.held.line, job=shares.job, session_key=shares.signer, registered=1,
    )  # fmt: skip
    connection.run(_DONE, {**claim.where, "kept": kept})
    connection.run(_WIPE, claim.where)
    told = {
        "run": shares.run,
        "as": run,
        "job": shares.job,
        "output": shares.output,
        "manager": shares.manager,
        "shares": shares.digest,
    }
    transaction.journal.append("recovered", now, agreement.digest, shares.asset, told)


def _run_here(connection: Connection, claim: Claim) -> tuple[str, bool]:
    """The run's id here, and whether another output of it was recovered before: its own id, unless something else has that."""
    for run in (claim.shares.run, renamed(claim.shares, claim.held.line)):
        row = connection.run(_RUN, {"run": run}).first()
        if row is None:
            return run, False
        if row.line == claim.held.line and row.receipt and stored(row.receipt).digest == claim.receipt.digest:
            return run, True
    raise refuse(ASSET_CONFLICT, "this manager has a run of this name already", seen=claim.shares.run)


def _run_row(claim: Claim, run: str) -> dict[str, Any]:
    """The run as it ended at the lost manager."""
    agreement = claim.held.agreement
    receipt: Receipt = open_receipt(claim.receipt, PublicKey(str(claim.receipt.unverified(RECEIPT)["manager"])))
    return {
        "run": run, "agreement": agreement.digest, "line": claim.held.line, "job": receipt.job, "kind": "train",
        "party": "", "request": "", "parameters": canonical(dict(receipt.parameters)).decode(), "pinned": "{}",
        "state": "finished", "machine": receipt.host.machine, "simulated": int(receipt.host.simulated), "reasons": "[]",
        "endpoint": "", "lease": "", "released": 0, "refusals": 0, "created": receipt.time, "ended": receipt.time,
        "receipt": claim.receipt.encode(),
    }  # fmt: skip


def _read(held: Held, row: Any) -> Claim:
    envelope = stored(row.envelope)
    manager = str(envelope.unverified("OutputShares")["manager"])
    return Claim(held, open_shares(envelope, [manager]), stored(row.receipt), bool(row.recovered))


def _view(connection: Connection, claim: Claim) -> RecoveryView:
    shares = claim.shares
    asset = connection.run(_ASSET, {"asset": shares.asset}).one()
    done = bool(connection.run(_ONE, claim.where).one().recovered)
    return RecoveryView(
        asset=shares.asset,
        agreement=claim.held.agreement.digest,
        job=shares.job,
        output=shares.output,
        run=str(connection.run(_HERE, claim.where).scalar()) if done else shares.run,
        shares=shares.digest,
        at_least=shares.at_least,
        holders=list(shares.holders),
        given=[row.party for row in connection.run(_GIVEN, {**claim.where, "shares": shares.digest}).all()],
        recovered=done,
        complete=bool(asset.complete),
    )


def _custody(claim: Claim, party: str) -> dict[str, str]:
    """What a share is kept as."""
    return {"label": "perunml/custody-share", "shares": claim.shares.digest, "line": claim.held.line, "party": party}


def _stale(party: str, newest: OutputShares, seen: str) -> PerunError:
    return refuse(
        SHARE_STALE, f"the share of {party} is of another split than the newest", expected=newest.digest, seen=seen
    )
