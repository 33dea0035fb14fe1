"""Several parts of one machine, judged together: what is demanded is there, bound to one exchange, and of one machine."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from evidence.judging import BINDING, NOW
from perunml.attesters.simulated import SimulatedAttester
from perunml.evidence.binding import tee_report_data
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.composite import binder_pcr, identify
from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.judge import Judgement, judge, judge_new
from perunml.evidence.parts import GpuPart, SnpPart
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.snp.rules import SnpRules
from perunml.evidence.tpm.algorithms import ECDSA
from perunml.evidence.tpm.binder import LABEL, binder_policy
from perunml.evidence.tpm.keys import FIXED_PARENT, FIXED_TPM, SENSITIVE_DATA_ORIGIN, SIGN
from perunml.testing.forge import ForgedTpm, Quoting, sign
from perunml.testing.snp import AmdCa, ForgedChip
from perunml.testing.structures import public_area, sized
from perunml.wire.errors import PerunError

RULES = SnpRules.from_json({"measurement": ["11" * 48], "products": ["Milan"], "min_tcb": {"bootloader": 4}})
KEY = "ed25519:the-key-of-this-tee-alone"
WITH_15 = Quoting(banks=[("sha256", range(16))])


@cache
def amd() -> AmdCa:
    return AmdCa()


def chip(number: int = 1) -> ForgedChip:
    return ForgedChip(amd(), chip_id=bytes([number]) * 64)


def endorsed(*chips: ForgedChip) -> Endorsements:
    certificates = tuple(each for made in chips for each in made.chain)
    return Endorsements(Collateral(certificates=certificates, crls=(amd().revocations(),)), (amd().root,))


def tee(made: ForgedChip, binding: bytes = BINDING, key: str = "", **fields: object) -> SnpPart:
    return SnpPart(made.report(tee_report_data(binding, key), **fields), (), key)


def policy(tpm: ForgedTpm | None = None, binder: str = "", **changes: object) -> Policy:
    """A simulated profile: a TEE, with a TPM beside it where one is given."""
    made = Policy("simulated", "measured+tee" if tpm else "tee", tpm.baseline() if tpm else None, True, tee=RULES)
    return replace(made, binder=binder, written="sha256:" + "0" * 64, **changes)


def codes(found: Judgement) -> list[str]:
    return [reason.code for reason in found.appraisal.reasons]


def judged(bundle: Bundle, asked: Policy, machine: Machine, known: Endorsements, binding: bytes = BINDING) -> Judgement:
    return judge(bundle, machine=machine, policy=asked, binding=binding, now=NOW, endorsements=known)


# a TEE alone


def test_a_tee_is_accepted_and_named_by_its_hardware() -> None:
    """Under a development root it is `simulated`, and says what it imitates."""
    made = chip()
    found = judged(Bundle((tee(made),)), policy(), Machine("", False), endorsed(made))
    assert codes(found) == []
    appraisal = found.appraisal
    assert (appraisal.profile, appraisal.imitates, appraisal.binding) == ("simulated", "tee", BINDING)
    assert appraisal.machine.startswith("chip:sha256:")
    assert appraisal.identities == (appraisal.machine,)
    assert appraisal.baseline == "sha256:" + "0" * 64
    assert appraisal.boot == "snp:" + "77" * 32
    assert appraisal.claims["tee"]["product"] == "Milan"  # type: ignore[index,call-overload]


def test_a_development_root_never_meets_a_real_profile() -> None:
    """T18: what leads to one is simulated, whatever it shows."""
    made = chip()
    real = Policy("tee", "", None, False, tee=RULES)
    found = codes(judged(Bundle((tee(made),)), real, Machine("", False), endorsed(made)))
    assert found == ["simulated_not_allowed", "wrong_profile"]


def test_an_enrolled_chip_is_the_one_that_answers() -> None:
    """T21: genuine evidence of another enrolled chip."""
    one, other = chip(1), chip(2)
    known = endorsed(one, other)
    own = judged(Bundle((tee(one),)), policy(), Machine("", False), known).appraisal.machine
    assert codes(judged(Bundle((tee(one),)), policy(), Machine(own, True), known)) == []
    assert codes(judged(Bundle((tee(other),)), policy(), Machine(own, True), known)) == ["wrong_device"]


def test_evidence_for_another_exchange_is_refused() -> None:
    """T9, N2: the report data are the binding."""
    made = chip()
    found = judged(Bundle((tee(made, bytes(48)),)), policy(), Machine("", False), endorsed(made))
    assert codes(found) == ["binding_mismatch"]


def test_what_is_not_authentic_proves_no_binding() -> None:
    """A signature that does not verify: the appraisal is good for nothing."""
    made = chip()
    part = tee(made)
    wrong = SnpPart(part.report[:-600] + bytes([part.report[-600] ^ 1]) + part.report[-599:])
    found = judged(Bundle((wrong,)), policy(), Machine("", False), endorsed(made))
    assert codes(found)
    assert found.appraisal.binding == b""


def test_t22_a_demanded_part_that_is_missing_is_refused() -> None:
    """T22: the CPU is good, the GPU's part or the TPM's is not there; and the other way round."""
    made, tpm = chip(), ForgedTpm()
    from perunml.evidence.nvidia.rules import GpuRules

    with_gpu = replace(policy(), gpu=GpuRules())
    assert codes(judged(Bundle((tee(made),)), with_gpu, Machine("", False), endorsed(made))) == ["part_missing"]
    both = policy(tpm, "machines")
    assert codes(judged(Bundle((tee(made),)), both, tpm.enrolled(), endorsed(made))) == ["part_missing"]
    assert codes(judged(tpm.bundle(BINDING), both, tpm.enrolled(), endorsed(made))) == ["part_missing"]
    assert codes(judged(Bundle(()), policy(), Machine("", False), endorsed(made))) == ["part_missing"]


def test_t17_a_part_of_another_kind_is_refused() -> None:
    """T17: an SNP report where the rules are for TDX, and a report that only says it is a quote."""
    from perunml.evidence.dcap.rules import TdxRules
    from perunml.evidence.parts import TdxPart

    made = chip()
    asked = replace(policy(), tee=TdxRules())
    assert codes(judged(Bundle((tee(made),)), asked, Machine("", False), endorsed(made))) == ["wrong_tee"]
    lying = Bundle((TdxPart(tee(made).report),))
    assert codes(judged(lying, asked, Machine("", False), endorsed(made)))[0] in ("quote_unsupported", "non_canonical")


def test_evidence_of_several_machines_is_refused() -> None:
    """Two TEEs, two TPMs: which of them would be meant?"""
    made, tpm = chip(), ForgedTpm()
    for parts in ((tee(made), tee(made)), (tpm.quote(BINDING), tpm.quote(BINDING))):
        assert codes(judged(Bundle(parts), policy(), tpm.enrolled(), endorsed(made))) == ["wrong_profile"]


def test_a_bare_key_does_not_stand_for_a_tee_that_must_show_something(tmp_path: Path) -> None:
    """T18: `simulated` imitating a TEE is met by a key only where the profile wrote no rules."""
    key = SimulatedAttester(tmp_path)
    machine = Machine(key.machine, True, key=key.enrolment()["key"])
    asked = replace(policy(), written="")
    assert codes(judged(key.collect(BINDING), asked, machine, endorsed())) == ["part_missing"]
    assert codes(judged(key.collect(BINDING), replace(asked, tee=None), machine, endorsed())) == []


def test_a_part_that_nobody_asked_for_is_not_looked_at() -> None:
    """An honest host shows all that it has; what is not judged counts for nothing, even when it is broken."""
    made, tpm = chip(), ForgedTpm()
    shown = Bundle((tpm.quote(BINDING), SnpPart(b"no report"), GpuPart("gpu", b"none", ())))
    asked = Policy("simulated", "measured", tpm.baseline(), True)
    assert codes(judged(shown, asked, tpm.enrolled(), endorsed(made))) == []


def test_reasons_of_all_parts_are_told_at_once() -> None:
    """TPM and TEE both bad: both are said."""
    made, tpm = chip(), ForgedTpm()
    asked = policy(tpm, "machines")
    tpm.measure("/usr/bin/unlisted", b"x")
    shown = Bundle((tpm.quote(BINDING), tee(made, vmpl=2)))
    assert set(codes(judged(shown, asked, tpm.enrolled(), endorsed(made)))) == {"not_in_policy", "vmpl"}


def test_an_enrolment_identifies_whatever_runs() -> None:
    """No profile is asked; the evidence must be authentic, and for this enrolment."""
    made = chip()
    found = identify(Bundle((tee(made, vmpl=2),)), binding=BINDING, endorsements=endorsed(made), now=NOW)
    assert found.identity.startswith("chip:")
    assert found.simulated
    for bundle, code in (
        (Bundle((tee(made, bytes(48)),)), "binding_mismatch"),
        (Bundle((ForgedTpm().quote(BINDING),)), "part_missing"),
    ):
        with pytest.raises(PerunError) as caught:
            identify(bundle, binding=BINDING, endorsements=endorsed(made), now=NOW)
        assert caught.value.code == code


# TEE and TPM on one host: relays, each staged with two machines


class Host:
    """A TEE and a TPM in one machine, as it booted: its TEE's key is measured, its binder key made."""

    def __init__(self, number: int) -> None:
        self.chip, self.tpm, self.key = chip(number), ForgedTpm(), f"{KEY}-{number}"
        self.tpm.extend(15, self.key.encode())
        self.binder = ec.generate_private_key(ec.SECP256R1())
        area = public_area(
            self.binder,
            attributes=FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | SIGN,
            scheme=(ECDSA, "sha256"),
            name_hash="sha256",
            policy=binder_policy(dict(enumerate(self.tpm.pcrs["sha256"]))),
        )
        self.binder_public = sized(area)

    def enrolled(self) -> Machine:
        return replace(self.tpm.enrolled(), binder=self.binder_public)

    def quote(self, binding: bytes = BINDING, signed: bool = True) -> TpmPart:
        part = self.tpm.quote(binding, WITH_15)
        return replace(part, binder=sign(self.binder, ECDSA, "sha256", LABEL + binding)) if signed else part


