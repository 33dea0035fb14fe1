"""Attacks with a machine's name: one that it was enrolled under, and that the evidence at hand does not prove."""

from __future__ import annotations

from evidence.judging import BINDING, NOW
from perunml.evidence.binding import tee_report_data
from perunml.evidence.bundle import Bundle
from perunml.evidence.judge import judge
from perunml.evidence.parts import SnpPart
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.snp.rules import SnpRules
from perunml.testing.forge import ForgedTpm
from perunml.testing.snp import AmdCa, ForgedChip
from perunml.wire.digests import digest

RULES = SnpRules.from_json(
    {"measurement": ["11" * 48], "products": ["Milan"], "min_tcb": {"bootloader": 4}, "vlek": True}
)


def identities(machine: Machine) -> tuple[str, ...]:
    """What a TEE is found to prove that a cloud's key signs for: nothing tells which chip it is."""
    made = ForgedChip(AmdCa(vlek=True))
    part = SnpPart(made.report(tee_report_data(BINDING)))
    found = judge(
        Bundle((part,)), machine=machine, policy=Policy("simulated", "tee", None, True, tee=RULES), binding=BINDING,
        now=NOW, endorsements=made.endorsements(),
    )  # fmt: skip
    assert found.appraisal.reasons == ()
    return found.appraisal.identities


def test_t21_a_tpms_name_is_proven_by_no_tee() -> None:
    """T21: the host was enrolled by its TPM, and sends a TEE's report from anywhere: the TPM's name is not among what it proved."""
    assert identities(ForgedTpm().enrolled()) == ("tee",)


def test_a_tee_without_a_name_has_the_one_that_it_enrolled_with() -> None:
    """ACCEPT: that name is its key's, and pins nothing."""
    name = f"tee:{digest(b'its key')}"
    assert identities(Machine(name, simulated=False)) == (name,)
    assert identities(Machine("", simulated=False)) == ("tee",)
