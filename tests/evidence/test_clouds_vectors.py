"""Captured evidence of clouds' virtual machines, judged part by part: the same as docs/vectors.md says, section "Clouds"."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from evidence.test_azure import _rsa_ak
from evidence.test_ek_vectors import ancestors
from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.bundle import TpmPart
from perunml.evidence.clouds.azure import Hcl, check_ak, check_report_data, parse_hcl, vouched_key
from perunml.evidence.endorsements import Collateral, Endorsements
from perunml.evidence.pem import split
from perunml.evidence.snp.appraise import appraise_snp
from perunml.evidence.snp.rules import SnpRules
from perunml.evidence.snp.verify import verify_snp
from perunml.evidence.tpm.certificate import parse_certificate
from perunml.evidence.tpm.chain import Trust
from perunml.evidence.tpm.cloud import read_instance, verify_ak_certificate
from perunml.evidence.tpm.keys import check_ak as check_tpm_ak
from perunml.evidence.tpm.keys import qualified_names
from perunml.evidence.tpm.quote import verify_quote
from perunml.wire.errors import PerunError

PAGE = Path(__file__).parents[2] / "docs" / "vectors.md"
AZURE = FOLDER / "snp" / "Azure__azure-cleanroom"
LEAVES = FOLDER / "tpm-ek" / "ek-leaf"
NOW = 1_767_225_600
"""2026-01-01."""
LATER = 1_790_000_000
"""2026-09-21: the machine's certificate is in force."""
MACHINE, ELSEWHERE = "attestation.json", "openpcc_openpcc_attestation_attest_testdata"

TABLE = {
    # (file, part) -> (verdict, why)
    (MACHINE, "HCL report"): ("accepted", "version 1, SNP; the SNP report says SHA-256 of its runtime data"),
    (MACHINE, "HCL report, another report data"): ("`ak_not_vouched`", "the SNP report of a container, which says other data"),
    (MACHINE, "quote"): ("accepted", "by the vouched key, over the nonce and the 24 PCR values beside it"),
    (MACHINE, "quote, another nonce"): ("`binding_mismatch`", "an answer to somebody else"),
    (MACHINE, "quote, the EK's name as the key"): ("`ak_not_vouched`", "the runtime data name that key too, for another use"),
    (MACHINE, "AK certificate"): ("`ek_chain`", "`azure:01d451636602`, for the vouched key; its issuer is not among the files"),
    ("values.txt", "policy"): ("accepted", "SHA-256 of the container policy is the host data that it tells"),
    ("insecure-virtual__values.txt", "policy"): ("accepted", "the same; host data of the containers' reports"),
    (f"{ELSEWHERE}_azure_ak_certificates_txt_26e261ab.der", "AK certificate"): ("`ek_chain`", "`azure:66f962d2e762`; its issuer is not among the files"),
    (f"{ELSEWHERE}_azure_ak_certificates_txt_2f0e27c7.der", "AK certificate"): ("`ek_chain`", "`azure:9b6eccb6c0a3`; the same"),
    (f"{ELSEWHERE}_gce_ak_certificates_txt_81153acf.der", "AK certificate"): ("`ek_chain`", "`gce:nonvolatile-dev/us-west1-b/8033817256003918212`; the same"),
    (f"{ELSEWHERE}_gce_ak_certificates_txt_81153acf.der", "AK certificate, another instance enrolled"): ("`ak_certificate`, `ek_chain`", "another machine's than was enrolled (K17)"),
}  # fmt: skip


@cache
def machine() -> dict[str, Any]:
    return dict(json.loads((AZURE / MACHINE).read_text())["report"]["snpCvm"])


@cache
def blob() -> Hcl:
    return parse_hcl(base64.b64decode(machine()["evidence"]["hclReport"]))


def reported(report: bytes, certificates: list[bytes]) -> bytes:
    return verify_snp(report, certificates, Endorsements(Collateral()), now=NOW).value.report_data


