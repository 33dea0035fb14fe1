"""Compares what a device measured with NVIDIA's reference manifests, index by index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from perunml.evidence.endorsements import Endorsements
from perunml.evidence.nvidia.codes import EXTRA_MISSING, RIM_MISSING
from perunml.evidence.nvidia.ocsp import Answer
from perunml.evidence.nvidia.rim import Rim, read_rim
from perunml.evidence.nvidia.roots import RIM_ROOTS
from perunml.evidence.nvidia.verify import GpuReport, revocation, revoked_reasons, signer_reasons
from perunml.evidence.tee.codes import CERTIFICATE_CHAIN, COLLATERAL_INVALID, MEASUREMENT_MISMATCH
from perunml.evidence.x509 import trusted_by
from perunml.wire.errors import PerunError
from perunml.wire.rules import Reason

DRIVER, VBIOS = "driver", "vbios"
SETS = 4
"""Sets of manifests that are kept read, whole: of one that is larger than `rim.CACHED` each device would read each manifest anew."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A manifest that names this device's version: `rim`, why it may not be used now, and what OCSP says of its signers."""

    rim: Rim
    reasons: tuple[Reason, ...]
    revocation: tuple[Answer | None, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """The outcome for one device.

    reasons     without those for missing manifests and missing OCSP answers, which a profile may excuse
    missing     manifests that are not there: ``driver:<version>``, ``vbios:<version>``
    unreadable  why manifests among the collateral could not be read, where some are missing
    revocation  OCSP's answers about the signers of the manifests that were used
    compared    how many measurements have been found good
    """

    reasons: tuple[Reason, ...]
    missing: tuple[str, ...]
    unreadable: tuple[Reason, ...]
    revocation: tuple[Answer | None, ...]
    compared: int


def needed(report: GpuReport) -> tuple[tuple[str, str], ...]:
    """The manifests that judge a device, as (kind, version): a switch has no driver of its own."""
    return ((VBIOS, report.vbios),) if report.device == "switch" else ((DRIVER, report.driver), (VBIOS, report.vbios))


def compare(report: GpuReport, endorsements: Endorsements, now: int) -> Compared:
    """Every measurement that an active entry of a manifest of the device's versions names, against its alternatives.

    Where several manifests name a version, one of them has to fit: several boards share a firmware's version.
    """
    rims, unreadable = _read(endorsements.collateral.rims)
    reasons: list[Reason] = []
    answers: list[Answer | None] = []
    missing: list[str] = []
    golden: dict[int, frozenset[bytes]] = {}
    for kind, version in needed(report):
        references = [_reference(rim, kind, report, endorsements, now) for rim in rims if _is_for(rim, version, report)]
        if not references:
            missing.append(f"{kind}:{version}")
            continue
        best = min(references, key=lambda one: (len(one.reasons), len(_mismatches(report, one.rim.golden))))
        reasons += best.reasons
        answers += best.revocation
        for index, values in best.rim.golden.items():
            if index in golden:
                why = f"both manifests of a GPU name measurement {index}"
                reasons.append(Reason(COLLATERAL_INVALID, why, seen=f"{kind} {version}"))
            golden[index] = values
    wrong = _mismatches(report, golden)
    reasons += (_mismatch(report, index, golden[index]) for index in wrong)
    good = len([index for index in golden if index not in report.skipped]) - len(wrong)
    return Compared(tuple(reasons), tuple(missing), unreadable if missing else (), tuple(answers), good)


def missing_reasons(compared: Compared, report: GpuReport) -> tuple[Reason, ...]:
    """rim_missing for each manifest that is not there, and what of the collateral could not be read."""
    return (
        *(
            Reason(
                RIM_MISSING,
                f"there is no manifest for this {what.partition(':')[0]}",
                expected=what,
                seen=report.product,
            )
            for what in compared.missing
        ),
        *compared.unreadable,
    )


@lru_cache(maxsize=SETS)
def _read(listed: tuple[bytes, ...]) -> tuple[tuple[Rim, ...], tuple[Reason, ...]]:
    """The manifests that can be read, and why others cannot. Without lxml and signxml none can, which is said as it is."""
    rims, unreadable = list[Rim](), list[Reason]()
    for data in listed:
        try:
            rims.append(read_rim(data))
        except PerunError as exc:
            if exc.code == EXTRA_MISSING.code:
                raise
            unreadable += [reason for reason in exc.reasons if reason not in unreadable]
    return tuple(rims), tuple(unreadable)


def _is_for(rim: Rim, version: str, report: GpuReport) -> bool:
    wanted = "SWITCH" if report.device == "switch" else "GPU"
    products = {report.product, report.chip} - {""}
    return rim.version.upper() == version.upper() and rim.edition == wanted and rim.product.replace("_", "") in products


def _reference(rim: Rim, kind: str, report: GpuReport, endorsements: Endorsements, now: int) -> Reference:
    """A manifest under a development root speaks for devices under a development root alone."""
    what = f"the signer of the {kind} manifest {rim.version}"
    trusted = trusted_by(rim.chain[-1], RIM_ROOTS, endorsements.simulated_roots)
    found = list(signer_reasons(rim.chain, what, now))
    if trusted is None or (trusted and not report.simulated):
        seen = rim.chain[-1].subject.rfc4514_string()
        found.append(Reason(CERTIFICATE_CHAIN, f"{what} has no root that is known", seen=seen))
    answers = revocation(rim.chain, endorsements.collateral.ocsp, now, first=0)
    return Reference(rim, (*found, *revoked_reasons(answers, what)), answers)


def _mismatches(report: GpuReport, golden: Mapping[int, frozenset[bytes]]) -> list[int]:
    return sorted(
        index
        for index, values in golden.items()
        if index not in report.skipped and report.measurements.get(index) not in values
    )


def _mismatch(report: GpuReport, index: int, values: frozenset[bytes]) -> Reason:
    seen = report.measurements.get(index)
    return Reason(
        MEASUREMENT_MISMATCH,
        f"measurement {index} of the {report.device} is not one of the manifest's: another firmware, another configuration or "
        "a development mode",
        expected=" or ".join(sorted(value.hex() for value in values)),
        seen=seen.hex() if seen is not None else "none",
    )
