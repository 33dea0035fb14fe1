"""`Client`: decisions that several keys sign, or that are signed elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perunml.client.party import PathLike
from perunml.client.party_agreements import Agreements

if TYPE_CHECKING:
    from perunml.agreements.schema import Agreement
    from perunml.api.agreements import AgreementView
    from perunml.api.base import Message
    from perunml.wire.dsse import Envelope


class Signing(Agreements):
    """Withdraw, prepare, attach, rotate."""

    def withdraw(self, agreement: str) -> AgreementView:
        """Take back this key's approval of an agreement that is not in force yet. Raises `AgreementRefusal` (already_in_force),
        `UsageError` (nothing_to_withdraw)."""
        from perunml.api.agreements import AgreementView
        from perunml.client import signing

        made = signing.signed_by(self.approval_message(agreement, withdraw=True), self.identity)
        answer = signing.send(self.connection, made)
        assert isinstance(answer, AgreementView)
        return answer

    def approval_message(
        self, agreement: str, *, party: str = "", withdraw: bool = False, key: str = "", expires: int | None = None
    ) -> Envelope:
        """An approval (or the withdrawal of what `key` signed) of an agreement, by digest or name, that nobody has signed yet; `party`
        and `key` are this identity's unless told. `perunml.client.signing.write_message` writes it for whoever signs."""
        from perunml.client import agreements, signing

        view, document = agreements.show(self.connection, agreement)
        who = party or agreements.party_in_line(self.connection, document, self.identity)
        if withdraw:
            return signing.withdrawal_of(document, who, view, key or self.identity.signing.public.text)
        return signing.approval_of(document, who, view, expires=expires)

    def lift_message(self, asset: str, *, agreement: str = "") -> Envelope:
        """The word that a suspended own asset may be used again, with this key's signature; the rest of the board adds theirs with
        `attach`, and any of them sends it."""
        from perunml.client import agreements

        return agreements.suspension_of(self.connection, self.identity, asset, agreement=agreement, lift=True)

    def drop_message(self, asset: str, name: str, *, agreement: str = "") -> Envelope:
        """The word that a condition on an own asset ends, with this key's signature, as `lift_message`."""
        from perunml.client import conditions

        return conditions.change_of(self.connection, self.identity, asset, name, None, agreement=agreement)

    def attach(self, message: Envelope | PathLike, key: str = "", signature: bytes = b"") -> Envelope:
        """The decision (an envelope, or its file) with a signature by `key` that was made elsewhere, or with this identity's own.
        `send` sends it. Raises `UsageError` (malformed, signature_form), `IntegrityError` (bad_signature)."""
        from perunml.client import signing

        envelope = signing.read_message(Path(message)) if isinstance(message, (str, Path)) else message
        if key:
            return signing.attach_signature(envelope, key, signature)
        return signing.signed_by(envelope, self.identity)

    def send(self, message: Envelope) -> Message:
        """Hand a signed decision to the manager; whoever of the agreement's parties carries it, its signatures count."""
        from perunml.client import signing

        return signing.send(self.connection, message)

    def rotate_key(self, agreement: str, member: str, key: str = "", *, party: str = "") -> tuple[Agreement, Envelope]:
        """The next version of an agreement, in which a member of a party (this one unless told) has another key, and its proposal. Without
        `key` it is the one that this home made to replace its own (`rotate_identity`), its receiving key with it where the agreement names
        the present one. Who is still a member has signed it; else the new key must (`attach`) before it is sent. Sends nothing. Raises
        `UsageError` (no_next_key, not_found)."""
        from perunml.agreements.document import agreement_envelope
        from perunml.client import agreements, rotation, signing

        _, document = agreements.show(self.connection, agreement)
        who, receive = party or self.party_in(document), ""
        if not key:
            coming = rotation.coming(self.identity)
            key, named = coming.signing.public.text, document.parties[who].receive
            receive = coming.receiving.public.text if named == self.identity.receiving.public.text else ""
        made = rotation.rotated(document, who, member, key, receive)
        envelope = agreement_envelope(made)
        if made.party_of(self.identity.signing.public.text) is not None:
            envelope = signing.signed_by(envelope, self.identity)
        return made, signing.signed_by_others(envelope, self.identity, made.parties[who].keys.values())
