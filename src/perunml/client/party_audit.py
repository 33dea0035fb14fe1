"""`Client`: audits that anybody can repeat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perunml.client.party import Party, PathLike

if TYPE_CHECKING:
    from perunml.client.audit_export import Progress
    from perunml.client.audit_verify import AuditReport
    from perunml.ledger.checkpoint import Checkpoint


class Audits(Party):
    """Export, verify."""

    def export_audit(self, out: PathLike, *, progress: Progress = lambda *_: None) -> Checkpoint:
        """Write the ledger, and all that this party may read of it, to the new file `out`, a zip. Raises `IntegrityError`."""
        from perunml.client import agreements
        from perunml.client.audit_export import export

        self._look_later()  # the export looks itself
        names = [view.digest for view in agreements.listed(self.connection)]
        return export(self.connection, self.home, names, Path(out), progress)

    def verify_audit(self, file: PathLike) -> AuditReport:
        """Verify an export (`perunml.client.audit_verify.verify_export` does with a key alone) against the pinned manager, the ledger as this
        party saw it last, and the receipts in this home. Asks nobody. Raises `IntegrityError` for the first inconsistency."""
        from perunml.client.audit_verify import verify_at_home

        return verify_at_home(Path(file), self.home, self.pin)
