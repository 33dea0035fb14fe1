"""Attacks on clouds' virtual TPMs: whose TPM it is, which TEE's report, which trust domain, which instance."""

from __future__ import annotations

from functools import cache

from evidence.judging import BINDING, NOW
from evidence.test_azure import RULES, Cloud, codes
from perunml.evidence.judge import Judgement, judge
from perunml.evidence.policy import Machine, Policy


@cache
def clouds() -> tuple[Cloud, Cloud]:
    """Two machines of one cloud."""
    return Cloud(), Cloud()


def judged(sent: Cloud, machine: Machine, **changes: object) -> Judgement:
    """What `sent` sends, as coming from `machine`, under the sender's own baseline."""
    asked = {"tee": RULES, "binder": "vtpm"} | changes
    policy = Policy("simulated", "measured+tee", sent.tpm.baseline(), True, **asked)  # type: ignore[arg-type] # by name
    known = sent.chip.endorsements()
    return judge(sent.bundle(), machine=machine, policy=policy, binding=BINDING, now=NOW, endorsements=known)


def test_k5_an_enrolled_tpm_is_not_replaced_by_one_that_another_tee_vouches_for() -> None:
    """K5: a machine that was enrolled by its EK answers with that TPM; honest evidence of another machine of the same cloud is
    not its own."""
    own, other = clouds()
    found = judged(own, own.tpm.enrolled())
    assert codes(found) == []
    assert found.appraisal.identities[0] == own.tpm.enrolled().id
    assert codes(judged(other, own.tpm.enrolled())) == ["wrong_device"]


def test_a_key_is_vouched_for_by_a_tee_that_is_judged_or_by_none() -> None:
    """Where no TEE is judged nothing vouches for an attestation key: the enrolled one has to sign."""
    own, other = clouds()
    for machine in (own.tpm.enrolled(), Machine("", simulated=True)):
        found = judged(other, machine, tee=None)
        assert found.appraisal.binding == b""
        assert codes(found)
