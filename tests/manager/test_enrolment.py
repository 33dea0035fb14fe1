"""Enrolment over real TLS: TPMs, bare keys, and everything that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from manager.world import Threads, World, code_of, enrol_message
from perunml.api.enrolment import EnrolAnswer, EnrolRequest
from perunml.attesters.simulated import SimulatedAttester
from perunml.evidence.tpm.algorithms import ECDSA
from perunml.evidence.tpm.keys import FIXED_PARENT, FIXED_TPM, SENSITIVE_DATA_ORIGIN, SIGN
from perunml.manager import setup
from perunml.testing.ca import DevelopmentCa
from perunml.testing.forge import ForgedTpm, new_key, sign
from perunml.testing.structures import public_area, sized
from perunml.wire.errors import PerunError
from perunml.wire.identity import SigningKey


@pytest.fixture
def operator(world: World) -> SigningKey:
    key = SigningKey.generate()
    setup.admit(world.folder, [key.public.text])
    return key


@pytest.mark.parametrize("ek", ["p256", "rsa"])
def test_tpm_is_enrolled(world: World, operator: SigningKey, ek: str) -> None:
    """A TPM that holds EK and AK gets the machine's name and a client certificate."""
    host = world.enrol(operator, attester=ForgedTpm(ek=ek))
    assert host.machine == host.attester.machine
    assert host.enrolled.simulated
    assert host.link.work().items == []


def test_bare_key_is_enrolled_as_simulated(world: World, operator: SigningKey, tmp_path: Path) -> None:
    """A machine without a TPM enrols, and its name says what it is."""
    host = world.enrol(operator, attester=SimulatedAttester(tmp_path))
    assert host.machine.startswith("simulated:sha256:")
    assert host.enrolled.simulated


def test_unknown_ca_is_refused(world: World, operator: SigningKey) -> None:
    """K2: an EK certificate under a CA that the manager was not given."""
    tpm = ForgedTpm(ca=DevelopmentCa("somebody else"))
    with pytest.raises(PerunError) as caught:
        world.enrol(operator, attester=tpm)
    assert caught.value.code == "ek_chain"


def test_wrong_activation_leaves_the_record(world: World, operator: SigningKey) -> None:
    """K5, K10: an AK that is not in the EK's TPM cannot be activated, and the machine's record stays as it was."""
    good = ForgedTpm()
    host = world.enrol(operator, attester=good)
    other = ForgedTpm()
    swapped = enrol_message(good, "gpu-1", SigningKey.generate()).model_copy(
        update={"ak_public": other.ak_public, "cleared": True}
    )
    link = world.anonymous()
    challenge = link.enrol(EnrolRequest(machine=swapped), operator)
    with pytest.raises(ValueError, match="INTEGRITY"):  # the TPM itself refuses: the credential is for another AK
        good.activate(challenge.credential, challenge.encrypted_secret)
    assert code_of(lambda: link.answer_enrolment(challenge.enrolment, EnrolAnswer(answer=bytes(32)), operator)) == (
        "enrolment_failed"
    )
    assert host.link.work().items == []


def test_answer_is_good_once(world: World, operator: SigningKey) -> None:
    """K7: the right answer again is refused."""
    tpm, link = ForgedTpm(), world.anonymous()
    challenge = link.enrol(EnrolRequest(machine=enrol_message(tpm, "once", SigningKey.generate())), operator)
    answer = EnrolAnswer(answer=tpm.activate(challenge.credential, challenge.encrypted_secret))
    link.answer_enrolment(challenge.enrolment, answer, operator)
    assert code_of(lambda: link.answer_enrolment(challenge.enrolment, answer, operator)) == "enrolment_failed"


def test_another_operator_cannot_answer(world: World, operator: SigningKey) -> None:
    """An enrolment belongs to the operator who began it."""
    tpm, link = ForgedTpm(), world.anonymous()
    other = SigningKey.generate()
    setup.admit(world.folder, [other.public.text])
    challenge = link.enrol(EnrolRequest(machine=enrol_message(tpm, "mine", SigningKey.generate())), operator)
    answer = EnrolAnswer(answer=tpm.activate(challenge.credential, challenge.encrypted_secret))
    assert code_of(lambda: link.answer_enrolment(challenge.enrolment, answer, other)) == "enrolment_failed"
    assert link.answer_enrolment(challenge.enrolment, answer, operator).machine == tpm.machine


def test_one_name_one_machine(world: World, operator: SigningKey) -> None:
    """K8, K14: neither another EK under a name, nor a second name for an EK, nor another operator's machine."""
    tpm = ForgedTpm()
    world.enrol(operator, "first", tpm)
    assert code_of(lambda: world.enrol(operator, "first", ForgedTpm())) == "identity_conflict"
    assert code_of(lambda: world.enrol(operator, "second", tpm)) == "identity_conflict"
    assert code_of(lambda: world.enrol(SigningKey.generate(), "first", tpm)) == "identity_conflict"
    assert world.enrol(operator, "first", tpm).machine == tpm.machine


