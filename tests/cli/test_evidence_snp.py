"""`perunml evidence check snp`: exit codes 0, 11 and 2, profiles as people write them, hex and bytes."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from cli.kit import Party
from perunml.testing.snp import ForgedChip

AT = ("--at", "2027-01-15T08:00:00Z")
DATA = b"\x5d" * 32


def check(party: Party, *words: object) -> tuple[int, Any]:
    """The exit code, and stdout's JSON."""
    said = party("-o", "json", "evidence", "check", "snp", *words, passphrase=None)
    return said.code, said.json if said.out else None


@pytest.fixture
def forged(tmp_path: Path) -> list[object]:
    """The options for a forged chip's report."""
    chip = ForgedChip()
    (tmp_path / "certs").mkdir()
    for number, data in enumerate(chip.chain):
        (tmp_path / "certs" / f"{number}.der").write_bytes(data)
    (tmp_path / "certs" / "README").write_text("what lies beside certificates is left alone")
    report = chip.report(DATA.ljust(64, b"\0"))
    files = {"report": report, "report.hex": report.hex().encode(), "root": chip.ca.root, "crl": chip.ca.revocations()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return [*AT, "--certs", tmp_path / "certs", "--simulated-root", tmp_path / "root", "--crl", tmp_path / "crl"]


def test_a_report_with_and_without_a_profile(nobody: Party, forged: list[object], tmp_path: Path) -> None:
    """Accepted, in bytes and in hex; met by a profile; refused by one that names another measurement."""
    for name in ("report", "report.hex"):
        code, said = check(nobody, *forged, "--report", tmp_path / name, "--report-data", DATA.hex())
        seen = (code, said["accepted"], said["claims"]["report"]["revocation"])
        assert seen == (0, True, "list of 2020-01-01T00:00:00Z")
    profile = tmp_path / "profile.yaml"
    rules = "{{profile: tee, snp: {{measurement: ['{0}'], products: [Milan], min_tcb: {{snp: 24}}}}}}"
    profile.write_text(rules.format("11" * 48))
    assert check(nobody, *forged, "--report", tmp_path / "report", "--profile", profile)[0] == 0
    profile.write_text(rules.format("12" * 48))
    code, said = check(nobody, *forged, "--report", tmp_path / "report", "--profile", profile)
    assert (code, [reason["code"] for reason in said["reasons"]]) == (11, ["measurement_mismatch"])


def test_other_report_data_and_an_unknown_root_are_refused(nobody: Party, forged: list[object], tmp_path: Path) -> None:
    """Exit code 11; a development root is believed only when it is passed."""
    code, said = check(nobody, *forged, "--report", tmp_path / "report", "--report-data", "00")
    assert (code, said["reasons"][0]["code"]) == (11, "binding_mismatch")
    code, said = check(nobody, *AT, "--certs", tmp_path / "certs", "--report", tmp_path / "report")
    assert (code, said["reasons"][0]["code"]) == (11, "certificate_chain")
    assert said["claims"]["report"]["verified"] is False
    assert said["claims"]["report"]["measurement"] == "11" * 48


def test_certificates_come_in_every_form(nobody: Party, tmp_path: Path) -> None:
    """A PEM file of several, and the table that a hypervisor hands out; odd files beside them change nothing."""
    chip = ForgedChip()
    guids = (
        "63da758d-e664-4564-adc5-f4b93be8accd",
        "4ab7b379-bbac-4fe4-a02f-05aef327c782",
        "c0b406a4-a803-4952-9743-3fb6014cd0ae",
    )
    head, data = b"", b""
    for guid, der in zip(guids, chip.chain, strict=True):
        head += struct.pack("<16sII", uuid.UUID(guid).bytes_le, 24 * 4 + len(data), len(der))
        data += der
    blocks = [load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chip.chain]
    forms = {
        "table": [head + bytes(24) + data],
        "pem": [b"".join(blocks)],
        "both": [chip.certificate, b"".join(blocks[1:])],
    }
    (tmp_path / "report").write_bytes(chip.report())
    (tmp_path / "root").write_bytes(chip.ca.root)
    for name, files in forms.items():
        folder = tmp_path / name
        folder.mkdir()
        for number, file in enumerate([*files, chip.ca.revocations(), b"\x30\x80", b"-----BEGIN", bytes(64)]):
            (folder / str(number)).write_bytes(file)
        words = ("--report", tmp_path / "report", "--certs", folder, "--simulated-root", tmp_path / "root")
        code, said = check(nobody, *AT, *words)
        assert (code, said["reasons"]) == (0, []), name
        assert said["claims"]["report"]["revocation"] == "no list in force"


def test_a_call_that_is_not_usable(nobody: Party, forged: list[object], tmp_path: Path) -> None:
    """Exit code 2: the call is wrong, not the evidence."""
    for data in ("0x", "00" * 65):
        assert check(nobody, *forged, "--report", tmp_path / "report", "--report-data", data)[0] == 2
    (tmp_path / "profile").write_text("profile: measured\n")
    assert check(nobody, *forged, "--report", tmp_path / "report", "--profile", tmp_path / "profile")[0] == 2
    (tmp_path / "profile").write_text("snp: {measurment: []}\n")
    assert check(nobody, *forged, "--report", tmp_path / "report", "--profile", tmp_path / "profile")[0] == 2
