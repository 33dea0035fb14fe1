"""Agreements from a party's side: propose, read what the manager holds, approve, suspend.

What is approved is what was read: the digest is computed here from the very bytes that are shown, and the approval names that
digest. The manager's word about a document counts for nothing.
"""

from __future__ import annotations

from urllib.parse import quote

from perunml.agreements.changes import suspension
from perunml.agreements.document import agreement_envelope, load_agreement, open_agreement
from perunml.agreements.schema import Agreement
from perunml.api.agreements import (
    AgreementList,
    AgreementView,
    ApproveAgreement,
    ProposeAgreement,
    SuspendAsset,
    SuspensionView,
)
from perunml.client import signing
from perunml.client.codes import AMBIGUOUS, NO_KEY_OF_A_PARTY, NOT_FOUND, WRONG_DOCUMENT, WRONG_MANAGER
from perunml.client.connection import Connection
from perunml.client.home import Home, write_file
from perunml.client.identity import Identity
from perunml.release.policy import check_rules
from perunml.wire.digests import parse_digest
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import PerunError, refuse


def read_agreement(data: bytes) -> Agreement:
    """An agreement from a file: YAML or JSON as people write it, or the envelope that the home folder keeps; its rules for TEEs
    and GPUs are read too. Raises `UsageError` (malformed, agreement_inconsistent, …)."""
    found = _read(data)
    check_rules(found)
    return found


def _read(data: bytes) -> Agreement:
    if data.lstrip()[:1] == b"{":
        try:
            envelope = Envelope.decode(data)
        except PerunError:
            return load_agreement(data)
        return open_agreement(envelope)
    return load_agreement(data)


def party_of(agreement: Agreement, identity: Identity) -> str:
    """What the agreement calls this identity's party. Raises `AgreementRefusal` (no_key_of_a_party)."""
    key = identity.signing.public.text
    party = agreement.party_of(key)
    if party is None:
        raise refuse(
            NO_KEY_OF_A_PARTY,
            "this key is no party's key in the agreement",
            expected=", ".join(agreement.parties),
            seen=key,
            command="perunml id show",
        )
    return party


def propose(connection: Connection, home: Home, identity: Identity, agreement: Agreement) -> AgreementView:
    """Sign the document as its proposer and send it. That approves nothing yet."""
    _check_manager(connection, agreement)
    party_of(agreement, identity)
    envelope = agreement_envelope(agreement)
    envelope = envelope.with_signature(identity.signing.public, identity.signing.sign(envelope.signing_bytes()))
    view = connection.call("POST", "/v1/agreements", AgreementView, ProposeAgreement(agreement=envelope))
    write_file(home.agreement_path(agreement.digest), envelope.encode())
    return view


def listed(connection: Connection) -> list[AgreementView]:
    """The agreements that the manager shows this party."""
    return connection.call("GET", "/v1/agreements", AgreementList).agreements


def resolve(connection: Connection, wanted: str) -> str:
    """The digest of an agreement given by digest or by name; by name the one in force, else the newest version. Raises
    `UsageError` (not_found)."""
    if wanted.startswith("sha256:"):
        parse_digest(wanted)
        return wanted
    named = [view for view in listed(connection) if view.name == wanted]
    if not named:
        raise refuse(NOT_FOUND, "no agreement of this name", seen=wanted, command="perunml agreement list")
    return max(named, key=lambda view: (view.state == "in_force", view.version)).digest


def show(connection: Connection, wanted: str) -> tuple[AgreementView, Agreement]:
    """What the manager holds, and the document itself, read from the bytes whose digest was asked for."""
    digest = resolve(connection, wanted)
    view = connection.call("GET", f"/v1/agreements/{quote(digest)}", AgreementView)
    if view.agreement.digest != digest:
        raise refuse(WRONG_DOCUMENT, "another document came", expected=digest, seen=view.agreement.digest)
    agreement = open_agreement(view.agreement)
    _check_manager(connection, agreement)
    return view, agreement


