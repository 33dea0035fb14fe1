"""Shares of outputs' keys from an owner's side: fetched while the manager is there, given to another one when it is lost.

A share is kept as it came, sealed to this party's receiving key, with the documents that say what it is a share of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from perunml.agreements.recovery import (
    GIVEN,
    OutputShares,
    given,
    given_info,
    held_info,
    open_shares,
    share_digest,
)
from perunml.api.recovery import ClaimOutput, KeptShares, RecoveryList, RecoveryView
from perunml.client import agreements, runs, signing
from perunml.client.codes import NOT_FOUND, SHARE_DAMAGED
from perunml.client.home import Home, write_file
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import IntegrityError, PerunError, refuse
from perunml.wire.hpke import HpkePrivateKey, HpkePublicKey

if TYPE_CHECKING:
    from perunml.agreements.schema import Agreement
    from perunml.api.runs import RunView
    from perunml.client.connection import Connection
    from perunml.client.identity import Identity

NOT_MINE = frozenset({"not_entitled", "no_shares"})
"""What a manager says of an output that this party holds no share of."""


@dataclass(frozen=True, slots=True)
class KeptShare:
    """A share in the home folder. `fresh`: it was not there, or was of an earlier split."""

    shares: OutputShares
    party: str
    file: Path
    fresh: bool


def keep(connection: Connection, home: Home, identity: Identity, agreement: str = "") -> list[KeptShare]:
    """Fetch this party's share of every output of an agreement (by digest or name; of all of them when empty), and keep it in the home
    folder. A share that is not this party's, or that its manager did not sign, is refused, and none is kept in its place. Raises
    `IntegrityError` (share_damaged), what the manager refuses."""
    made = []
    for view in _runs(connection, agreement):
        for output in view.outputs if view.state == "finished" else ():
            try:
                kept = connection.call("GET", f"/v1/outputs/{quote(output.asset)}/shares", KeptShares)
            except PerunError as exc:
                if exc.code not in NOT_MINE:
                    raise
                continue
            _, document = agreements.show(connection, output.agreement)
            made.append(_keep(connection, home, identity, kept, output.asset, agreements.party_of(document, identity)))
    return made


def give(
    connection: Connection, home: Home, identity: Identity, agreement: str, *, outputs: Iterable[str] = ()
) -> list[RecoveryView]:
    """Give this party's kept shares (of these outputs, by digest; or all) of the managers that an agreement in force at the pinned manager names in
    `recovery.managers`. The document of shares, the receipt and the manifest come along. Raises `UsageError` (not_found), `AgreementRefusal`,
    `IntegrityError` (share_wrong, share_stale, share_given)."""
    digest, messages = _messages(connection, home, identity, agreement, frozenset(outputs))
    made: dict[str, RecoveryView] = {}
    for at, (kept, envelope) in enumerate(messages):
        asset = kept.manifest.digest
        if asset in made:
            continue
        try:
            connection.call("POST", "/v1/recovery/outputs", RecoveryView, ClaimOutput(agreement=digest, kept=kept))
            view = signing.send(connection, envelope)
        except (
            PerunError
        ) as exc:  # another of the managers named split the same key, and the others gave shares of that split
            if exc.code == "share_stale" and any(later.manifest.digest == asset for later, _ in messages[at + 1 :]):
                continue
            raise
        assert isinstance(view, RecoveryView)
        made[asset] = view
    return list(made.values())


def message(connection: Connection, home: Home, identity: Identity, agreement: str, output: str) -> Envelope:
    """This party's share of one output (by digest), sealed to the pinned manager and signed by this key, for a board of several: the others add their
    signatures, and any of them sends it. The output is claimed at once."""
    digest, messages = _messages(connection, home, identity, agreement, frozenset({output}))
    kept, envelope = messages[0]
    connection.call("POST", "/v1/recovery/outputs", RecoveryView, ClaimOutput(agreement=digest, kept=kept))
    return envelope


def listed(connection: Connection, agreement: str) -> list[RecoveryView]:
    """How far outputs of lost managers are recovered under an agreement: who gave a share, who has not."""
    digest = agreements.resolve(connection, agreement)
    return connection.call("GET", f"/v1/recovery?agreement={quote(digest)}", RecoveryList).outputs


def _runs(connection: Connection, agreement: str) -> Iterator[RunView]:
    """All runs, or those of an agreement in all of its versions."""
    if not agreement:
        yield from runs.listed(connection)
        return
    wanted: str | None = agreement
    while wanted:
        view, document = agreements.show(connection, wanted)
        yield from runs.listed(connection, view.digest)
        wanted = document.metadata.predecessor


def sealed_to(home: Home, receiving: HpkePrivateKey) -> Iterator[Path]:
    """Files of kept shares that open with this receiving key."""
    for path in sorted(home.recovery.glob("*.json")):
        shares = _opened(_read(path))
        for party, holder in shares.holders.items():
            with contextlib.suppress(IntegrityError):
                receiving.open(holder.sealed, held_info(shares.manager, shares.asset, party, shares.order))
                yield path


def _keep(
    connection: Connection, home: Home, identity: Identity, kept: KeptShares, asset: str, party: str
) -> KeptShare:
    shares = open_shares(kept.shares, [connection.pin.identity])
    if shares.asset != asset or kept.manifest.digest != asset:
        raise refuse(SHARE_DAMAGED, "the shares are of another output", expected=asset, seen=shares.asset)
    _share(identity, shares, party)
    path = home.shares_path(asset, shares.manager)
    before = _read(path) if path.exists() else None
    fresh = before is None or _opened(before).order < shares.order
    if fresh:
        write_file(path, kept.encode(), mode=0o600)
    return KeptShare(shares, party, path, fresh)


def _messages(
    connection: Connection, home: Home, identity: Identity, agreement: str, outputs: frozenset[str]
) -> tuple[str, list[tuple[KeptShares, Envelope]]]:
    view, document = agreements.show(connection, agreement)
    party = agreements.party_of(document, identity)
    made = list(_given(connection, home, identity, document, party, outputs))
    made.sort(key=lambda found: _opened(found[0]).order, reverse=True)
    if not made:
        managers = document.recovery.managers if document.recovery else ()
        raise refuse(
            NOT_FOUND, "no share is kept here of an output of a manager that the agreement takes outputs over from",
            expected=", ".join(managers) or "an agreement with recovery.managers", seen=str(home.recovery),
            command="perunml recovery keep",
        )  # fmt: skip
    return view.digest, made


def _given(
    connection: Connection, home: Home, identity: Identity, document: Agreement, party: str, outputs: frozenset[str]
) -> Iterator[tuple[KeptShares, Envelope]]:
    managers = document.recovery.managers if document.recovery else ()
    for path in sorted(home.recovery.glob("*.json")):
        kept = _read(path)
        shares = _opened(kept)
        if shares.manager not in managers or party not in shares.holders or (outputs and shares.asset not in outputs):
            continue
        share = _share(identity, shares, party)
        sealed = HpkePublicKey(connection.pin.intake).seal(share, given_info(document, party, shares))
        yield kept, signed(GIVEN, given(document, party, shares, sealed), identity.signing)


def _share(identity: Identity, shares: OutputShares, party: str) -> bytes:
    """This party's own share, checked."""
    holder = shares.holders.get(party)
    if holder is None:
        raise refuse(
            SHARE_DAMAGED, "the document holds no share of this party's", expected=party, seen=", ".join(shares.holders)
        )
    share = identity.unseal(holder.sealed, held_info(shares.manager, shares.asset, party, shares.order))
    if not compare_digest(share_digest(share, shares.asset, party, shares.order), holder.digest):
        raise refuse(SHARE_DAMAGED, "the share is not the one of its digest", expected=holder.digest, seen=shares.asset)
    return share


def _read(path: Path) -> KeptShares:
    return KeptShares.decode(path.read_bytes())


def _opened(kept: KeptShares) -> OutputShares:
    return open_shares(kept.shares, [str(kept.shares.unverified("OutputShares").get("manager"))])
