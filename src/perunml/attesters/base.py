"""What an attester is: whoever can make this machine's evidence for a binding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from perunml.evidence.bundle import Bundle


class Attester(Protocol):
    """Collects evidence from this machine's devices; evidence is judged elsewhere."""

    @property
    def machine(self) -> str:
        """The machine's id: ``ek:sha256:…`` or ``simulated:sha256:…``; empty for a TEE alone, which a manager names when it
        enrols."""
        ...

    def collect(self, binding: bytes) -> Bundle:
        """Fresh evidence bound to `binding` (48 bytes): the whole IMA log, or its new part since the last accepted one."""
        ...

    def collect_many(self, bindings: Sequence[bytes]) -> Mapping[bytes, Bundle]:
        """The same for several exchanges at once (at most `MAX_BINDINGS`, each once), by binding: one quote where a quote is
        dear."""
        ...

    def accepted(self, bundle: Bundle) -> None:
        """The judge accepted `bundle` and keeps its log: the next one carries only what is new in this boot."""
        ...

    def forget(self) -> None:
        """The judge does not know the part before (`ima_offset`): the next bundle carries the whole log."""
        ...
