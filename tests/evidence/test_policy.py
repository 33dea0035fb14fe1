"""What a policy leaves out is refused: profiles, simulated machines, baselines."""

from __future__ import annotations

import pytest

from evidence.judging import BINDING, NOW, codes, judged, policy_of
from perunml.attesters.simulated import SimulatedAttester
from perunml.evidence.appraise import appraise_unverified
from perunml.evidence.baseline import Baseline
from perunml.evidence.bundle import Bundle, SimulatedPart
from perunml.evidence.judge import judge
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.types import Appraisal, Verified
from perunml.testing.forge import ForgedTpm
from perunml.wire.dsse import unsigned
from perunml.wire.errors import UsageError
from perunml.wire.identity import SigningKey


def bare() -> tuple[SimulatedAttester, Machine]:
    attester = SimulatedAttester.of(SigningKey.generate())
    return attester, Machine(attester.machine, True, key=attester.enrolment()["key"])


def test_a_software_tpm_is_not_measured() -> None:
    """T18: right in everything but the root it stands on."""
    tpm = ForgedTpm()
    found = judged(tpm, tpm.bundle(BINDING), profile="measured", imitates="", allow_simulated=False)
    assert codes(found) == ["simulated_not_allowed", "wrong_profile"]
    assert found.appraisal.profile == "simulated"


@pytest.mark.parametrize(("profile", "allow"), [("simulated", False), ("measured", True)])
def test_a_simulated_machine_needs_both_the_profile_and_the_word(profile: str, allow: bool) -> None:
    """One without the other is refused."""
    tpm = ForgedTpm()
    assert codes(judged(tpm, tpm.bundle(BINDING), profile=profile, imitates="measured", allow_simulated=allow))


@pytest.mark.parametrize("profile", ["tee", "gpu-cc", "", "unheard-of"])
def test_a_tpm_does_not_satisfy_another_profile(profile: str) -> None:
    """T17: evidence of one kind for a profile of another."""
    tpm = ForgedTpm()
    assert "wrong_profile" in codes(judged(tpm, tpm.bundle(BINDING), profile=profile, imitates=""))


def test_a_bare_key_does_not_stand_for_a_tpm() -> None:
    """A role that imitates `measured` has its checks run; a bare key cannot pass them."""
    attester, machine = bare()
    policy = policy_of(ForgedTpm().baseline())
    assert codes(judge(attester.collect(BINDING), machine=machine, policy=policy, binding=BINDING, now=NOW)) == [
        "wrong_profile"
    ]


def test_what_a_role_imitates_follows_from_its_baseline() -> None:
    """With a baseline a simulated role imitates `measured`, without one `tee`."""
    tpm = ForgedTpm()
    assert codes(judged(tpm, tpm.bundle(BINDING), imitates="")) == []
    attester, machine = bare()
    policy = Policy("simulated", "", None, True)
    assert codes(judge(attester.collect(BINDING), machine=machine, policy=policy, binding=BINDING, now=NOW)) == []


def test_evidence_for_a_machine_enrolled_otherwise_is_refused() -> None:
    """T17: a TPM's evidence for a bare key's machine, and the other way round."""
    tpm = ForgedTpm()
    attester, machine = bare()
    policy = policy_of(tpm.baseline())
    assert codes(judge(tpm.bundle(BINDING), machine=machine, policy=policy, binding=BINDING, now=NOW)) == [
        "wrong_profile"
    ]
    nobody = Bundle((SimulatedPart("", BINDING, bytes(64)),))
    for bundle in (attester.collect(BINDING), nobody):
        found = judge(bundle, machine=tpm.enrolled(), policy=policy, binding=BINDING, now=NOW)
        assert codes(found) == ["wrong_machine"]


