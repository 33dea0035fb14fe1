"""Are these the devices that the profile asks for? Every reason is collected, over all devices of one machine.

What a GPU proves, it proves of itself. That it sits in the machine that sends its report is not in the report: the nonce says
that the machine could reach it. Who wants more pins devices by `platform`, which is judged where the parts are joined.
"""

from __future__ import annotations

from collections.abc import Sequence

from perunml.evidence.endorsements import Endorsements
from perunml.evidence.nvidia.codes import (
    DEVICE_REPEATED,
    DEVICE_TOPOLOGY,
    FIRMWARE_MISMATCH,
    GPU_ARCHITECTURE,
    GPU_COUNT,
    GPU_DRIVER,
    GPU_FIRMWARE,
    GPU_MODE,
    NVSWITCH_MISSING,
)
from perunml.evidence.nvidia.compare import Compared, compare, missing_reasons
from perunml.evidence.nvidia.fields import PPCIE
from perunml.evidence.nvidia.ocsp import GOOD, UNKNOWN, Answer
from perunml.evidence.nvidia.rules import OCSP, GpuRules, version_key
from perunml.evidence.nvidia.verify import GpuReport
from perunml.evidence.tee.codes import COLLATERAL_EXPIRED, DEBUG_ENABLED, REVOCATION_MISSING
from perunml.evidence.types import Verified
from perunml.wire.canonical import Json
from perunml.wire.rules import Reason
from perunml.wire.timestamps import format_time

UNBOUND = "not bound to host"
"""What a claim says of a GPU whose place in this machine nothing proves."""


def appraise_gpus(
    gpus: Sequence[Verified[GpuReport]], rules: GpuRules, *, endorsements: Endorsements, now: int
) -> tuple[Reason, ...]:
    """Every reason why the devices are not what the rules ask for at `now` (seconds since 1970); empty: they are.

    Raises `UsageError` (extra_missing) where manifests cannot be read at all.
    """
    reports = [gpu.value for gpu in gpus]
    found = [*_counts(reports, rules)]
    seen = {"gpu": 0, "switch": 0}
    for report in reports:
        about = (
            *_device(report, rules),
            *_references(report, compare(report, endorsements, now), rules, now),
        )
        found += [_named(reason, f"{report.device} {seen[report.device]}") for reason in about]
        seen[report.device] += 1
    # under protected PCIe what goes over NVLink is in the clear: also where no switch is demanded, none may be on the way
    if rules.switches or any(report.mode == PPCIE for report in reports):
        found += _topology(reports)
    return tuple(dict.fromkeys(found))


def gpu_claims(
    gpus: Sequence[Verified[GpuReport]], *, endorsements: Endorsements, now: int, bound: str = UNBOUND
) -> dict[str, Json]:
    """What the devices tell, for people and receipts. `bound` says whether, and by what, they are known to be in this host."""
    distinct = len({gpu.value.platform for gpu in gpus})
    return {
        "bound_to_host": bound,
        "distinct": distinct,
        "devices": [_claims(gpu.value, endorsements, now) for gpu in gpus],
    }


def _counts(reports: Sequence[GpuReport], rules: GpuRules) -> list[Reason]:
    """How many there are, each counted once by its identity."""
    found = []
    platforms = [report.platform for report in reports]
    for platform in dict.fromkeys(one for one in platforms if platforms.count(one) > 1):
        found.append(Reason(DEVICE_REPEATED, "the same device is shown several times", seen=platform))
    for device, wanted, rule in (("gpu", rules.count, GPU_COUNT), ("switch", rules.switches, NVSWITCH_MISSING)):
        seen = len({report.platform for report in reports if report.device == device})
        if seen != wanted:
            found.append(Reason(rule, f"another number of {device} devices", expected=str(wanted), seen=str(seen)))
    return found


def _device(report: GpuReport, rules: GpuRules) -> list[Reason]:
    """What one device says of itself."""
    found = []
    if report.development:
        found.append(
            Reason(DEBUG_ENABLED, "its certificate has flags of development", seen=", ".join(report.development))
        )
    if not report.named:
        found.append(Reason(FIRMWARE_MISMATCH, "its report does not name its firmware, as old drivers' do not"))
    if rules.vbios and report.vbios not in rules.vbios:
        expected = ", ".join(sorted(rules.vbios))
        found.append(Reason(GPU_FIRMWARE, "firmware that is not agreed", expected=expected, seen=report.vbios))
    if report.device == "switch":
        if not report.locked:
            found.append(Reason(DEVICE_TOPOLOGY, "the switch's configuration is not locked"))
        return found
    if report.architecture not in rules.architectures:
        expected = ", ".join(sorted(rules.architectures)) or "named by the profile"
        seen = report.architecture or report.product
        found.append(Reason(GPU_ARCHITECTURE, "an architecture that is not agreed", expected=expected, seen=seen))
    if rules.drivers and report.driver not in rules.drivers:
        expected = ", ".join(sorted(rules.drivers))
        found.append(Reason(GPU_DRIVER, "a driver that is not agreed", expected=expected, seen=report.driver))
    if rules.min_driver and not _at_least(report.driver, rules.min_driver):
        found.append(Reason(GPU_DRIVER, "a driver that is too old", expected=rules.min_driver, seen=report.driver))
    if report.mode not in rules.modes:
        expected = ", ".join(sorted(rules.modes))
        found.append(Reason(GPU_MODE, "a mode that is not agreed", expected=expected, seen=report.mode))
    return found


