"""AMD SEV-SNP reports parsed, verified and appraised on one core, beside the bare check of their P-384 signature."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.snp.appraise import appraise_snp
from perunml.evidence.snp.parse import parse_report
from perunml.evidence.snp.rules import SnpRules
from perunml.evidence.snp.verify import verify_snp
from perunml.testing.snp import AmdCa, ForgedChip
from perunml.wire.errors import EvidenceRefusal

NOW = 1_800_000_000
ROUNDS, REPORTS = 15, 40
"""Rounds over as many reports, no two alike; the median over rounds is told."""
FLEET = 1000
"""Chips whose certificates lie in one set of collateral."""
TARGET = 1500
"""Reports a second on one core."""
RULES = SnpRules.from_json(
    {"measurement": ["11" * 48], "products": ["Genoa"], "min_tcb": {"bootloader": 4, "snp": 24, "microcode": 219}}
)


def data(number: int) -> bytes:
    return hashlib.sha384(b"%d" % number).digest() + bytes(16)


def rates(calls: list[Callable[[int], None]]) -> list[int]:
    """Calls a second of each, the median over rounds in which they take turns; the first round warms up what is remembered of
    certificates."""
    found: list[list[float]] = [[] for _ in calls]
    for number in range(ROUNDS + 1):
        # other reports every round: a signature that was seen is remembered
        todo = range(number * REPORTS, (number + 1) * REPORTS)
        for call, seconds in zip(calls, found, strict=True):
            begin = time.perf_counter()
            for each in todo:
                call(each)
            seconds.append(time.perf_counter() - begin)
    return [round(REPORTS / statistics.median(seconds[1:])) for seconds in found]


def reports(chip: ForgedChip) -> list[bytes]:
    return [chip.report(data(number), version=5) for number in range((ROUNDS + 1) * REPORTS)]


def judge(made: list[bytes], known: Endorsements) -> Callable[[int], None]:
    """Verifies and appraises one report; a check that cannot fail is none, so that is tried first."""

    def call(number: int) -> None:
        report = verify_snp(made[number], (), known, now=NOW)
        if appraise_snp(report, RULES, report_data=data(number), endorsements=known, now=NOW):
            raise AssertionError("an honest report was refused")

    try:
        verify_snp(made[0][:-700] + b"\1" + made[0][-699:], (), known, now=NOW)
        raise AssertionError("a changed report was accepted")
    except EvidenceRefusal:
        return call


def bare(chip: ForgedChip, made: list[bytes]) -> Callable[[int], None]:
    key, read = chip.key.public_key(), [parse_report(each) for each in made]
    parts = [(encode_dss_signature(*raw.signature), raw.signed) for raw in read]

    def call(number: int) -> None:
        signature, signed = parts[number]
        key.verify(signature, signed, ec.ECDSA(hashes.SHA384()))

    return call


def run() -> dict[str, Any]:
    ca = AmdCa("Genoa", with_rsa=True)
    chip = ForgedChip(ca)
    made, known = reports(chip), chip.endorsements()
    others = [ca.certify(chip.key.public_key(), chip.tcb, n.to_bytes(64, "big")) for n in range(1, FLEET)]
    certificates = (*others[: FLEET // 2], *chip.chain, *others[FLEET // 2 :])
    fleet = Endorsements(Collateral(certificates=certificates, crls=known.collateral.crls), known.simulated_roots)
    unit = {"unit": "1/s", "higher_is_better": True}
    other = reports(chip)  # the same signatures would be remembered from one measurement to the next
    one, many, alone = rates([judge(made, known), judge(other, fleet), bare(chip, made)])
    return {
        "title": "SEV-SNP reports judged on one core (form, signature, chain of RSA-4096, revocation list, chip and firmware, rules), "
        "no two alike; certificates seen before are remembered by their bytes. Beside it the P-384 signature alone, the limit.",
        "results": [
            {"name": "reports of one chip", "value": one, **unit, "target": TARGET},
            {"name": f"reports, with certificates of {FLEET:,} chips at hand", "value": many, **unit},
            {"name": "the signature alone", "value": alone, **unit},
        ],
    }  # fmt: skip
