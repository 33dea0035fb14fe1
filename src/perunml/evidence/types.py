"""Types that carry proof: a `Verified` value is authentic, an `Appraisal` says what it is good for.

Neither can be made by a caller: only modules named `verify` or `quote` make a `Verified`, only modules named `appraise`
make an `Appraisal`. The constructor wants this module's token, and a test looks at who uses the two mints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

from perunml.wire.canonical import Json
from perunml.wire.rules import Reason

T = TypeVar("T")

_EVIDENCE_TOKEN = object()


@dataclass(frozen=True, slots=True)
class Verified(Generic[T]):
    """A value whose signature was checked under a key that was known beforehand."""

    value: T
    token: InitVar[object]

    def __post_init__(self, token: object) -> None:
        _check(token)


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What verified evidence is worth. `reasons` empty means: good enough for the policy it was appraised under.

    profile   what was achieved: ``measured``, ``tee``, ``gpu-cc`` or ``simulated``
    imitates  for ``simulated``, the profile whose checks were run (``measured`` for a software TPM, ``tee`` for a bare
              key); else empty
    machine   the name that the machine is enrolled under: ``ek:sha256:…``, ``chip:…``, ``platform:…``, ``simulated:…``
    binding   the binding that was proven, 48 bytes; empty when none was
    claims    for people and receipts, never for decisions
    boot      names this boot: ``tpm:<reset>.<restart>``, ``snp:<report id>``; ``tdx`` or ``sgx``, whose hardware tells none; or empty
    baseline  digest of what it was appraised under (a baseline, a TEE's rules), or empty; `decide` compares it with the
              agreement's
    identities  what was proven of which machine it is: the TPM's EK, the CPU's platform or chip, each GPU
    """

    profile: str
    imitates: str
    machine: str
    binding: bytes
    claims: Mapping[str, Json]
    boot: str
    reasons: tuple[Reason, ...]
    baseline: str
    identities: tuple[str, ...]
    token: InitVar[object]

    def __post_init__(self, token: object) -> None:
        _check(token)


def mint_verified(value: T) -> Verified[T]:
    """For `verify` and `quote` modules alone."""
    return Verified(value, _EVIDENCE_TOKEN)


def mint_appraisal(
    *,
    profile: str,
    imitates: str,
    machine: str,
    binding: bytes,
    claims: Mapping[str, Json],
    boot: str,
    reasons: tuple[Reason, ...],
    baseline: str = "",
    identities: tuple[str, ...] = (),
) -> Appraisal:
    """For `appraise` modules alone."""
    told = MappingProxyType(dict(claims))
    return Appraisal(
        profile, imitates, machine, binding, told, boot, reasons, baseline, identities or (machine,), _EVIDENCE_TOKEN
    )


def _check(token: object) -> None:
    if token is not _EVIDENCE_TOKEN:
        raise TypeError("made by verification and appraisal only")