def quoted(nonce: bytes, kid: str = "") -> None:
    numbers = vouched_key(blob())
    if kid:
        keys = {key["kid"]: key["n"] for key in machine()["evidence"]["runtimeClaims"]["keys"]}
        numbers = (int.from_bytes(base64.urlsafe_b64decode(keys[kid] + "==")), 65537)
    area = _rsa_ak(numbers[0])
    ak = check_tpm_ak(area)
    check_ak(blob(), int.from_bytes(ak.public.unique[0]), ak.public.exponent)
    raw = base64.b64decode(machine()["evidence"]["tpmQuote"])
    size = int.from_bytes(raw[:2])
    pcrs = {"sha256": {int(index): base64.b64decode(each) for index, each in machine()["evidence"]["pcrs"].items()}}
    part = TpmPart(raw[2 : 2 + size], raw[2 + size :], pcrs, ak=area)
    assert len(verify_quote(part, ak, signers=qualified_names(ak, None), extra_data=nonce).value.pcrs["sha256"]) == 24


def certified(der: bytes, now: int, told: str, expected: str = "") -> None:
    """The certificate of its own key, under the known roots; `told` is the instance that it has to name."""
    leaf = parse_certificate(der)
    area = check_tpm_ak(_rsa_ak(leaf.key().public_numbers().n)).public  # type: ignore[union-attr] # RSA, all of them
    seen = read_instance(leaf)
    assert seen is not None
    assert expected or seen.name == told
    verify_ak_certificate(der, ancestors(leaf), area, trust=Trust(), now=now, expected=expected)


def judge(file: str, part: str, why: str) -> None:
    told = why.partition("`")[2].partition("`")[0]
    if part == "policy":
        lines = dict(line.split(": ") for line in (AZURE / file).read_text().splitlines())
        assert hashlib.sha256(base64.b64decode(lines["ccepolicy"])).hexdigest() == lines["hostdata"]
    elif part.startswith("AK certificate"):
        der = base64.b64decode(machine()["evidence"]["aikCert"]) if file == MACHINE else (LEAVES / file).read_bytes()
        now = LATER if file == MACHINE else parse_certificate(der).not_before
        certified(der, now, told, "gce:p/z/1" if "another" in part else "")
    elif part.startswith("HCL"):
        report = blob().report, split(machine()["platformCertificates"].encode())
        if "another" in part:
            container = json.loads((AZURE / "signing__attestation.json").read_text())["report"]["snpCACI"]
            chain = split(base64.b64decode(container["platformCertificates"]))
            report = base64.b64decode(container["attestation"]), chain
        check_report_data(blob(), reported(*report))
    else:
        nonce = bytes(32) if "nonce" in part else base64.b64decode(machine()["nonce"])
        quoted(nonce, "HCLEkPub" if "EK" in part else "")


@needs_vectors
@pytest.mark.parametrize(("file", "part"), list(TABLE))
def test_each_part_has_its_verdict(file: str, part: str) -> None:
    """Accepted, or refused with these codes."""
    verdict, why = TABLE[file, part]
    if verdict == "accepted":
        judge(file, part, why)
        return
    with pytest.raises(PerunError) as caught:
        judge(file, part, why)
    assert {reason.code for reason in caught.value.reasons} == set(verdict.replace("`", "").split(", "))


def rules_of_the_page() -> dict[str, Any]:
    """The example of docs/spec/clouds.md."""
    found = re.search(r"^```json\n(.*?)\n```$", (PAGE.parent / "spec" / "clouds.md").read_text("utf-8"), re.M | re.S)
    assert found is not None
    return dict(json.loads(found[1]))


@needs_vectors
def test_the_specifications_rules_admit_the_real_machine() -> None:
    """All but a revocation list, which is not among the files; and each member is needed."""
    certificates = split(machine()["platformCertificates"].encode())
    report = verify_snp(blob().report, certificates, Endorsements(Collateral()), now=NOW)

    def codes(rules: dict[str, Any]) -> set[str]:
        made, told = SnpRules.from_json(rules), blob().report_data
        found = appraise_snp(report, made, report_data=told, endorsements=Endorsements(Collateral()), now=NOW)
        return {reason.code for reason in found}

    whole = rules_of_the_page()
    assert codes(whole) == {"revocation_missing"}
    for name in whole:
        assert codes({key: value for key, value in whole.items() if key != name}) > {"revocation_missing"}, name


def test_the_page_says_the_same() -> None:
    """docs/vectors.md, section Clouds."""
    section = PAGE.read_text("utf-8").split("\n## Clouds\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([^`|]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    assert rows == [(*key, *value) for key, value in TABLE.items()]
