"""A party's keys are replaced: new ones are made, each agreement gets a version that names them, and then they are used.

A version that changes nothing but a party's keys is approved by its old board and its new one; nobody else is asked, and nothing is sealed anew:
what a former key sealed stays the party's.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from perunml.agreements.document import agreement_from_json, open_agreement
from perunml.agreements.schema import Agreement
from perunml.client import agreements, assets, recovery
from perunml.client.codes import NO_NEXT_KEY, NOT_FOUND, STILL_NAMED
from perunml.client.identity import Former, Identity, Pair
from perunml.sealing.keys import WrappedKeys, wipe, wrap_key
from perunml.sealing.store import FolderStore
from perunml.wire.codes import REQUEST_UNSIGNED
from perunml.wire.errors import PerunError, refuse
from perunml.wire.hpke import HpkePublicKey
from perunml.wire.identity import PublicKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perunml.client.connection import Connection
    from perunml.client.home import Home


def begin(home: Home, passphrase: bytes) -> Identity:
    """Make the keys that shall replace those in use, once: they are kept beside them, and used for nothing before `switch` but to approve versions that
    name them. Raises `UsageError` (no_identity), `IntegrityError` (unseal_failed)."""
    identity = Identity.open(home, passphrase)
    if identity.next is None:
        identity = replace(identity, next=Pair.generate(identity.signing.public.algorithm))
        identity.save(home, passphrase)
    return identity


def coming(identity: Identity) -> Pair:
    """The keys that shall replace those in use. Raises `UsageError` (no_next_key)."""
    if identity.next is None:
        raise refuse(
            NO_NEXT_KEY,
            "this home has made no other keys yet",
            seen=identity.signing.public.text,
            command="perunml id rotate",
        )
    return identity.next


def switch(home: Home, passphrase: bytes, connections: Iterable[Connection]) -> Identity:
    """Use the next keys from now on. Every data key in the home is wrapped to the next receiving key first, so that nothing is lost at whatever instant this
    is interrupted; doing it again goes on. Raises `UsageError` (no_next_key), `ApprovalPending` (key_still_named): an agreement in force at one of the
    managers asked names the key in use, and not the next one."""
    identity = Identity.open(home, passphrase)
    pair = coming(identity)
    for connection in connections:
        _check_named(connection, identity.signing.public.text, pair.signing.public.text)
    for name, version, _ in assets.local_assets(home):
        _rewrap(home, identity, name, version, add=pair)
    former = Former(
        identity.signing.public.text, identity.receiving.public.text, Pair(identity.signing, identity.receiving)
    )
    made = Identity(identity.name, pair.signing, pair.receiving, None, (former, *identity.former))
    made.save(home, passphrase)
    return made


def forget(home: Home, passphrase: bytes, key: str, connections: Iterable[Connection] = ()) -> Identity:
    """Drop the private halves of a former key (its text), and every wrap to its receiving key. What it signed can still be verified; what it sealed under
    an agreement stays the party's there, and cannot be brought to another manager any more. Raises `UsageError` (not_found),
    `ApprovalPending` (key_still_named): a share of an output's key is sealed to it, or an agreement in force at one of the managers asked names it and
    not the present one, or has outputs sealed to it."""
    identity = Identity.open(home, passphrase)
    found = next((former for former in identity.former if former.signing == key), None)
    if found is None:
        known = ", ".join(former.signing for former in identity.former) or "no former key"
        raise refuse(NOT_FOUND, "not a former key of this home", expected=known, seen=key)
    if found.pair is None:
        return identity
    for connection in connections:
        with connection.signed_by(found.pair.signing) as before:
            for one in (connection, before):  # each key is shown what names it
                _check_unneeded(one, identity, found)
    for name, version, _ in assets.local_assets(home):
        _rewrap(home, identity, name, version, drop=found.pair)
    needed = [str(path) for path in recovery.sealed_to(home, found.pair.receiving)]
    if needed:
        raise refuse(
            STILL_NAMED, "shares of outputs' keys are sealed to it", expected="shares sealed to the present key",
            seen=", ".join(needed), command="perunml recovery keep",
        )  # fmt: skip
    left = tuple(replace(former, pair=None) if former is found else former for former in identity.former)
    made = replace(identity, former=left)
    made.save(home, passphrase)
    return made


def _check_named(connection: Connection, present: str, next_: str) -> None:
    for view in agreements.listed(connection):
        document = open_agreement(view.agreement)
        party = document.party_of(present)
        if view.state == "in_force" and party is not None and next_ not in document.parties[party].keys.values():
            raise refuse(
                STILL_NAMED, f"{view.name} is in force and names the present key alone", expected=next_, seen=present,
                command=f"perunml agreement rotate-key {view.name} --member MEMBER",
            )  # fmt: skip


def _check_unneeded(connection: Connection, identity: Identity, former: Former) -> None:
    try:
        views = agreements.listed(connection)
    except PerunError as exc:
        if exc.code != REQUEST_UNSIGNED.code:  # a wrong clock has a code of its own
            raise
        return  # nobody knows that key there
    present = identity.signing.public.text
    for view in views:
        for party in open_agreement(view.agreement).parties.values() if view.state == "in_force" else ():
            keys = party.keys.values()
            if (former.signing in keys and present not in keys) or party.receive == former.receiving:
                raise refuse(
                    STILL_NAMED, f"{view.name} is in force and names keys that would be forgotten", expected=present,
                    seen=former.receiving if party.receive == former.receiving else former.signing,
                    command=f"perunml agreement rotate-key {view.name} --member MEMBER --new-key {present}",
                )  # fmt: skip


def _rewrap(
    home: Home, identity: Identity, name: str, version: int, *, add: Pair | None = None, drop: Pair | None = None
) -> None:
    """An asset's data key, wrapped to `add` too, and to `drop` no more (then to the key in use)."""
    sealed, _ = assets.load_sealed(home, identity, name, version)
    with FolderStore(sealed.folder) as store:
        keys = store.keys()
        recipient = add.receiving.public if add else identity.receiving.public
        if all(wrap.recipient != recipient.id for wrap in keys.wraps):
            data_key = identity.data_key(keys, sealed.manifest)
            try:
                keys = keys.with_wrap(wrap_key(data_key, sealed.manifest, recipient))
            finally:
                wipe(data_key)
        if drop is not None:
            keys = WrappedKeys(
                keys.asset, tuple(wrap for wrap in keys.wraps if wrap.recipient != drop.receiving.public.id)
            )
        store.save_keys(keys)


def rotated(agreement: Agreement, party: str, member: str, key: str, receive: str = "") -> Agreement:
    """The next version of `agreement`, in which `member` of `party` has another key, and the party another receiving key if one is given. Raises `UsageError` (not_found, malformed,
    agreement_inconsistent)."""
    found = agreement.parties.get(party)
    if found is None or member not in found.keys:
        known = ", ".join(found.keys) if found else ", ".join(agreement.parties)
        raise refuse(NOT_FOUND, "no such member", expected=known, seen=f"{party} {member}")
    document: dict[str, Any] = json.loads(agreement.payload)
    document["metadata"] = {
        **document["metadata"],
        "version": agreement.metadata.version + 1,
        "predecessor": agreement.digest,
    }
    document["parties"][party]["keys"][member] = PublicKey(key).text
    if receive:
        document["parties"][party]["receive"] = HpkePublicKey(receive).text
    return agreement_from_json(document)