@pytest.mark.parametrize("binder", ["machines", "pcr", "tpm-key"])
def test_an_honest_host_with_tee_and_tpm_is_accepted(binder: str) -> None:
    """Each binder; ACCEPT is as binding."""
    host = Host(1)
    shown = Bundle((host.quote(), tee(host.chip, key=host.key if binder == "pcr" else "")))
    found = judged(shown, policy(host.tpm, binder), host.enrolled(), endorsed(host.chip))
    assert codes(found) == []
    assert found.appraisal.imitates == "measured+tee"
    assert len(found.appraisal.identities) == 2
    assert found.appraisal.machine == host.tpm.machine


def test_cuckoo_a_relayed_tpm_is_not_of_the_approved_pair() -> None:
    """Binder `machines`: the bad host's TEE, the healthy host's TPM; `decide` compares the identities that were proven."""
    healthy, bad = Host(1), Host(2)
    shown = Bundle((healthy.quote(), tee(bad.chip)))
    found = judged(shown, policy(healthy.tpm, "machines"), healthy.enrolled(), endorsed(healthy.chip, bad.chip))
    right = judged(
        Bundle((healthy.quote(), tee(healthy.chip))), policy(healthy.tpm, "machines"), healthy.enrolled(),
        endorsed(healthy.chip, bad.chip),
    )  # fmt: skip
    assert codes(found) == codes(right) == []
    assert set(found.appraisal.identities) != set(right.appraisal.identities)


