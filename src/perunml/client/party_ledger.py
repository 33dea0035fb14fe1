"""`Client`: the manager's ledger, witnessed and audited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perunml.client.party import Party

if TYPE_CHECKING:
    from perunml.client.audit import Audit
    from perunml.client.witness import Witnessed


class Ledger(Party):
    """Witness, verify."""

    def witness(self, *, wait: int = 0) -> Witnessed:
        """Look at the manager's ledger, and cosign it where an agreement names this party as a witness; `wait` for news for up
        to so many seconds. Whoever uses a `Client` does so now and then by itself; `client.witness.witness_until` does nothing
        else. Raises `IntegrityError` (ledger_rollback, split_view, …): it is not what this party saw before."""
        from perunml.client import witness

        return witness.witness(self.connection, self.home, self.identity.signing, wait=wait)

    def verify_ledger(self) -> Audit:
        """The manager's ledger only grew since this party last saw it, and holds its agreements' entries."""
        from perunml.client import agreements, audit

        self._look_later()  # the audit looks itself, and says since when
        known = [view.digest for view in agreements.listed(self.connection)]
        return audit.verify_ledger(self.connection, self.home, known)

    def verify_receipt(self, data: bytes) -> dict[str, Any]:
        """A receipt's body, every signature checked against the pinned manager; offline."""
        from perunml.client import audit

        return audit.verify_receipt_file(data, self.pin)
