"""What evidence is judged by: the baseline that the parties agreed on, and what enrolment recorded of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from perunml.evidence.baseline import Baseline
from perunml.evidence.dcap.rules import SgxRules, TdxRules
from perunml.evidence.nvidia.rules import GpuRules
from perunml.evidence.snp.rules import SnpRules

TeeRules = SgxRules | TdxRules | SnpRules
TPM_KEY, PCR, VTPM, MACHINES = "tpm-key", "pcr", "vtpm", "machines"
"""How a profile wants a TPM bound to the TEE beside it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a host must prove. What it leaves out is refused, never "not checked".

    profile          ``measured``, ``tee``, ``gpu-cc``, two of them as ``measured+tee``, or ``simulated``
    imitates         for ``simulated``: whose checks are run; empty means ``measured`` with a baseline, else ``tee``
    baseline         needed for ``measured``, real or imitated
    allow_simulated  the agreement literally says ``simulated``
    tee              what the TEE must show; None: none is looked at
    gpu              what the GPUs must show; None: none is looked at
    binder           how a TPM must be bound to the TEE beside it: ``machines`` (`decide` compares the pairs), ``pcr``,
                     ``tpm-key`` or ``vtpm``; empty where the profile does not ask for both
    pinned           the machines that the profile names, each as its identities; `decide` compares them, here they tell whether
                     GPUs are known to be of this machine
    written          digest of what the profile writes out, as `Appraisal.baseline` shall name it; empty: the baseline's
    """

    profile: str
    imitates: str
    baseline: Baseline | None
    allow_simulated: bool
    tee: TeeRules | None = None
    gpu: GpuRules | None = None
    binder: str = ""
    written: str = ""
    pinned: tuple[frozenset[str], ...] = ()

    @property
    def judged_by(self) -> str:
        """Digest of what evidence is judged by; empty where that is nothing."""
        return self.written or (self.baseline.digest if self.baseline is not None else "")

    @property
    def vouched(self) -> bool:
        """Whether a TEE, which is judged as well, names the attestation key of the TPM beside it."""
        return self.binder == VTPM and self.tee is not None

    @property
    def checks(self) -> str:
        """The profile whose checks are run."""
        if self.profile != "simulated":
            return self.profile
        return self.imitates or ("measured" if self.baseline is not None else "tee")


@dataclass(frozen=True, slots=True)
class Machine:
    """What enrolment recorded.

    id          ``ek:sha256:…``, ``chip:…`` or ``platform:…`` of a TEE's hardware, ``tee:…``, ``simulated:…``; empty: nobody
                enrolled it, and its identity is what the evidence proves
    simulated   its EK leads to a simulated root, or it has none
    ak          TPM2B_PUBLIC of the attestation key that the TPM activated; empty for a bare key
    key         text of a simulated machine's key; empty for a TPM
    last_clock  (resetCount, restartCount, clock in ms) of its newest accepted quote
    ek          TPM2B_PUBLIC of the EK; needed only where the attestation key is the EK's child
    binder      TPM2B_PUBLIC of the key that only this machine's TEE can use in its TPM (`tpm.binder`); or empty
    tpm         what its EK certificate tells of the TPM (`tpm.ek.EkIdentity.claims`): vendor, kind, root, manufacturer, …
    """

    id: str
    simulated: bool
    ak: bytes = b""
    key: str = ""
    last_clock: tuple[int, int, int] | None = None
    ek: bytes = b""
    binder: bytes = b""
    tpm: Mapping[str, str] = field(default_factory=dict)
