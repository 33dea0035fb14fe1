"""`Client`: shares of outputs' keys, so that what was trained outlives its manager."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from perunml.client.party import Party

if TYPE_CHECKING:
    from perunml.api.recovery import RecoveryView
    from perunml.client.recovery import KeptShare
    from perunml.wire.dsse import Envelope


class Recovery(Party):
    """Keep shares, give them to another manager, look how far it is."""

    def keep_shares(self, agreement: str = "") -> list[KeptShare]:
        """Fetch this party's share of every output of an agreement (of all, when empty) and keep it, sealed, in the home folder."""
        from perunml.client import recovery

        return recovery.keep(self.connection, self.home, self.identity, agreement)

    def give_shares(self, agreement: str, *, outputs: Iterable[str] = ()) -> list[RecoveryView]:
        """Give the pinned manager this party's shares of outputs (digests; all that are kept) of the lost managers that an agreement in
        force there names."""
        from perunml.client import recovery

        return recovery.give(self.connection, self.home, self.identity, agreement, outputs=outputs)

    def share_message(self, agreement: str, output: str) -> Envelope:
        """This party's share of one output (digest), signed by this key; the rest of the board adds theirs with `attach`, and any of them
        sends it."""
        from perunml.client import recovery

        return recovery.message(self.connection, self.home, self.identity, agreement, output)

    def recoveries(self, agreement: str) -> list[RecoveryView]:
        """How far outputs of lost managers are recovered under an agreement."""
        from perunml.client import recovery

        return recovery.listed(self.connection, agreement)
