"""`Client`: agreements, from a draft to a suspension."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from perunml.client.party import Party, PathLike

if TYPE_CHECKING:
    from perunml.agreements.review import Section
    from perunml.agreements.schema import Agreement
    from perunml.agreements.versions import Difference
    from perunml.api.agreements import AgreementView, SuspensionView


class Agreements(Party):
    """Check, review, propose, approve, suspend."""

    @staticmethod
    def check(agreement: Agreement | bytes | PathLike) -> Agreement:
        """An agreement from YAML or JSON (a path, or bytes), its form checked. Asks nobody. Raises `UsageError` (malformed,
        agreement_inconsistent) with every place that is wrong."""
        from perunml.client.agreements import read_agreement

        if isinstance(agreement, (str, Path)):
            agreement = Path(agreement).read_bytes()
        return read_agreement(agreement) if isinstance(agreement, bytes) else agreement

    @staticmethod
    def agreement_schema() -> dict[str, Any]:
        """The JSON Schema of agreements."""
        from perunml.agreements.document import json_schema

        return json_schema()

    def review(self, agreement: Agreement | bytes | PathLike, party: str = "") -> list[Section]:
        """In sentences, what an agreement means for a party (default: this one), what changes against the version before where this
        home keeps that, what its mode does not protect, and what approving would sign. Asks nobody; what the manager holds is
        `client.agreement(name)[1]`."""
        from perunml.agreements.review import review
        from perunml.client.agreements import predecessor_at_home

        document = self.check(agreement)
        before = predecessor_at_home(self.home, document)
        return review(document, party or self.party_in(document), predecessor=before)

    def diff(self, new: str, old: str = "") -> Difference:
        """What changes from one version of an agreement (a file, digest or name; the one before it unless told) to another, and who must
        approve that. What is a file, or kept in this home, is asked of nobody. Raises `UsageError` (not_found)."""
        from perunml.agreements.versions import difference
        from perunml.client.codes import NOT_FOUND
        from perunml.wire.errors import refuse

        after = self._document(new)
        if not old and after.metadata.predecessor is None:
            raise refuse(NOT_FOUND, f"{after.name} has no version before its first", seen=after.digest)
        before = self._document(old) if old else self.before(after)
        assert before is not None
        return difference(before, after)

    def before(self, agreement: Agreement) -> Agreement | None:
        """The version before this one, from this home or the manager; of a first version none."""
        from perunml.client.agreements import predecessor_at_home

        if agreement.metadata.predecessor is None:
            return None
        return predecessor_at_home(self.home, agreement) or self.agreement(agreement.metadata.predecessor)[1]

    def _document(self, wanted: str) -> Agreement:
        return self.check(wanted) if Path(wanted).is_file() else self.agreement(wanted)[1]

    def about_baselines(self, agreement: Agreement) -> Section | None:
        """In sentences, the baselines that an agreement names, as the manager holds them, and who signed each."""
        from perunml.client import documents

        return documents.about_baselines(self.connection, agreement)

    def propose(self, agreement: Agreement | bytes | PathLike) -> AgreementView:
        """Sign an agreement as its proposer and send it; approves nothing yet."""
        from perunml.client import agreements

        return agreements.propose(self.connection, self.home, self.identity, self.check(agreement))

    def agreements(self) -> list[AgreementView]:
        """The agreements that the manager shows this party."""
        from perunml.client import agreements

        return agreements.listed(self.connection)

    def agreement(self, wanted: str) -> tuple[AgreementView, Agreement]:
        """An agreement by digest or name: the manager's view, and the document itself."""
        from perunml.client import agreements

        return agreements.show(self.connection, wanted)

    def approve(self, digest: str) -> AgreementView:
        """Approve exactly the document of this digest, for this party."""
        from perunml.client import agreements

        view, document = agreements.show(self.connection, digest)
        return agreements.approve(self.connection, self.home, self.identity, document, view)

    def party_in(self, agreement: Agreement) -> str:
        """What an agreement calls this party. Raises `AgreementRefusal` (no_key_of_a_party)."""
        from perunml.client import agreements

        return agreements.party_of(agreement, self.identity)

    def voter_in(self, agreement: Agreement) -> str:
        """As `party_in`; of a version that names this key no more, what the one before it, on which the key still votes, calls it."""
        from perunml.client import agreements

        return agreements.party_in_line(self.connection, agreement, self.identity)

    def suspend(self, asset: str, *, agreement: str = "", lift: bool = False) -> SuspensionView:
        """Stop every use of an own asset (a digest, or its name in an agreement) and of what was derived from it, at once;
        or, with `lift`, allow it again: that takes the owner's board, where suspending takes one key."""
        from perunml.client import agreements

        return agreements.suspend(self.connection, self.identity, asset, agreement=agreement, lift=lift)
