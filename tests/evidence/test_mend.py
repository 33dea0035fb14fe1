"""The smallest change that would admit a refused machine: applied to the baseline, it does admit it, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from evidence.judging import BINDING, judged
from perunml.evidence import codes
from perunml.evidence.baseline import Baseline
from perunml.evidence.mend import lines, mends
from perunml.evidence.rules import ImaRules
from perunml.testing.forge import ForgedTpm
from perunml.testing.imalog import buffer_line
from perunml.wire.rules import Reason

DIGEST = "sha256:" + "5a" * 32
OTHER = "sha256:" + "6b" * 32


def mended(baseline: Baseline, added: dict[str, Any]) -> Baseline:
    """The baseline with the lines added: a file's digest beside the others, a PCR's value in place of the other."""
    files = {**baseline.files}
    for path, digests in added.get("files", {}).items():
        files[path] = files.get(path, frozenset()) | set(digests)
    pcrs = {bank: {**values} for bank, values in baseline.pcrs.items()}
    for bank, values in added.get("pcrs", {}).items():
        pcrs[bank] |= {int(index): bytes.fromhex(value) for index, value in values.items()}
    return replace(baseline, files=files, pcrs=pcrs)


def test_the_lines_admit_the_refused_machine() -> None:
    """A new file, a changed file and another boot: refused, then admitted by what was proposed."""
    tpm = ForgedTpm()
    agreed = tpm.baseline()
    tpm.reboot()
    tpm.measure("/opt/new tool", b"new")
    tpm.measure("/usr/bin/python3", b"another interpreter")
    wrong = replace(agreed, pcrs={"sha256": {**agreed.pcrs["sha256"], 4: bytes(32)}})
    refused = judged(tpm, tpm.bundle(BINDING), wrong).appraisal.reasons
    assert {reason.code for reason in refused} == {"pcr_mismatch", "not_in_policy"}
    found = mends([Reason.from_json(reason.as_json()) for reason in refused])  # as a party gets them
    assert {mend.who for mend in found} == {"parties"}
    added = lines(found)
    assert set(added["files"]) == {"/opt/new tool", "/usr/bin/python3"}
    assert judged(tpm, tpm.bundle(BINDING), mended(wrong, added)).appraisal.reasons == ()
    tpm.measure("/opt/another", b"x")
    assert judged(tpm, tpm.bundle(BINDING), mended(wrong, added)).appraisal.reasons != ()


@pytest.mark.parametrize("path", ["/a\nb", "/" + "x" * 250, "/back\\slash", "/\xe9\u202e"])
def test_i16_a_path_that_is_not_shown_as_it_is_gives_no_line(path: str) -> None:
    """I16: an escape or a cut is never taken for the path itself; the log has it."""
    tpm = ForgedTpm()
    agreed = tpm.baseline()
    tpm.measure(path, b"new")
    found = mends(judged(tpm, tpm.bundle(BINDING), agreed).appraisal.reasons)
    assert [mend.who for mend in found] == ["parties"]
    assert lines(found) == {}
    assert "log" in found[0].sentence


@pytest.mark.parametrize(
    ("reason", "who", "added"),
    [
        (
            Reason(codes.BOOT_EVENT, "event 7, PCR 4: a started image is not agreed", seen=DIGEST),
            "parties",
            {"boot": {"applications": [DIGEST]}},
        ),
        (
            Reason(codes.BOOT_EVENT, "event 9, PCR 9: an event is not agreed", seen=f"{DIGEST} (text)"),
            "parties",
            {"boot": {"loaded": [DIGEST]}},
        ),
        (
            Reason(
                codes.BOOT_EVENT, "event 3, PCR 7: what vouched for an image is not agreed", seen=f"{DIGEST} ({OTHER})"
            ),
            "parties",
            {"boot": {"authorities": [OTHER]}},
        ),
        (Reason(codes.KERNEL_CMDLINE, "the kernel's command line lacks agreed words", expected="a b"), "operator", {}),
        (Reason(codes.IMA_VIOLATION, "line 3 of the IMA log is a violation", seen="/x"), "parties", {"ima": {"violations": ["/x"]}}),
        (
            Reason(codes.IMA_KEYRING, "a key entered the keyring .ima and is not agreed", seen=DIGEST),
            "parties",
            {"ima": {"keyrings": [DIGEST]}},
        ),
        (
            Reason(codes.IMA_POLICY, "ima_policy_loaded: an IMA policy that is not agreed", seen=DIGEST),
            "parties",
            {"ima": {"policies": [DIGEST]}},
        ),
        (Reason(codes.IMA_REQUIRED, "/x was not measured", seen="9 proven lines without it"), "operator", {}),
        (
            Reason(codes.IMA_SIGNATURE, "/x was loaded and is not agreed; its signature is by no key", seen=DIGEST),
            "parties",
            {"files": {"/x": [DIGEST]}},
        ),
        (Reason(codes.FIRMWARE_DENIED, "the policy denies the TPM's firmware", seen="0" * 16), "operator", {}),
        (Reason(codes.SECURE_BOOT_OFF, "Secure Boot was not on", expected="on", seen="off"), "operator", {}),
    ],
)  # fmt: skip
def test_each_kind_of_reason_has_its_change(reason: Reason, who: str, added: dict[str, Any]) -> None:
    """What the operator does, or the line that the parties would agree on."""
    found = mends([reason, reason])
    assert [mend.who for mend in found] == [who]
    assert lines(found) == added
    assert found[0].as_json()["code"] == reason.code


def test_reasons_of_other_forms_give_nothing() -> None:
    """A text that another manager wrote, a digest that is none: no change is made up."""
    for reason in (
        Reason(codes.NOT_IN_POLICY, "and 7 more lines of the IMA log are refused"),
        Reason(codes.NOT_IN_POLICY, "/x was loaded and is not agreed", seen="sha256:xyz"),
        Reason(codes.PCR_MISMATCH, "PCR x (sha1) has another value than agreed", seen="00"),
        Reason(codes.BOOT_EVENT, "event 1, PCR 7: what vouched for an image is not agreed", seen=DIGEST),
        Reason(codes.QUOTE_SIGNATURE, "anything"),
        Reason(codes.IMA_POLICY, "no agreed IMA policy is among the proven lines"),
        Reason(codes.IMA_KEYRING, "a key entered the keyring .ima and is not agreed", seen="sha512:" + "0" * 128),
        Reason(codes.IMA_REQUIRED, "and 7 more files were not measured"),
    ):
        assert mends([reason]) == ()


def test_people_read_the_change_with_the_refusal() -> None:
    """Wherever the command line tells a refused machine's reasons: before the command that mends it."""
    from perunml.cli.voice import four_parts

    lines = four_parts(Reason(codes.NOT_IN_POLICY, "/x was loaded and is not agreed", seen=DIGEST))
    assert f"  change   by the parties: list /x with {DIGEST}" in lines
    assert not any("change" in line for line in four_parts(Reason(codes.QUOTE_SIGNATURE, "anything")))


def test_a_key_and_a_policy_are_admitted_by_the_lines_proposed() -> None:
    """As they are told by the log's own judge."""
    tpm = ForgedTpm()
    agreed = tpm.baseline()
    tpm.log(buffer_line(b".ima", b"certificate"))
    tpm.log(buffer_line(b"ima_policy_loaded", b"policy"))
    added = lines(mends(judged(tpm, tpm.bundle(BINDING), agreed).appraisal.reasons))
    assert set(added["ima"]) == {"keyrings", "policies"}
    made = replace(agreed, ima=ImaRules.from_json(added["ima"]))
    assert judged(tpm, tpm.bundle(BINDING), made).appraisal.reasons == ()
