"""Several roots of trust of one machine, as one `Attester`: a TPM, a TEE, GPUs, all bound to the same exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from perunml.attesters.base import Attester
from perunml.evidence.bundle import Bundle
from perunml.wire.errors import PerunError, error
from perunml.wire.rules import Reason


class EnrolsByTpm(Attester, Protocol):
    """A `TpmAttester`, or one that a binder ties to the TEE."""

    def enrolment(self) -> dict[str, bytes | list[bytes]]: ...
    def activate(self, credential: bytes, encrypted_secret: bytes) -> bytes: ...


class Composite:
    """The parts of each member, in their order: TPM, TEE, GPUs."""

    def __init__(self, members: Sequence[Attester]) -> None:
        if not members:
            raise ValueError("a machine is made of something")
        self._members = tuple(members)

    @property
    def machine(self) -> str:
        """The TPM's name where there is one; else empty, and a manager names the machine by its TEE."""
        return next((member.machine for member in self._members if member.machine), "")

    def enrolment(self) -> dict[str, Any]:
        """What the first of them that enrols says: the TPM, or the TEE."""
        asked = (getattr(member, "enrolment", None) for member in self._members)
        return dict(next(enrolment for enrolment in asked if enrolment is not None)())

    def collect(self, binding: bytes) -> Bundle:
        """The parts of all, each bound to `binding`. Raises the reasons of all that cannot."""
        return self.collect_many([binding])[binding]

    def collect_many(self, bindings: Sequence[bytes]) -> Mapping[bytes, Bundle]:
        """One quote of a TPM for all bindings; of a TEE and of GPUs one for each."""
        found: list[Mapping[bytes, Bundle]] = []
        reasons: list[Reason] = []
        for member in self._members:
            try:
                found.append(member.collect_many(bindings))
            except PerunError as refusal:
                reasons += refusal.reasons
        if reasons:
            raise error(reasons)
        return {own: Bundle(tuple(part for made in found for part in made[own].parts)) for own in bindings}

    def accepted(self, bundle: Bundle) -> None:
        for member in self._members:
            member.accepted(bundle)

    def forget(self) -> None:
        for member in self._members:
            member.forget()


class TpmComposite(Composite):
    """One that enrols by its TPM."""

    def __init__(self, tpm: EnrolsByTpm, others: Sequence[Attester]) -> None:
        super().__init__([tpm, *others])
        self._tpm = tpm

    def activate(self, credential: bytes, encrypted_secret: bytes) -> bytes:
        """As `TpmAttester` does."""
        return self._tpm.activate(credential, encrypted_secret)
