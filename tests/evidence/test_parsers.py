"""Parsers are total and bounded: every bit flip is refused, no truncation or junk makes another exception (D8, D9)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.judging import BINDING, NOW, codes, judged, policy_of
from perunml.evidence.baseline import Baseline
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.ima.appraise import appraise_log
from perunml.evidence.ima.parse import parse_log
from perunml.evidence.judge import judge
from perunml.evidence.tpm.attest import parse_attest
from perunml.evidence.tpm.ek import verify_ek
from perunml.evidence.tpm.public import parse_public
from perunml.evidence.tpm.signature import parse_signature
from perunml.testing.faults import flip
from perunml.testing.forge import ForgedTpm
from perunml.testing.imalog import ima_line
from perunml.wire.errors import EvidenceRefusal, PerunError

TPM = ForgedTpm()
PART = TPM.quote(BINDING)
RSA = ForgedTpm(ak="rsa", ek="rsa")
RSA_PART = RSA.quote(BINDING)
LOG = TPM.ima_log


@pytest.mark.parametrize(("tpm", "part"), [(TPM, PART), (RSA, RSA_PART)], ids=["ecc", "rsa"])
def test_q2_every_bit_flip_of_the_attested_bytes_is_refused(tpm: ForgedTpm, part: TpmPart) -> None:
    """Q2: all bits of a TPMS_ATTEST."""
    baseline = tpm.baseline()
    for bit in range(len(part.attest) * 8):
        changed = replace(part, attest=flip(part.attest, bit))
        found = judged(tpm, Bundle((changed,)), baseline)
        assert codes(found)
        assert not found.appraisal.binding


@pytest.mark.parametrize(("tpm", "part"), [(TPM, PART), (RSA, RSA_PART)], ids=["ecc", "rsa"])
def test_q1_every_bit_flip_of_the_signature_is_refused(tpm: ForgedTpm, part: TpmPart) -> None:
    """Q1: all bits of a TPMT_SIGNATURE."""
    baseline = tpm.baseline()
    for bit in range(len(part.signature) * 8):
        changed = replace(part, signature=flip(part.signature, bit))
        found = judged(tpm, Bundle((changed,)), baseline)
        assert codes(found)
        assert not found.appraisal.binding


@pytest.mark.parametrize(("tpm", "part"), [(TPM, PART), (RSA, RSA_PART)], ids=["ecc", "rsa"])
def test_every_bit_flip_of_the_attestation_keys_public_area_is_refused(tpm: ForgedTpm, part: TpmPart) -> None:
    """K10: a key that differs in any bit from the one that signed."""
    policy = policy_of(tpm.baseline())
    for bit in range(len(tpm.ak_public) * 8):
        machine = replace(tpm.enrolled(), ak=flip(tpm.ak_public, bit), ek=b"")
        assert codes(judge(Bundle((part,)), machine=machine, policy=policy, binding=BINDING, now=NOW))


@pytest.mark.parametrize("tpm", [TPM, RSA], ids=["ecc", "rsa"])
def test_every_bit_flip_of_the_eks_public_area_is_refused(tpm: ForgedTpm) -> None:
    """K3: the certificate is for the very key."""
    enrolment = tpm.enrolment()
    for bit in range(len(tpm.ek_public) * 8):
        with pytest.raises(EvidenceRefusal):
            verify_ek(
                enrolment["ek_certificate"],
                enrolment["ek_chain"],
                flip(tpm.ek_public, bit),
                vendor_roots=[],
                simulated_roots=[tpm.ca.root],
                now=1_800_000_000,
            )


CODES = ("", "non_canonical", "weak_scheme", "not_tpm_generated", "wrong_attest_type", "pcr_selection")


def outcome(parse: Callable[[Any], Any], data: object) -> tuple[str, Any]:
    """The code of a refusal, or an empty one and the value; any other exception is the test's failure."""
    try:
        return "", parse(data)
    except PerunError as exc:
        return exc.code, None


PARSERS: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {
    "attest": (parse_attest, [PART.attest]),
    "signature": (parse_signature, [PART.signature, RSA_PART.signature]),
    "public": (parse_public, [TPM.ak_public, TPM.ek_public, RSA.ak_public, RSA.ek_public]),
}