def test_cuckoo_a_relayed_tpm_does_not_show_this_tees_key() -> None:
    """Binder `pcr`: the healthy TPM's PCR 15 is the measurement of its own TEE's key."""
    healthy, bad = Host(1), Host(2)
    asked, known = policy(healthy.tpm, "pcr"), endorsed(healthy.chip, bad.chip)
    relayed = Bundle((healthy.quote(), tee(bad.chip, key=bad.key)))
    assert codes(judged(relayed, asked, healthy.enrolled(), known)) == ["binder_mismatch"]
    # the bad TEE says that its key is the healthy one's: then its own report covers it, and the manager sees whose it is;
    # what it cannot do is answer with the healthy TEE's report for its own session's binding
    stolen = Bundle((healthy.quote(), tee(healthy.chip, bytes(48), key=healthy.key)))
    assert codes(judged(stolen, asked, healthy.enrolled(), known)) == ["binding_mismatch"]


def test_a_tee_without_a_key_or_a_quote_without_pcr_15_is_refused() -> None:
    """Missing means refused; so does a key that the report data do not cover."""
    host = Host(1)
    asked, known = policy(host.tpm, "pcr"), endorsed(host.chip)
    assert codes(judged(Bundle((host.quote(), tee(host.chip))), asked, host.enrolled(), known)) == ["binder_mismatch"]
    without = Bundle((host.tpm.quote(BINDING), tee(host.chip, key=host.key)))
    assert codes(judged(without, asked, host.enrolled(), known)) == ["binder_mismatch"]
    uncovered = replace(tee(host.chip), key=host.key)
    assert codes(judged(Bundle((host.quote(), uncovered)), asked, host.enrolled(), known)) == ["binding_mismatch"]


