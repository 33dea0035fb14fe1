"""Real captured evidence: a measured VM's quotes and logs, honest and tampered with, and quotes of physical machines."""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from evidence.judging import NOW, codes
from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.appraise import TpmFindings, appraise_parts
from perunml.evidence.baseline import Baseline
from perunml.evidence.bootlog.judge import BootFindings
from perunml.evidence.bundle import TpmPart
from perunml.evidence.ima.appraise import appraise_log
from perunml.evidence.ima.lines import LineJudge
from perunml.evidence.ima.parse import field_of, parse_log
from perunml.evidence.ima.replay import VIOLATION, replay
from perunml.evidence.ima.state import Noted
from perunml.evidence.judge import Judgement
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.rules import ImaRules
from perunml.evidence.tpm.attest import parse_attest
from perunml.evidence.tpm.credential import make_credential
from perunml.evidence.tpm.ek import verify_ek
from perunml.evidence.tpm.keys import check_ak, qualified_names
from perunml.evidence.tpm.quote import verify_quote
from perunml.evidence.tpm.signature import parse_signature
from perunml.evidence.tpm.template import check_ek_template
from perunml.wire.errors import EvidenceRefusal

pytestmark = needs_vectors

VM = FOLDER / "measured-vm"
HONEST = ("A61", "B61-ima-ng", "H612-3banks", "M612-uki", "N612-uki-secureboot", "R612-verity")
CASES = (*HONEST, "C61-nobody", "D61-violation", "F61-policy")
TAMPERED = {
    "t01-ima-drop-entry": "pcr10_mismatch",
    "t02-ima-digest-changed": "ima_template_hash",
    "t03-ima-digest-changed-consistent": "pcr10_mismatch",
    "t04-ima-swap": "pcr10_mismatch",
    "t05-ima-truncated": "non_canonical",
    "t06-ima-extra-tail": "not_in_policy",
    "t07-ima-empty": "pcr10_mismatch",
    "t08-ima-huge-len": "non_canonical",
    "t10-ima-fake-violation": "pcr10_mismatch",
    "t18-quote-nonce-edited": "quote_signature",
    "t20-sig-flipped": "quote_signature",
}


def expected(case: str) -> dict[str, object]:
    found = json.loads((VM / case / "expected.json").read_text())
    assert isinstance(found, dict)
    return found


def pcrs_of(case: str) -> dict[int, bytes]:
    values = expected(case)["pcrs_sha256"]
    assert isinstance(values, dict)
    return {int(index): bytes.fromhex(value) for index, value in values.items()}


def baseline_of(case: str) -> Baseline:
    """As parties would record it from this very boot: PCRs 0 to 9, and each file that it loaded (no violations)."""
    lines, _ = parse_log((VM / case / "ima.bin").read_bytes())
    files: dict[str, set[str]] = {}
    for _, template_hash, _, measured, path, _ in lines[1:]:
        if template_hash != VIOLATION:
            algorithm, _, digest = measured.partition(b":\0")
            files.setdefault(path.decode(), set()).add(f"{algorithm.decode()}:{digest.hex()}")
    pcrs = {index: value for index, value in pcrs_of(case).items() if index < 10}
    return Baseline({"sha256": pcrs}, {path: frozenset(digests) for path, digests in files.items()})


def judged(folder: Path, baseline: Baseline, pcrs: Mapping[int, bytes], nonce: bytes, key: str = "ecc") -> Judgement:
    """As `judge` does it; only that these quotes sign a bare nonce where ours sign a binding's digest."""
    ak_public, ek_public = ((folder / f"{name}.tpm2b_public").read_bytes() for name in (f"ak_{key}", "ek_rsa"))
    ak = check_ak(ak_public)
    part = TpmPart(
        (folder / f"quote_{key}.msg").read_bytes(), (folder / f"quote_{key}.sig").read_bytes(), {"sha256": pcrs}
    )
    quote = verify_quote(part, ak, signers=qualified_names(ak, check_ek_template(ek_public)), extra_data=nonce)
    log = (folder / "ima.bin").read_bytes()
    findings = appraise_log(log, 0, quote.value.pcrs, baseline.at(NOW))
    machine = Machine("ek:sha256:x", True, ak_public, ek=ek_public)
    policy = Policy("simulated", "measured", baseline, True)
    found = TpmFindings(quote, BootFindings(None, ()), findings)
    return Judgement(
        appraise_parts(found, None, None, machine=machine, policy=policy, binding=bytes(48), now=NOW),
        None,
        log,
    )


