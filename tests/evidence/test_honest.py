"""What must be accepted: an honest machine that is refused is a defect too."""

from __future__ import annotations

import pytest

from evidence.judging import BINDING, NOW, codes, fresh_binding, judged, policy_of
from perunml.attesters.simulated import SimulatedAttester
from perunml.evidence.bundle import Bundle
from perunml.evidence.judge import judge
from perunml.evidence.policy import Machine, Policy
from perunml.testing.forge import ForgedTpm
from perunml.wire.identity import SigningKey


@pytest.mark.parametrize("ak", ["p256", "p384", "rsa", "rsapss"])
@pytest.mark.parametrize("banks", [("sha256",), ("sha384",), ("sha256", "sha384"), ("sha1", "sha256")], ids="+".join)
def test_q32_honest_keys_and_banks_are_accepted(ak: str, banks: tuple[str, ...]) -> None:
    """Q32: RSASSA, RSAPSS, ECDSA on P-256 and P-384, SHA-256 and SHA-384 banks, also beside SHA-1."""
    tpm = ForgedTpm(ak=ak, banks=banks)
    bundle = Bundle.from_json(tpm.bundle(BINDING).as_json())
    judgement = judged(tpm, bundle)
    assert codes(judgement) == []
    assert judgement.appraisal.binding == BINDING
    assert judgement.appraisal.profile == "simulated"
    assert judgement.appraisal.imitates == "measured"
    assert judgement.appraisal.boot == "tpm:1.0"
    assert judgement.appraisal.machine == tpm.machine


@pytest.mark.parametrize("hash_name", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("ak", ["p256", "p384", "rsa", "rsapss"])
def test_q32_every_accepted_scheme_signs_with_every_accepted_hash(ak: str, hash_name: str) -> None:
    """Q32: the digest of the PCRs is of the scheme's hash, whatever the bank is, SHA-512's among them."""
    tpm = ForgedTpm(ak=ak, hash=hash_name, banks=("sha256", "sha512"))
    assert codes(judged(tpm, tpm.bundle(BINDING))) == []


@pytest.mark.parametrize("template", ["ima-ng", "ima-sig", "ima-ngv2", "ima-sigv2"])
def test_the_templates_that_are_read_are_accepted(template: str) -> None:
    """Each template with its fields, paths with spaces (I16) among them."""
    tpm = ForgedTpm(template=template)
    assert codes(judged(tpm, tpm.bundle(BINDING))) == []


def test_a_sha512_file_digest_that_is_listed_is_accepted() -> None:
    """File digests stronger than SHA-256 count where the baseline lists them."""
    import hashlib

    tpm = ForgedTpm()
    baseline = tpm.baseline()
    digest = "sha512:" + hashlib.sha512(b"content").hexdigest()
    listed = type(baseline)(baseline.pcrs, {**baseline.files, "/bin/x": frozenset([digest])})
    tpm.measure("/bin/x", b"content", algorithm="sha512")
    assert codes(judged(tpm, tpm.bundle(BINDING), listed)) == []


def test_i16_a_path_with_a_newline_is_accepted_when_it_is_listed_exactly() -> None:
    """I16: the path is compared as bytes; nothing is ever split at a newline."""
    tpm = ForgedTpm(files={"/opt/two\nlines": b"content"})
    assert codes(judged(tpm, tpm.bundle(BINDING))) == []


def test_i31_either_digest_of_an_update_is_accepted() -> None:
    """I31: a baseline may allow a file before and after its update."""
    tpm = ForgedTpm(files={"/bin/x": b"old"})
    import hashlib

    baseline = tpm.baseline()
    both = frozenset("sha256:" + hashlib.sha256(content).hexdigest() for content in (b"old", b"new"))
    tpm.measure("/bin/x", b"new")
    assert codes(judged(tpm, tpm.bundle(BINDING), type(baseline)(baseline.pcrs, {"/bin/x": both}))) == []


def test_a_few_honest_lines_after_the_quote_are_accepted() -> None:
    """I8: the log is read after the quote, so agreed files may have been loaded in between."""
    from dataclasses import replace

    tpm = ForgedTpm(files={"/bin/x": b"x"})
    part = tpm.quote(BINDING)
    tpm.measure("/bin/x", b"x")
    judgement = judged(tpm, Bundle((replace(part, ima_log=tpm.ima_log),)))
    assert codes(judgement) == []
    assert judgement.appraisal.claims["entries"] == 3
    assert judgement.appraisal.claims["entries_proven"] == 2


def test_a_real_tpm_is_measured() -> None:
    """A machine under a vendor's root achieves `measured`, and may stand where a simulated one would do."""
    tpm = ForgedTpm()
    machine = tpm.enrolled(simulated=False)
    for policy in (
        Policy("measured", "", tpm.baseline(), allow_simulated=False),
        policy_of(tpm.baseline()),
    ):
        judgement = judge(tpm.bundle(BINDING), machine=machine, policy=policy, binding=BINDING, now=NOW)
        assert codes(judgement) == []
        assert (judgement.appraisal.profile, judgement.appraisal.imitates) == ("measured", "")


def test_a_bare_key_is_simulated_and_says_so() -> None:
    """A simulated part satisfies only a policy that literally says so."""
    attester = SimulatedAttester.of(SigningKey.generate())
    binding = fresh_binding()
    machine = Machine(attester.machine, True, key=attester.enrolment()["key"])
    bundle = Bundle.from_json(attester.collect(binding).as_json())
    judgement = judge(bundle, machine=machine, policy=Policy("simulated", "tee", None, True), binding=binding, now=NOW)
    assert codes(judgement) == []
    assert (judgement.appraisal.profile, judgement.appraisal.imitates) == ("simulated", "tee")
    assert judgement.appraisal.binding == binding