@pytest.mark.parametrize("name", PARSERS)
def test_every_truncation_is_refused(name: str) -> None:
    """Every proper prefix, and every byte appended, has a coded refusal and no other exception."""
    parse, samples = PARSERS[name]
    for sample in samples:
        parse(sample)
        for size in range(len(sample)):
            with pytest.raises(EvidenceRefusal):
                parse(sample[:size])
        with pytest.raises(EvidenceRefusal):
            parse(sample + b"\0")


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_junk_is_refused_or_parsed_and_never_crashes(name: str, data: st.DataObject) -> None:
    """Random bytes, and right ones with a random piece replaced."""
    parse, samples = PARSERS[name]
    sample = data.draw(st.sampled_from(samples))
    start = data.draw(st.integers(0, len(sample)))
    piece = data.draw(st.binary(max_size=80))
    for junk in (piece, sample[:start] + piece + sample[start + len(piece) :], sample[:start] + piece):
        assert outcome(parse, junk)[0] in CODES


def test_every_truncation_of_a_log_is_refused() -> None:
    """I1, E7: cut inside a line it does not parse, cut between lines it does not replay."""
    pcrs = {"sha256": dict(enumerate(TPM.pcrs["sha256"]))}
    baseline = TPM.baseline()
    for size in range(len(LOG)):
        found = appraise_log(LOG[:size], 0, pcrs, baseline.at(NOW))
        assert found.reasons[0].code in ("non_canonical", "pcr10_mismatch")


def test_every_bit_flip_of_a_log_is_refused() -> None:
    """I13 and the rest: all bits of all columns, those that no PCR covers among them."""
    pcrs = {"sha256": dict(enumerate(TPM.pcrs["sha256"]))}
    baseline = TPM.baseline()
    for bit in range(len(LOG) * 8):
        assert appraise_log(flip(LOG, bit), 0, pcrs, baseline.at(NOW)).reasons


@given(junk=st.binary(max_size=300), at=st.integers(0, len(LOG)))
@settings(max_examples=200, deadline=None)
def test_junk_in_a_log_never_crashes(junk: bytes, at: int) -> None:
    """I25: lengths of 2^32 allocate nothing; whatever is wrong is a reason."""
    pcrs = {"sha256": dict(enumerate(TPM.pcrs["sha256"]))}
    for log in (junk, LOG[:at] + junk, LOG[:at] + junk + LOG[at:]):
        found = appraise_log(log, 0, pcrs, TPM.baseline().at(NOW))
        assert found.reasons or log.startswith(LOG)


paths = st.binary(min_size=0, max_size=60).filter(lambda p: b"\0" not in p)


@given(lines=st.lists(st.tuples(paths, st.binary(min_size=32, max_size=32)), max_size=8), mark=st.integers(0, 8))
@settings(max_examples=100, deadline=None)
def test_written_logs_read_back(lines: list[tuple[bytes, bytes]], mark: int) -> None:
    """Round trip: any path without NUL, any digest, and the count of lines before a mark between lines."""
    encoded = [ima_line(path, digest).encoded for path, digest in lines]
    mark = min(mark, len(encoded))
    found, before = parse_log(b"".join(encoded), len(b"".join(encoded[:mark])))
    assert [(line[4], line[3]) for line in found] == [(p, b"sha256:\0" + d) for p, d in lines]
    assert before == mark


def test_a_mark_inside_a_line_is_refused() -> None:
    """I22: what was accepted before ends where a line ends."""
    with pytest.raises(EvidenceRefusal):
        parse_log(LOG, 5)
    with pytest.raises(EvidenceRefusal):
        parse_log(LOG, len(LOG) + 1)


def test_a_log_of_too_many_lines_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """I24: the number of lines is bounded."""
    monkeypatch.setattr("perunml.evidence.ima.parse.MAX_LINES", 3)
    with pytest.raises(EvidenceRefusal) as caught:
        parse_log(LOG)
    assert caught.value.code == "non_canonical"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_bundle_with_anything_in_any_place_is_malformed_or_the_same(data: st.DataObject) -> None:
    """Strict documents: one member replaced by any JSON value."""
    bundle = Bundle((PART,)).as_json()
    part = bundle["parts"][0]
    target = data.draw(st.sampled_from([bundle, part, part["pcrs"], part["pcrs"]["sha256"]]))
    key = data.draw(st.sampled_from(sorted(target)) | st.text(max_size=6))
    target[key] = data.draw(json_values)
    code, again = outcome(Bundle.from_json, bundle)
    assert code in ("", "malformed")
    assert code or Bundle.from_json(again.as_json()) == again


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_baseline_with_anything_in_any_place_is_malformed_or_the_same(data: st.DataObject) -> None:
    """As for bundles."""
    document = TPM.baseline().as_json()
    target = data.draw(st.sampled_from([document, document["pcrs"], document["pcrs"]["sha256"], document["files"]]))
    key = data.draw(st.sampled_from(sorted(target)) | st.text(max_size=6))
    target[key] = data.draw(json_values)
    code, again = outcome(Baseline.from_json, document)
    assert code in ("", "malformed")
    assert code or Baseline.from_json(again.as_json()) == again