def nonce_of(case: str) -> bytes:
    return bytes.fromhex((VM / case / "nonce.hex").read_text().strip())


@pytest.mark.parametrize("case", HONEST)
def test_an_honest_vm_is_accepted(case: str) -> None:
    """Q32: quote, clock, IMA log and boot_aggregate of a real kernel, in four templates."""
    found = judged(VM / case, baseline_of(case), pcrs_of(case), nonce_of(case))
    assert codes(found) == []
    assert found.appraisal.claims["entries"] == expected(case)["ima_entries"]
    assert found.appraisal.claims["entries_proven"] == expected(case)["ima_entries_covered_by_quote"]
    assert found.appraisal.claims["reset_count"] == expected(case)["clock"]["resetCount"]  # type: ignore[index]


@pytest.mark.parametrize("case", CASES)
def test_the_rsa_quote_of_a_vm_verifies(case: str) -> None:
    """Q32: RSASSA by a TPM of another make than our forge. Its PCR 10 is later than the ECC quote's."""
    folder = VM / case
    ak = check_ak((folder / "ak_rsa.tpm2b_public").read_bytes())
    attest = parse_attest((folder / "quote_rsa.msg").read_bytes())
    log = (folder / "ima_after_rsa.bin").read_bytes()
    lines, _ = parse_log(log)
    values = pcrs_of(case)
    pcr10 = bytes(32)
    for _, template_hash, data, *_ in lines:  # find the prefix whose PCR 10 the quote digests
        extended = b"\xff" * 32 if template_hash == VIOLATION else hashlib.sha256(data).digest()
        pcr10 = hashlib.sha256(pcr10 + extended).digest()
        told = {**values, 10: pcr10}
        if hashlib.sha256(b"".join(told[i] for i in sorted(told))).digest() == attest.pcr_digest:
            break
    part = TpmPart((folder / "quote_rsa.msg").read_bytes(), (folder / "quote_rsa.sig").read_bytes(), {"sha256": told})
    ek = check_ek_template((folder / "ek_rsa.tpm2b_public").read_bytes())
    assert verify_quote(part, ak, signers=qualified_names(ak, ek), extra_data=nonce_of(case)).value.pcrs


def test_i12_a_vm_with_violations_is_refused() -> None:
    """I12: open-writers and ToMToU violations of a real kernel; their replay works, and they are refused."""
    case = "D61-violation"
    found = judged(VM / case, baseline_of(case), pcrs_of(case), nonce_of(case))
    assert codes(found) == ["ima_violation"] * 2


def test_another_boots_baseline_refuses_a_vm() -> None:
    """A VM with another kernel and command line is not the agreed one."""
    found = judged(VM / "M612-uki", baseline_of("A61"), pcrs_of("M612-uki"), nonce_of("M612-uki"))
    assert {"pcr_mismatch", "not_in_policy"} <= set(codes(found))


def test_the_tampered_corpus_is_whole() -> None:
    """Every tampered case but the boot log's (t11, which is not read yet) has an expectation here."""
    found = {path.name for path in (VM / "tampered").iterdir()}
    assert found - {"t11-bios-digest"} == set(TAMPERED)


@pytest.mark.parametrize("case", TAMPERED)
def test_a_tampered_vm_is_refused(case: str) -> None:
    """Each variant of A61 with its own code."""
    folder = VM / "tampered" / case
    try:
        found = codes(judged(folder, baseline_of("A61"), pcrs_of("A61"), nonce_of("A61")))
    except EvidenceRefusal as exc:
        found = [reason.code for reason in exc.reasons]
    assert TAMPERED[case] in found


