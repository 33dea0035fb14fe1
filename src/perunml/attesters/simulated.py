"""The attester of a machine without any root of trust: an Ed25519 key in a file. It proves nothing, and says so."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from perunml.evidence.bundle import Bundle, SimulatedPart
from perunml.evidence.simulated.verify import LABEL, machine_id
from perunml.wire.identity import SigningKey

ENROL_LABEL = b"perunml/enrol"


class SimulatedAttester:
    """An `Attester` whose machine is whoever can read `state`/machine.key (mode 600)."""

    def __init__(self, state: Path) -> None:
        self._key = SigningKey.from_secret(_key(state))

    @classmethod
    def of(cls, key: SigningKey) -> SimulatedAttester:
        """With a key held elsewhere, as a simulated manager derives its own."""
        made = cls.__new__(cls)
        made._key = key
        return made

    @property
    def machine(self) -> str:
        return machine_id(self._key.public.text)

    def enrolment(self) -> dict[str, str]:
        return {"key": self._key.public.text}

    def answer(self, challenge: bytes) -> bytes:
        """The signature over an enrolment's challenge."""
        return self._key.sign(ENROL_LABEL + challenge)

    def collect(self, binding: bytes) -> Bundle:
        """A statement bound to `binding`."""
        return Bundle((SimulatedPart(self._key.public.text, binding, self._key.sign(LABEL + binding)),))

    def collect_many(self, bindings: Sequence[bytes]) -> Mapping[bytes, Bundle]:
        """A statement for each."""
        return {binding: self.collect(binding) for binding in bindings}

    def accepted(self, bundle: Bundle) -> None:
        """There is no log to shorten."""

    def forget(self) -> None:
        """Nor to send again."""


def _key(state: Path) -> bytes:
    path = state / "machine.key"
    if not path.exists():
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = state / f"machine.key.{os.getpid()}"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(SigningKey.generate().secret())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(new, path)  # never over a key that another process made meanwhile
        except FileExistsError:
            pass
        finally:
            new.unlink()
    return path.read_bytes()
