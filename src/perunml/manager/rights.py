"""Who may see what: a key sees the agreements that name it, and what belongs to them."""

from __future__ import annotations

from dataclasses import dataclass

from perunml.manager.context import Services
from perunml.manager.http import outside
from perunml.manager.library import Held
from perunml.manager.store.connection import Connection
from perunml.wire.errors import PerunError
from perunml.wire.identity import PublicKey

_MINE = (
    "SELECT k.agreement FROM agreement_keys k JOIN agreements a ON a.digest = k.agreement WHERE k.key = :key "
    "ORDER BY a.rowid"
)
_FOLLOWS = (
    "SELECT k.party FROM agreement_keys k JOIN agreements a ON a.predecessor = k.agreement "
    "WHERE a.digest = :agreement AND a.state = 'proposed' AND k.key = :key"
)
_FOLLOWING = (
    "SELECT a.digest FROM agreement_keys k JOIN agreements a ON a.predecessor = k.agreement WHERE k.key = :key "
    "AND a.state = 'proposed' ORDER BY a.rowid"
)
_SEALER = "SELECT owner FROM assets WHERE digest = :asset AND run = ''"
_PARTY_NOW = (
    "SELECT k.party FROM agreements old JOIN agreements a ON a.line = old.line AND a.state = 'in_force' "
    "JOIN agreement_keys k ON k.agreement = a.digest WHERE old.digest = :agreement AND k.key = :key"
)
_PARTY = "SELECT party FROM agreement_keys WHERE key = :key AND agreement = :agreement"


@dataclass(frozen=True, slots=True)
class Seen:
    """An agreement, and what it calls the caller's party."""

    held: Held
    party: str


def agreement(services: Services, connection: Connection, digest: str, key: str) -> Seen:
    """Raises `AgreementRefusal` (not_entitled): none, or none that names the key."""
    party = connection.run(_PARTY, {"key": key, "agreement": digest}).scalar()
    if party is not None:
        return Seen(services.library.held(connection, digest), str(party))
    # A party's new key sees what the party did under its old one: earlier versions, their runs and outputs.
    party = connection.run(_PARTY_NOW, {"key": key, "agreement": digest}).scalar()
    held = services.library.held(connection, digest) if party is not None else None
    newest = services.library.in_force(connection, held.line) if held is not None else None
    if held is None or newest is None or not services.library.still_there(connection, newest, digest, str(party)):
        raise outside()
    return Seen(held, str(party))


def agreements(services: Services, connection: Connection, key: str) -> list[Seen]:
    """All agreements that name the key, oldest first."""
    return [agreement(services, connection, row[0], key) for row in connection.run(_MINE, {"key": key}).all()]


def votable(services: Services, connection: Connection, digest: str, key: str) -> Seen:
    """As `agreement`; a proposal also for a key that only the version before it names, for that board is asked as well. Raises
    `AgreementRefusal` (not_entitled)."""
    where = {"key": key, "agreement": digest}
    if not connection.run(_PARTY, where).scalar() and (party := connection.run(_FOLLOWS, where).scalar()):
        return Seen(services.library.held(connection, digest), str(party))
    return agreement(services, connection, digest, key)


def votables(services: Services, connection: Connection, key: str) -> list[Seen]:
    """`agreements`, and the proposals that would replace one of them."""
    own = [row[0] for row in connection.run(_MINE, {"key": key}).all()]
    following = [row[0] for row in connection.run(_FOLLOWING, {"key": key}).all()]
    return [votable(services, connection, digest, key) for digest in dict.fromkeys((*own, *following))]


def names_asset(services: Services, connection: Connection, key: str, asset: str) -> bool:
    """Whether an agreement of the key's names the asset, and the key that sealed it gave its word to that agreement: anybody can
    write a digest into an agreement of his own, and must not learn by it whose it is, or whether it is there. A key that was replaced
    is shown no more."""
    sealer = connection.run(_SEALER, {"asset": asset}).scalar()
    return sealer is not None and any(
        any(
            found.digest == asset and gave_word(services, connection, seen.held, str(sealer), found.owner)
            for found in seen.held.agreement.assets.values()
        )
        for seen in agreements(services, connection, key)
        if seen.held.state != "superseded" or _named_now(services, connection, seen.held, key)
    )


def hidden(services: Services, connection: Connection, held: Held, key: str) -> frozenset[str]:
    """Names of the agreement's assets of which a key is told nothing that happens to them: those whose sealer never gave its word to
    this agreement, as in `names_asset`; and all of them, where the key was replaced."""
    if held.state == "superseded" and not _named_now(services, connection, held, key):
        return frozenset(held.agreement.assets)
    return frozenset(
        name
        for name, asset in held.agreement.assets.items()
        if (sealer := connection.run(_SEALER, {"asset": asset.digest}).scalar()) is None
        or not gave_word(services, connection, held, str(sealer), asset.owner)
    )


def _named_now(services: Services, connection: Connection, held: Held, key: str) -> bool:
    newest = services.library.in_force(connection, held.line)
    return newest is not None and newest.agreement.party_of(key) is not None


def gave_word(services: Services, connection: Connection, held: Held, key: str, party: str) -> bool:
    """Whether the key itself proposed this version, or approved it or one before it for `party`."""
    if services.library.agreed(connection, held, key, party):
        return True
    try:
        held.envelope.verify("Agreement", [PublicKey(key)])
    except PerunError:
        return False
    return True
