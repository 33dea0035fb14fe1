"""The attester of a machine inside a TEE (TDX, SEV-SNP, SGX), over whatever interface its kernel has to it.

A report binds one exchange and is made anew for each: a TEE signs some hundred times a second, so nothing is shared or kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

from perunml.attesters.codes import ODD_ANSWER
from perunml.evidence.binding import tee_report_data
from perunml.evidence.bundle import Bundle
from perunml.evidence.parts import HclPart, SnpPart, TdxPart, TeePart
from perunml.wire.errors import refuse

TeeKind = Literal["tdx", "snp", "sgx"]


class TeeSource(Protocol):
    """One interface of one TEE."""

    @property
    def kind(self) -> TeeKind:
        """Which TEE it is, as an agreement names it."""
        ...

    def report(self, report_data: bytes) -> TeePart:
        """A fresh report over these 64 bytes. Raises `Unreachable` (tee_unavailable, tee_refused, tee_busy) or
        `EvidenceRefusal` (odd_answer, event_log_unreadable)."""
        ...


class TeeAttester:
    """A TEE as an `Attester`. It has no name before it is enrolled: a manager takes one from its first report, and the agent
    then has it from its certificate.

    key  text of a key that lives in this TEE alone and that a TPM's PCR shows too (docs/spec/tee.md, "Binders"); or empty
    """

    def __init__(self, source: TeeSource, key: str = "") -> None:
        if key and source.kind == "sgx":
            raise ValueError("an enclave has no TPM whose PCR could show its key")
        self._source, self._key = source, key

    @property
    def kind(self) -> TeeKind:
        return self._source.kind

    @property
    def machine(self) -> str:
        return ""

    def enrolment(self) -> dict[str, bool]:
        """Nothing but that it is one: its first report is the claim."""
        return {"tee": True}

    def collect(self, binding: bytes) -> Bundle:
        """A fresh report bound to `binding`. Raises as its source does."""
        wanted = tee_report_data(binding, self._key)
        part = self._source.report(wanted)
        if wanted not in _signed(part):
            raise refuse(ODD_ANSWER, "the TEE's report is not over the data that were asked for", seen=self.kind)
        return Bundle((replace(part, key=self._key) if isinstance(part, TdxPart | SnpPart) else part,))

    def collect_many(self, bindings: Sequence[bytes]) -> Mapping[bytes, Bundle]:
        """A report for each: it binds one exchange only."""
        return {binding: self.collect(binding) for binding in bindings}

    def accepted(self, bundle: Bundle) -> None:
        """There is no log that grows."""

    def forget(self) -> None:
        """Nothing is remembered."""


def _signed(part: TeePart) -> bytes:
    return part.report if isinstance(part, SnpPart | HclPart) else part.quote
