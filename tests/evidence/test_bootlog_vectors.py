"""Boot logs of real machines: physical ones, clouds' virtual ones, confidential ones, and our measured VM."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from evidence.vectors import FOLDER, needs_vectors
from perunml.evidence.bootlog.claims import boot_claims
from perunml.evidence.bootlog.facts import Sort, read_boot_log
from perunml.evidence.bootlog.parse import BootLog, parse_boot_log
from perunml.evidence.bootlog.replay import explained
from perunml.wire.errors import EvidenceRefusal

pytestmark = needs_vectors

VM = FOLDER / "measured-vm"
LOGS = FOLDER / "tcg-eventlog"
CCEL = FOLDER / "ccel"
PHYSICAL = FOLDER / "tpm-quote" / "immune-gmbh__guard-oss"
CASES = ("A61", "B61-ima-ng", "C61-nobody", "D61-violation", "F61-policy", "H612-3banks", "M612-uki", "N612-uki-secureboot",
         "R612-verity")  # fmt: skip
NO_LOGS = {
    "binary_bios_measurements-bogus": "no log at all",
    "binary_bios_measurements-empty": "no event",
    "CCEL.bin": "the ACPI table that points to the log",
    "cos-113-intel-tdx.table.bin": "the same",
}
ODD = {
    # real machines whose log does not give a quoted PCR: the profile decides (decision 0013)
    "dl160-fwupd-report": {0},
    "failed-1": {0},
}


def log_of(path: Path) -> BootLog:
    data = path.read_bytes()
    return parse_boot_log(base64.b64decode(data) if path.suffix == ".b64" else data, padded=CCEL in path.parents)


def vm_pcrs(case: str) -> dict[str, dict[int, bytes]]:
    values = json.loads((VM / case / "expected.json").read_text())["pcrs_sha256"]
    return {"sha256": {int(index): bytes.fromhex(value) for index, value in values.items() if index != "10"}}


def files(folder: Path, pattern: str = "*/*") -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


@pytest.mark.parametrize(
    "path", [*files(LOGS), *files(CCEL), *files(PHYSICAL, "*.eventlog")], ids=lambda path: path.name
)
def test_every_log_is_read_or_is_none(path: Path) -> None:
    """Crypto-agile ones, SHA-1 alone, one that begins with a locality, padded ones of confidential VMs."""
    if path.name in NO_LOGS:
        with pytest.raises(EvidenceRefusal) as caught:
            log_of(path)
        assert caught.value.code == "non_canonical", NO_LOGS[path.name]
        return
    log = log_of(path)
    assert boot_claims(read_boot_log(log, {}))["events"] == len(log.events)


@pytest.mark.parametrize("case", CASES)
def test_a_vms_log_gives_its_quoted_pcrs(case: str) -> None:
    """Every quoted PCR but IMA's is explained by the firmware's log."""
    log = log_of(VM / case / "bios_measurements.bin")
    pcrs = vm_pcrs(case)
    proven, mismatches = explained(log, pcrs)
    assert proven == pcrs["sha256"].keys()
    assert mismatches == {}
    expected = json.loads((VM / case / "expected.json").read_text())
    assert len(log.events) == expected["boot_events"]
    assert list(log.banks) == expected["boot_banks"]


def test_e1_a_vms_log_with_a_changed_digest_is_refused() -> None:
    """E1, t11: the kernel's event in PCR 4 is another's; only that PCR is named."""
    log = log_of(VM / "tampered" / "t11-bios-digest" / "bios_measurements.bin")
    proven, mismatches = explained(log, vm_pcrs("A61"))
    assert mismatches.keys() == {4}
    assert [reason.code for reason in mismatches[4]] == ["event_log_mismatch"]
    assert 4 not in proven


@pytest.mark.parametrize("name", ["dl160-fwupd-report", "failed-1", "good-1", "ludmilla", "r340"])
def test_physical_machines_logs_against_their_quotes(name: str) -> None:
    """Real servers and laptops: all boot PCRs replay but the known odd ones."""
    document = json.loads((PHYSICAL / f"{name}.json").read_text())
    values = {int(index): base64.b64decode(value) for index, value in document["pcrs"].items() if int(index) < 10}
    _, mismatches = explained(log_of(PHYSICAL / f"{name}.eventlog"), {"sha256": values})
    assert mismatches.keys() == ODD.get(name, set())


def test_e9_a_log_of_sha1_alone_explains_no_strong_pcr() -> None:
    """E9: the older form beside a quote of the SHA-256 bank."""
    log = log_of(LOGS / "google__go-tpm-tools" / "debian-10.bin")
    assert log.banks == ("sha1",)
    with pytest.raises(EvidenceRefusal) as caught:
        explained(log, {"sha256": {0: bytes(32)}})
    assert caught.value.code == "event_log_mismatch"


def test_secure_boot_of_a_vm_with_its_own_keys() -> None:
    """N612: on, one certificate in each list, the one that vouched for the kernel image; sections of the image by name."""
    case = "N612-uki-secureboot"
    facts = read_boot_log(log_of(VM / case / "bios_measurements.bin"), vm_pcrs(case))
    assert facts.secure_boot is True
    assert [len(facts.signatures(name) or ()) for name in ("PK", "KEK", "db", "dbx")] == [1, 1, 1, 1]
    assert facts.texts(Sort.AUTHORITY) == facts.signatures("db")
    assert facts.texts(Sort.SECTION) == (".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat")
    assert read_boot_log(log_of(VM / "A61" / "bios_measurements.bin"), vm_pcrs("A61")).secure_boot is False


@pytest.mark.parametrize("case", ["A61", "M612-uki", "N612-uki-secureboot", "R612-verity"])
def test_a_command_line_is_believed_where_an_event_is_its_digest(case: str) -> None:
    """What the machine says of its command line, as the kernel's stub measured it; with one character more it is nobody's."""
    log, text = log_of(VM / case / "bios_measurements.bin"), (VM / case / "cmdline").read_text().rstrip("\n")
    assert set(read_boot_log(log, vm_pcrs(case), cmdline=text).texts(Sort.CMDLINE)) == {text}
    assert read_boot_log(log, vm_pcrs(case), cmdline=text + "x").texts(Sort.CMDLINE) == ()


def test_grubs_command_line_is_read_whatever_stands_before_it() -> None:
    """E17: the prefix of GRUB's texts is in no digest, so it does not say which text the kernel got."""
    log = log_of(LOGS / "google__go-tpm-tools" / "ubuntu-2404-amd-sevsnp.bin")
    (line,) = set(read_boot_log(log, {}).texts(Sort.CMDLINE))
    assert line.startswith("/vmlinuz-6.8.0-1010-gcp root=PARTUUID=")
