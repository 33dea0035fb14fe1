"""What evidence is judged by: the baseline that the parties agreed on, and what enrolment recorded of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from perunml.evidence.baseline import Baseline


@dataclass(frozen=True, slots=True)
class Policy:
    """What a host must prove. What it leaves out is refused, never "not checked".

    profile          ``measured``, ``tee``, ``gpu-cc`` or ``simulated``
    imitates         for ``simulated``: whose checks are run; empty means ``measured`` with a baseline, else ``tee``
    baseline         needed for ``measured``, real or imitated
    allow_simulated  the agreement literally says ``simulated``
    """

    profile: str
    imitates: str
    baseline: Baseline | None
    allow_simulated: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """What enrolment recorded.

    id          ``ek:sha256:…`` or ``simulated:sha256:…``
    simulated   its EK leads to a simulated root, or it has none
    ak          TPM2B_PUBLIC of the attestation key that the TPM activated; empty for a bare key
    key         text of a simulated machine's key; empty for a TPM
    last_clock  (resetCount, restartCount, clock in ms) of its newest accepted quote
    ek          TPM2B_PUBLIC of the EK; needed only where the attestation key is the EK's child
    tpm         what its EK certificate tells of the TPM (`tpm.ek.EkIdentity.claims`): vendor, kind, root, manufacturer, …
    """

    id: str
    simulated: bool
    ak: bytes = b""
    key: str = ""
    last_clock: tuple[int, int, int] | None = None
    ek: bytes = b""
    tpm: Mapping[str, str] = field(default_factory=dict)