@given(document=json_values)
@settings(max_examples=100, deadline=None)
def test_any_json_value_is_refused_as_evidence(document: object) -> None:
    """D2: no value makes another exception."""
    for read in (Bundle.from_json, Baseline.from_json):
        with pytest.raises(PerunError) as caught:
            read(document)
        assert caught.value.code == "malformed"


@pytest.mark.parametrize(
    ("name", "fields"),
    [(b"x" * 129, 0), (b"ima-sig", 64 * 1024)],
    ids=["template name of 129 bytes", "signature of 64 KiB"],
)
def test_d4_lines_past_the_bounds_are_refused(name: bytes, fields: int) -> None:
    """D4: lengths that would fit the log, but no kernel writes."""
    data = ima_line(b"/bin/x", bytes(32)).data + fields.to_bytes(4, "little") + bytes(fields)
    line = (10).to_bytes(4, "little") + bytes(20) + len(name).to_bytes(4, "little") + name
    with pytest.raises(EvidenceRefusal) as caught:
        parse_log(line + len(data).to_bytes(4, "little") + data)
    assert caught.value.code == "non_canonical"


def field(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


DIGEST_FIELD = field(b"sha256:\0" + bytes(32))


@pytest.mark.parametrize(
    "data",
    [
        DIGEST_FIELD + field(b""),
        DIGEST_FIELD + field(b"/bin/x"),
        DIGEST_FIELD + field(b"/bin/x\1"),
        DIGEST_FIELD + field(b"/bin/x\0\0"),
        DIGEST_FIELD + field(b"/bin/x\0") + b"\0",
        DIGEST_FIELD + field(b"/bin/x\0") + field(b""),
        DIGEST_FIELD + b"\xff\xff\xff\xff/bin/x\0",
        b"\xff\xff\xff\xff" + DIGEST_FIELD[4:] + field(b"/bin/x\0"),
        DIGEST_FIELD,
        b"",
    ],
    ids=[
        "no path",
        "no NUL",
        "other end",
        "NULs",
        "trailing",
        "a field more",
        "long path",
        "long digest",
        "cut",
        "none",
    ],
)
def test_i16_template_data_of_another_form_are_refused(data: bytes) -> None:
    """I16, I25: a path is one string with its NUL, and the fields fill the data."""
    line = (10).to_bytes(4, "little") + bytes(20) + field(b"ima-ng")
    parse_log(line + field(DIGEST_FIELD + field(b"/bin/x\0")))
    with pytest.raises(EvidenceRefusal) as caught:
        parse_log(line + field(data))
    assert caught.value.code == "non_canonical"


@pytest.mark.parametrize("template", [b"ima-sig", b"ima-ngv2", b"ima-sigv2"])
def test_i15_listed_data_under_another_templates_name_are_read_by_that_template(template: bytes) -> None:
    """The short way for lines known byte by byte is for ima-ng alone: no digest covers a template's name."""
    name = len(b"ima-ng").to_bytes(4, "little") + b"ima-ng"
    at = LOG.rindex(name)
    renamed = LOG[:at] + len(template).to_bytes(4, "little") + template + LOG[at + len(name) :]
    pcrs = {"sha256": dict(enumerate(TPM.pcrs["sha256"]))}
    assert not appraise_log(LOG, 0, pcrs, TPM.baseline().at(NOW)).reasons
    found = appraise_log(renamed, 0, pcrs, TPM.baseline().at(NOW))
    # ima-ngv2 has the same fields in the same places, and says no more than ima-ng does
    assert [reason.code for reason in found.reasons] == ([] if template == b"ima-ngv2" else ["non_canonical"])