def approve(
    connection: Connection,
    home: Home,
    identity: Identity,
    agreement: Agreement,
    view: AgreementView,
    *,
    expires: int | None = None,
) -> AgreementView:
    """Sign for this party that exactly this document may be in force until `expires` (seconds since 1970; default: as
    long as any of its jobs may run). A key that the document no longer names signs as the version before calls it."""
    _check_manager(connection, agreement)
    party = party_in_line(connection, agreement, identity)
    made = signing.signed_by(signing.approval_of(agreement, party, view, expires=expires), identity)
    made = signing.signed_by_others(
        made, identity, agreement.parties[party].keys.values() if party in agreement.parties else ()
    )
    message = ApproveAgreement(approval=made)
    view = connection.call("POST", f"/v1/agreements/{quote(agreement.digest)}/approvals", AgreementView, message)
    write_file(home.agreement_path(agreement.digest), view.agreement.encode())
    return view


def party_in_line(connection: Connection, agreement: Agreement, identity: Identity) -> str:
    """What the agreement calls this identity's party, or, where it names the key no more, what the version before does: a key that
    is replaced votes on that. Raises `AgreementRefusal` (no_key_of_a_party)."""
    before = agreement.metadata.predecessor
    if agreement.party_of(identity.signing.public.text) is None and before:
        return party_of(show(connection, before)[1], identity)
    return party_of(agreement, identity)


def predecessor_at_home(home: Home, agreement: Agreement) -> Agreement | None:
    """The version before, where this party approved it and so keeps it. Raises `IntegrityError` (wrong_document): the file is
    another one."""
    before = agreement.metadata.predecessor
    if before is None or not (path := home.agreement_path(before)).is_file():
        return None
    found = read_agreement(path.read_bytes())
    if found.digest != before:
        raise refuse(WRONG_DOCUMENT, f"{path} holds another agreement", expected=before, seen=found.digest)
    return found


def suspension_state(connection: Connection, asset: str) -> SuspensionView:
    """Whether an asset (by digest) is suspended, and its newest change."""
    return connection.call("GET", f"/v1/suspensions?subject={quote(asset)}", SuspensionView)


def owned_asset(connection: Connection, identity: Identity, wanted: str, agreement: str = "") -> tuple[Agreement, str]:
    """The agreement and the name in it of this party's own asset, given by digest or by that name. Raises `UsageError`
    (not_found, ambiguous)."""
    found: dict[str, tuple[Agreement, str]] = {}
    views = [show(connection, agreement)[0]] if agreement else listed(connection)
    for view in sorted(views, key=lambda view: (view.state == "in_force", view.version)):
        document = open_agreement(view.agreement)
        own = document.party_of(identity.signing.public.text)
        for name, asset in document.assets.items():
            if asset.owner == own and wanted in (name, asset.digest):
                found[asset.digest] = (document, name)
    if len(found) == 1:
        return next(iter(found.values()))
    seen = ", ".join(found) or wanted
    if found:
        raise refuse(AMBIGUOUS, "several assets have this name", expected="a digest", seen=seen)
    raise refuse(
        NOT_FOUND, "no agreement names such an asset of this party", seen=seen, command="perunml agreement list"
    )


def suspend(
    connection: Connection, identity: Identity, asset: str, *, agreement: str = "", lift: bool = False
) -> SuspensionView:
    """Stop every use of an own asset and of all that was derived from it, at once; or lift that again."""
    message = SuspendAsset(change=suspension_of(connection, identity, asset, agreement=agreement, lift=lift))
    return connection.call("POST", "/v1/suspensions", SuspensionView, message)


def suspension_of(
    connection: Connection, identity: Identity, asset: str, *, agreement: str = "", lift: bool = False
) -> Envelope:
    """The change, signed by this identity; a board of several keys signs a lift together."""
    document, name = owned_asset(connection, identity, asset, agreement)
    state = suspension_state(connection, document.assets[name].digest)
    return signed(
        "Suspension", suspension(document, name, "lift" if lift else "suspend", state.digest), identity.signing
    )


def _check_manager(connection: Connection, agreement: Agreement) -> None:
    if agreement.manager.key != connection.pin.identity:
        raise refuse(
            WRONG_MANAGER,
            "the agreement names another manager than the pinned one",
            expected=agreement.manager.key,
            seen=connection.pin.identity,
        )