def test_a_second_extend_of_pcr_15_is_refused() -> None:
    """The key is the only thing that was ever measured there."""
    host = Host(1)
    host.tpm.extend(15, b"more")
    shown = Bundle((host.quote(), tee(host.chip, key=host.key)))
    assert codes(judged(shown, policy(host.tpm, "pcr"), host.enrolled(), endorsed(host.chip))) == ["binder_mismatch"]
    assert binder_pcr("x") == hashlib.sha256(bytes(32) + hashlib.sha256(b"x").digest()).digest()


def test_cuckoo_a_relayed_tpm_has_no_signature_of_this_tees_key() -> None:
    """Binder `tpm-key`: only the healthy TEE knows the secret of the healthy TPM's binder key, so a relay has none, or one of
    another key, or one for another exchange."""
    healthy, bad = Host(1), Host(2)
    asked, known = policy(healthy.tpm, "tpm-key"), endorsed(healthy.chip, bad.chip)
    for quote in (
        healthy.quote(signed=False),
        replace(healthy.quote(signed=False), binder=bad.quote().binder),
        replace(healthy.quote(signed=False), binder=sign(healthy.binder, ECDSA, "sha256", LABEL + bytes(48))),
    ):
        found = codes(judged(Bundle((quote, tee(bad.chip))), asked, healthy.enrolled(), known))
        assert found in (["binder_mismatch"], ["quote_signature"])


def test_a_binder_key_of_another_state_is_refused() -> None:
    """The key works under other PCRs than are quoted: what it proves is not this boot."""
    host = Host(1)
    enrolled = host.enrolled()
    asked = policy(host.tpm, "tpm-key")
    host.tpm.boot_into(lambda log: log.events.append(replace(log.events[-1], index=3)))
    asked = replace(asked, baseline=host.tpm.baseline())
    shown = Bundle((host.quote(), tee(host.chip)))
    assert codes(judged(shown, asked, enrolled, endorsed(host.chip))) == ["binder_mismatch"]
    nobody = replace(enrolled, binder=b"")
    assert codes(judged(shown, asked, nobody, endorsed(host.chip))) == ["binder_mismatch"]


def test_a_renewal_looks_at_all_parts_again() -> None:
    """`judge_new` reads only what is new of the log, and the TEE's report as at the first time."""
    host = Host(1)
    asked, known = policy(host.tpm, "machines"), endorsed(host.chip)
    first = judged(Bundle((host.quote(), tee(host.chip))), asked, host.enrolled(), known)
    assert first.state is not None
    machine = replace(host.enrolled(), last_clock=first.clock)
    more = replace(WITH_15, offset=first.state.size)
    again = Bundle((host.tpm.quote(BINDING, more), tee(host.chip)))
    found = judge_new(
        again, machine=machine, policy=asked, binding=BINDING, now=NOW, state=first.state, endorsements=known
    )
    assert found is not None
    assert codes(found) == []
    worse = Bundle((host.tpm.quote(BINDING, more), tee(host.chip, vmpl=3)))
    assert (
        judge_new(worse, machine=machine, policy=asked, binding=BINDING, now=NOW, state=first.state, endorsements=known)
        is None
    )