def test_t06_a_line_after_the_prefix_admits_nothing() -> None:
    """Invariant 3: even when the baseline lists it, a line after the quoted prefix is told and not proven."""
    folder = VM / "tampered" / "t06-ima-extra-tail"
    lines, _ = parse_log((folder / "ima.bin").read_bytes())
    pcrs = {"sha256": pcrs_of("A61")}
    found = appraise_log((folder / "ima.bin").read_bytes(), 0, pcrs, baseline_of("A61").at(NOW))
    assert found.lines == len(lines) == found.proven + 1


@pytest.mark.parametrize("case", CASES)
def test_a_vms_ek_leads_to_the_ca_that_made_it(case: str) -> None:
    """K2, K19: a certificate by swtpm_localca under its root as a simulated one; without it, refused."""
    folder = VM / case
    certificate, ek_public = (folder / "ek_rsa.crt.der").read_bytes(), (folder / "ek_rsa.tpm2b_public").read_bytes()
    issuer, root = ((VM / "ca" / name).read_bytes() for name in ("issuercert.pem", "swtpm-localca-rootca-cert.pem"))
    now = int(x509.load_der_x509_certificate(certificate).not_valid_before_utc.timestamp()) + 60
    roots = {"vendor_roots": [], "simulated_roots": [root], "now": now}
    assert verify_ek(certificate, [issuer], ek_public, **roots).simulated  # type: ignore[arg-type]
    with pytest.raises(EvidenceRefusal) as caught:
        verify_ek(certificate, [issuer], ek_public, **{**roots, "simulated_roots": []})  # type: ignore[arg-type]
    assert caught.value.code == "ek_chain"