def _at_least(version: str, floor: str) -> bool:
    try:
        return version_key(version) >= version_key(floor)
    except ValueError:
        return False


def _references(report: GpuReport, compared: Compared, rules: GpuRules, now: int) -> list[Reason]:
    """Manifests and revocation. A missing manifest is excused by its version; missing answers of OCSP all together."""
    found = list(compared.reasons)
    if any(not rules.excuses(what, now) for what in compared.missing):
        found += [r for r in missing_reasons(compared, report) if not rules.excuses(r.expected, now)]
    if not rules.excuses(OCSP, now):
        found += _revocation((*report.revocation, *compared.revocation), rules, now)
    return found


def _revocation(answers: Sequence[Answer | None], rules: GpuRules, now: int) -> list[Reason]:
    """Whether every certificate has an answer that says good and is in force: until its own nextUpdate, or, where the profile
    says how old one may be, that long after its thisUpdate. A responder that is down is no excuse beyond that. One that is revoked
    was told before."""
    found = []
    for answer in answers:
        if answer is None:
            found.append(Reason(REVOCATION_MISSING, "OCSP says nothing about a certificate of the chain"))
        elif answer.status == UNKNOWN:
            found.append(Reason(REVOCATION_MISSING, "OCSP knows nothing of a certificate", seen=answer.subject))
        elif not _in_force(answer, rules, now):
            why = f"OCSP's answer about {answer.subject} is too old"
            expected = rules.max_age or (format_time(answer.until) if answer.until is not None else "one with a date")
            found.append(Reason(COLLATERAL_EXPIRED, why, expected=expected, seen=format_time(answer.made)))
    return found


def _in_force(answer: Answer, rules: GpuRules, now: int) -> bool:
    oldest = rules.oldest(now)
    if oldest is not None:
        return answer.made >= oldest
    return answer.until is not None and now <= answer.until


def _topology(reports: Sequence[GpuReport]) -> list[Reason]:
    """Each GPU is wired to exactly these switches, and each switch to exactly these GPUs."""
    switches = {report.pdi for report in reports if report.device == "switch"}
    gpus = {report.pdi for report in reports if report.device == "gpu"}
    found = []
    for report in reports:
        others = gpus if report.device == "switch" else switches
        if report.peers != others or not report.pdi:
            expected, seen = (" ".join(sorted(one.hex() for one in ids)) for ids in (others, report.peers))
            why = f"the {report.device} {report.pdi.hex()} is wired to others than were proven"
            found.append(Reason(DEVICE_TOPOLOGY, why, expected=expected, seen=seen))
    return found


def _named(reason: Reason, device: str) -> Reason:
    return Reason(reason.rule, f"{device}: {reason.message}", reason.expected, reason.seen, reason.command)


def _claims(report: GpuReport, endorsements: Endorsements, now: int) -> dict[str, Json]:
    compared = compare(report, endorsements, now)
    answers = (*report.revocation, *compared.revocation)
    return {
        "device": report.device,
        "platform": report.platform,
        "architecture": report.architecture or "unknown",
        "product": report.product,
        "driver": report.driver or None,
        "vbios": report.vbios,
        "board": report.board or None,
        "mode": report.mode or None,
        "measurements": len(report.measurements),
        "measurements_compared": compared.compared,
        "rim_missing": list(compared.missing),
        "firmware_named": report.named,
        "development": _development(report, compared),
        "ocsp": {
            "asked": len(answers),
            "good": sum(answer is not None and answer.status == GOOD for answer in answers),
            "until": _earliest(answers),
        },
        "simulated": report.simulated,
    }


def _development(report: GpuReport, compared: Compared) -> str:
    if report.development:
        return ", ".join(report.development)
    if compared.missing:
        return "not known: no manifest to compare with"
    return "not known: refused" if compared.reasons else "off"


def _earliest(answers: Sequence[Answer | None]) -> str | None:
    """When the first answer goes out of force, where each has a date."""
    dates = [answer.until if answer is not None else None for answer in answers]
    known = [date for date in dates if date is not None]
    return format_time(min(known)) if known and len(known) == len(dates) else None