def test_a_bare_keys_statement_is_checked() -> None:
    """Another key, another binding, a changed signature."""
    attester, machine = bare()
    policy = Policy("simulated", "tee", None, True)

    def told(bundle: Bundle) -> list[str]:
        return codes(judge(bundle, machine=machine, policy=policy, binding=BINDING, now=NOW))

    part = attester.collect(BINDING).parts[0]
    assert isinstance(part, SimulatedPart)
    assert told(bare()[0].collect(BINDING)) == ["wrong_machine"]
    assert told(attester.collect(bytes(48))) == ["binding_mismatch"]
    assert told(Bundle((SimulatedPart(part.key, part.binding, bytes(64)),))) == ["quote_signature"]
    relabelled = attester.collect(bytes(48)).parts[0]
    assert isinstance(relabelled, SimulatedPart)
    assert told(Bundle((SimulatedPart(part.key, BINDING, relabelled.signature),))) == ["quote_signature"]


def test_t22_two_parts_do_not_make_one() -> None:
    """T22: a bundle with a part more than the profile has, or with none."""
    tpm = ForgedTpm()
    part = tpm.quote(BINDING)
    assert codes(judged(tpm, Bundle((part, part)))) == ["wrong_profile"]
    assert codes(judged(tpm, Bundle(()))) == ["part_missing"]


def test_without_a_baseline_nothing_is_measured() -> None:
    """Missing is not empty: no baseline is a refusal, and so are all files."""
    tpm = ForgedTpm()
    policy = policy_of(None)
    found = codes(judge(tpm.bundle(BINDING), machine=tpm.enrolled(), policy=policy, binding=BINDING, now=NOW))
    assert set(found) == {"no_baseline", "not_in_policy"}


@pytest.mark.parametrize("index", range(10))
def test_a_baseline_that_leaves_a_boot_pcr_open_is_refused(index: int) -> None:
    """What a profile leaves out is refused, never "not checked"."""
    tpm = ForgedTpm()
    full = tpm.baseline()
    pcrs = {"sha256": {i: v for i, v in full.pcrs["sha256"].items() if i != index}}
    assert codes(judged(tpm, tpm.bundle(BINDING), Baseline(pcrs, full.files))) == ["baseline_incomplete"]


def test_a_pcr_of_the_baseline_must_be_quoted() -> None:
    """Q9: a baseline's PCR 15 is not in the quote."""
    tpm = ForgedTpm()
    full = tpm.baseline()
    more = Baseline({"sha256": {**full.pcrs["sha256"], 15: bytes(32)}}, full.files)
    assert codes(judged(tpm, tpm.bundle(BINDING), more)) == ["pcr_selection"]


def test_a_baselines_digest_is_its_documents() -> None:
    """The digest that an agreement names is the envelope's."""
    baseline = ForgedTpm().baseline()
    envelope = unsigned("Baseline", baseline.as_json())
    assert envelope.digest == baseline.digest
    assert Baseline.from_json(envelope.unverified("Baseline")) == baseline


@pytest.mark.parametrize(
    "files",
    [
        {"": ["sha256:" + "00" * 32]},
        {"/x\0y": ["sha256:" + "00" * 32]},
        {"/" + "x" * 4096: ["sha256:" + "00" * 32]},
        {"/x": []},
        {"/x": "sha256:" + "00" * 32},
        {"/x": ["sha1:" + "00" * 20]},
        {"/x": ["sha256:" + "00" * 20]},
        {"/x": ["sha256:" + "00" * 31 + "0G"]},
        {"/x": ["sha256:" + "11" * 32, "sha256:" + "00" * 32]},
        {"/x": ["sha256:" + "00" * 32] * 2},
    ],
)
def test_a_malformed_file_of_a_baseline_is_refused(files: dict[str, object]) -> None:
    """I26 and weak digests cannot even be agreed on."""
    with pytest.raises(UsageError):
        Baseline.from_json({"pcrs": {}, "files": files})