def test_a_live_enrolment_gives_keys_that_a_credential_can_be_made_for() -> None:
    """The archive of an agent's enrolment and evidence: EK, AK, quote."""
    with (
        tarfile.open(VM / "agent-online" / "enroll.tar") as enrol,
        tarfile.open(VM / "agent-online" / "evidence.tar") as evidence,
    ):

        def read(archive: tarfile.TarFile, name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        ak = check_ak(read(enrol, "ak.pub"))
        assert ak.name == read(enrol, "ak.name")
        assert make_credential(read(enrol, "ek.pub"), ak.name, b"x" * 32)
        attest = parse_attest(read(evidence, "q.msg"))
        parse_signature(read(evidence, "q.sig"))
        lines, _ = parse_log(read(evidence, "ima"))
        nonce = (VM / "agent-online" / "nonce.hex").read_text().strip()
        assert attest.extra_data == bytes.fromhex(nonce)
        assert lines[0][4] == b"boot_aggregate"


# physical machines

PHYSICAL = FOLDER / "tpm-quote" / "immune-gmbh__guard-oss"


@pytest.mark.parametrize("name", ["dl160-fwupd-report", "failed-1", "good-1", "ludmilla", "r340"])
def test_quotes_of_physical_machines_parse(name: str) -> None:
    """Attested structure and signature of real TPMs, and the digest that the PCRs of one bank give."""
    document = json.loads((PHYSICAL / f"{name}.json").read_text())
    attest = parse_attest(base64.b64decode(document["quote"]))
    assert parse_signature(base64.b64decode(document["signature"])).hash == "sha256"
    assert attest.selection


def test_q30_a_physical_machines_quote_of_nothing_is_refused() -> None:
    """Q30: a validly signed quote of an empty selection."""
    document = json.loads((PHYSICAL / "IMN-DELL.json").read_text())
    with pytest.raises(EvidenceRefusal) as caught:
        parse_attest(base64.b64decode(document["quote"]))
    assert caught.value.code == "pcr_selection"


def test_a_servers_log_of_sixteen_thousand_lines_replays() -> None:
    """I24: a real server's IMA log against its quoted PCR 10."""
    document = json.loads((PHYSICAL / "dl160-fwupd-report.json").read_text())
    lines, _ = parse_log((PHYSICAL / "dl160-fwupd-report.ima.binary_measurements").read_bytes())
    assert len(lines) > 16_000
    assert replay(lines, {"sha256": base64.b64decode(document["pcrs"]["10"])}) <= len(lines)


# what a baseline's rules say of the machines' logs


def under_rules(case: str, known: str, **rules: object) -> list[str]:
    """The codes of a case's log under another case's files and these rules."""
    baseline = replace(baseline_of(known), ima=ImaRules(**rules))  # type: ignore[arg-type]
    own = baseline_of(case).files
    files = {path: own.get(path, frozenset()) | baseline.files.get(path, frozenset()) for path in own | baseline.files}
    baseline = replace(baseline, files=files)
    log = (VM / case / "ima.bin").read_bytes()
    return [reason.code for reason in appraise_log(log, 0, {"sha256": pcrs_of(case)}, baseline.at(NOW)).reasons]


def test_i29_training_that_was_not_measured_is_refused() -> None:
    """I29: C61's policy leaves out what an unprivileged user reads; nothing else is wrong with it."""
    wanted = frozenset(["/opt/perun/train.py"])
    assert under_rules("C61-nobody", "A61") == []
    assert under_rules("C61-nobody", "A61", require=wanted) == ["ima_required"]
    for case in ("A61", "B61-ima-ng", "H612-3banks", "R612-verity"):
        assert under_rules(case, case, require=wanted) == []


def test_what_ran_before_a_late_policy_is_missed() -> None:
    """F61 loaded its policy from /etc/ima/ima-policy: the script that did so, its shell and kmod are not in the log."""
    early = frozenset(["/opt/perun/guest-init.sh", "/usr/bin/bash", "/usr/bin/kmod"])
    assert under_rules("F61-policy", "A61") == []
    assert under_rules("F61-policy", "A61", require=early) == ["ima_required"] * 3
    assert under_rules("A61", "A61", require=early) == []


def test_a_policy_that_the_kernel_does_not_show_is_not_in_force() -> None:
    """F61's kernel (6.1) does not measure what is written to the policy file, so its log cannot show it."""
    policies = frozenset(["sha256:" + hashlib.sha256(b"any").hexdigest()])
    assert under_rules("F61-policy", "A61", policies=policies) == ["ima_policy"]


def test_i12_a_vms_violations_are_excused_by_path() -> None:
    """I12: both, or the one that is left is told."""
    paths = ["/etc/hostname", "/opt/perun/data.bin"]
    assert under_rules("D61-violation", "D61-violation", violations=frozenset(paths)) == []
    assert under_rules("D61-violation", "D61-violation", violations=frozenset(paths[:1])) == ["ima_violation"]


def test_i19_a_key_that_a_kernel_told_of_is_refused() -> None:
    """I19: a certificate that entered .builtin_trusted_keys, in a log of every template; agreed, it may."""
    lines, _ = parse_log((FOLDER / "ima" / "kgoldman__ibmtss" / "imatest.log").read_bytes())
    number, line = next((n, line) for n, line in enumerate(lines, 1) if line[4] == b".builtin_trusted_keys")
    agreed = ImaRules(keyrings=frozenset(["sha256:" + hashlib.sha256(field_of(line, b"buf")).hexdigest()]))
    for rules, wanted in ((ImaRules(), ["ima_keyring"]), (agreed, [])):
        judge = LineJudge(Baseline({}, {}, ima=rules).at(NOW), Noted())
        judge.see(number, line)
        assert [reason.code for reason in judge.reasons] == wanted


def test_i27_a_servers_lines_for_another_pcr_are_refused() -> None:
    """I27: 3,537 lines for PCR 11; the reasons told are bounded."""
    log = (FOLDER / "ima" / "immune-gmbh__guard-oss" / "sr630.binary_measurements").read_bytes()
    lines, _ = parse_log(log)
    judge = LineJudge(Baseline({}, {}).at(NOW), Noted())
    for number, line in enumerate(lines, 1):
        judge.see(number, line)
    assert {"ima_pcr", "not_in_policy"} <= {reason.code for reason in judge.reasons}
    assert "more lines" in judge.reasons[-1].message