def test_parallel_enrolments_of_one_machine(world: World, operator: SigningKey) -> None:
    """K9: of two enrolments begun at once, exactly one is recorded."""
    tpm, answers = ForgedTpm(), []
    for _ in range(2):
        link = world.anonymous()
        challenge = link.enrol(EnrolRequest(machine=enrol_message(tpm, "twice", SigningKey.generate())), operator)
        answer = EnrolAnswer(answer=tpm.activate(challenge.credential, challenge.encrypted_secret))
        answers.append(
            lambda link=link, name=challenge.enrolment, answer=answer: link.answer_enrolment(name, answer, operator)
        )
    results = Threads().run(answers)
    refused = [result for result in results if isinstance(result, PerunError)]
    assert [exc.code for exc in refused] == ["identity_conflict"]


def test_old_certificate_is_void_after_enrolling_again(world: World, operator: SigningKey) -> None:
    """K6: only the newest enrolment's certificate opens the door, and no certificate opens none."""
    tpm = ForgedTpm()
    first = world.enrol(operator, "again", tpm)
    second = world.enrol(operator, "again", tpm)
    assert code_of(first.link.work) == "request_unsigned"
    assert second.link.work().items == []
    assert code_of(world.anonymous().work) == "request_unsigned"


def test_hundred_wrong_activations(world: World, operator: SigningKey) -> None:
    """K16: the operator who keeps guessing is slowed down, another one's honest machine enrols all the while."""
    tpm, link, codes = ForgedTpm(), world.anonymous(), set()
    for _ in range(100):
        request = EnrolRequest(machine=enrol_message(tpm, "guess", SigningKey.generate()))
        try:
            challenge = link.enrol(request, operator)
        except PerunError as exc:
            codes.add(exc.code)
            continue
        codes.add(
            code_of(
                lambda name=challenge.enrolment: link.answer_enrolment(name, EnrolAnswer(answer=b"x" * 32), operator)
            )
        )
    assert codes == {"enrolment_failed", "rate_limited"}
    assert world.enrol(SigningKey.generate(), "honest").machine


def test_strangers_cannot_fill_memory(world: World) -> None:
    """D7: registrations by keys that nobody admitted are refused before anything is kept."""
    stranger, link = SigningKey.generate(), world.anonymous()
    request = EnrolRequest(machine=enrol_message(ForgedTpm(), "stranger", SigningKey.generate()))
    assert {code_of(lambda: link.enrol(request, stranger)) for _ in range(20)} == {"request_unsigned"}
    assert world.server is not None
    assert world.server.services.limits._buckets.keys().isdisjoint({("party", stranger.public.text)})


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:AAAA", "p384:AAAA", "hpke:AAAA"])
def test_a_key_that_no_certificate_could_be_for(world: World, operator: SigningKey, text: str) -> None:
    """What a host names as its TLS key is one, before anything is asked of its machine."""
    message = enrol_message(ForgedTpm(), "odd-key", SigningKey.generate()).model_copy(update={"tls_key": text})
    assert code_of(lambda: world.anonymous().enrol(EnrolRequest(machine=message), operator)) == "malformed"


@pytest.mark.parametrize("name", ["", "..", "../up", "UPPER", "a b", "a\n", "ä", "-a", "a" * 64, "a/b", "%2e"])
def test_c13_a_name_that_is_a_path(world: World, operator: SigningKey, name: str) -> None:
    """C13: a machine's name is letters, digits, dots and hyphens, and begins with neither of the last."""
    message = enrol_message(ForgedTpm(), "good", SigningKey.generate()).model_copy(update={"name": name})
    assert code_of(lambda: world.anonymous().enrol(EnrolRequest(machine=message), operator)) == "malformed"


def test_k5_a_binder_key_that_nobody_certified(world: World, operator: SigningKey) -> None:
    """K5: a key of the operator's own beside a good TPM's is refused before anything is recorded."""
    tpm, own = ForgedTpm(), new_key("p256")
    attributes = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | SIGN
    public = sized(public_area(own, attributes=attributes, scheme=(ECDSA, "sha256")))
    more = {
        "binder_public": public,
        "binder_certify": b"anything",
        "binder_signature": sign(own, ECDSA, "sha256", b"anything"),
    }
    message = enrol_message(tpm, "bound", SigningKey.generate()).model_copy(update=more)
    assert code_of(lambda: world.anonymous().enrol(EnrolRequest(machine=message), operator)) == "quote_signature"