@pytest.mark.parametrize(
    "pcrs",
    [
        {"sha1": {"0": "00" * 20}},
        {"sha256": {"0": "00" * 20}},
        {"sha256": {"00": "00" * 32}},
        {"sha256": {"24": "00" * 32}},
        {"sha256": {"-1": "00" * 32}},
        {"sha256": {"٣": "00" * 32}},
        {"sha256": {"0": "AA" * 32}},
        {"sha256": {"0": "zz" * 32}},
        {"sha256": []},
        [],
    ],
)
def test_malformed_pcrs_of_a_baseline_are_refused(pcrs: object) -> None:
    """Q29: wrong sizes, weak banks, other spellings of an index."""
    with pytest.raises(UsageError):
        Baseline.from_json({"pcrs": pcrs, "files": {}})


def test_proof_cannot_be_made_up() -> None:
    """Only verification makes a Verified, only appraisal an Appraisal."""
    with pytest.raises(TypeError):
        Verified("x", object())
    with pytest.raises(TypeError):
        Appraisal("measured", "", "ek:x", bytes(48), {}, "", (), None)


def test_an_appraisal_names_the_baseline_it_was_made_under() -> None:
    """`decide` compares it, so that an appraisal under an older baseline is worth nothing."""
    tpm = ForgedTpm()
    assert judged(tpm, tpm.bundle(BINDING)).appraisal.baseline == tpm.baseline().digest
    attester, machine = bare()
    policy = Policy("simulated", "tee", None, True)
    found = judge(attester.collect(BINDING), machine=machine, policy=policy, binding=BINDING, now=NOW)
    assert found.appraisal.baseline == ""


def test_unverified_evidence_without_a_reason_is_a_bug() -> None:
    """Nothing is refused without a reason."""
    with pytest.raises(ValueError, match="reason"):
        appraise_unverified((), machine=bare()[1])


@pytest.mark.parametrize(
    ("member", "value"),
    [("key", 5), ("key", "x" * 201), ("binding", "A" * 100), ("signature", None), ("binding", "="), ("kind", "tpm")],
)
def test_a_malformed_statement_is_refused(member: str, value: object) -> None:
    """Bounded and strict, as the TPM's part."""
    document = bare()[0].collect(BINDING).as_json()
    document["parts"][0][member] = value
    with pytest.raises(UsageError):
        Bundle.from_json(document)


@pytest.mark.parametrize("parts", [[], {}, None, [{"kind": "tee"}], [{}], ["x"]])
def test_malformed_parts_are_refused(parts: object) -> None:
    """T17: no part, or of a kind that is not known."""
    with pytest.raises(UsageError):
        Bundle.from_json({"version": 1, "parts": parts})


def test_too_many_parts_are_refused() -> None:
    """D4: bounded."""
    document = bare()[0].collect(BINDING).as_json()
    with pytest.raises(UsageError):
        Bundle.from_json({"version": 1, "parts": document["parts"] * 25})


@pytest.mark.parametrize("version", [0, 2, True, "1", None])
def test_t15_another_version_is_refused(version: object) -> None:
    """T15: no check is skipped by naming another version."""
    document = bare()[0].collect(BINDING).as_json()
    with pytest.raises(UsageError):
        Bundle.from_json({**document, "version": version})


@pytest.mark.parametrize("offset", [-1, True, "0", 1.0, None, 2**40])
def test_i22_a_malformed_offset_is_refused(offset: object) -> None:
    """I22: negative, of another type, or past any log."""
    document = ForgedTpm().bundle(BINDING).as_json()
    document["parts"][0]["ima_offset"] = offset
    with pytest.raises(UsageError):
        Bundle.from_json(document)


@pytest.mark.parametrize("pcrs", [[], {"md5": {}}, {"sha256": {"0": 5}}, {"sha256": {"0": "AA"}}, {"sha256": None}])
def test_q29_malformed_pcr_values_are_refused(pcrs: object) -> None:
    """Q29, D8: unknown banks, wrong types, wrong lengths."""
    document = ForgedTpm().bundle(BINDING).as_json()
    document["parts"][0]["pcrs"] = pcrs
    with pytest.raises(UsageError):
        Bundle.from_json(document)
