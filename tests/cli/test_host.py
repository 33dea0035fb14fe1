"""`perunml host`: flags, events, an agent that may not start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.kit import Party
from client.test_pin import issue, pin_of
from perunml.cli.host import event_line
from perunml.wire.encoding import unb64

EVENTS: list[tuple[dict[str, object], str]] = [
    ({"event": "ready", "machine": "ek:x", "simulated": False}, "ready       machine ek:x"),
    ({"event": "taken", "run": "1", "simulated": True}, "taken       run 1  (simulated)"),
    (
        {
            "event": "lease_lost",
            "run": "1",
            "reasons": [{"code": "pcr_mismatch", "message": "PCR 10"}],
            "simulated": True,
        },
        "lease_lost  run 1  pcr_mismatch: PCR 10  (simulated)",
    ),
]


@pytest.mark.parametrize(("event", "line"), EVENTS, ids=lambda value: "")
def test_events_as_lines(event: dict[str, object], line: str) -> None:
    """Each on one line; simulated is said in the same line."""
    assert event_line(event) == line


def test_a_machine_that_was_never_enrolled(tmp_path: Path) -> None:
    """The agent refuses with exit code 2: as root because it is not enrolled, else because it is not root."""
    pin = tmp_path / "pin.json"
    pin.write_bytes(pin_of(issue("manager")[1]).to_file())
    words = ["host", "run", "--folder", str(tmp_path / "host"), "--pin", str(pin), "--simulated-machine"]
    done = subprocess.run(
        [sys.executable, "-m", "perunml", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"refused: {'not_enrolled' if os.geteuid() == 0 else 'host_unfit'}: ")


def test_one_machine_or_the_other(nobody: Party, tmp_path: Path) -> None:
    """Neither flag, or both: there is no default machine."""
    words = ("host", "run", "--folder", tmp_path)
    pin = tmp_path / "pin.json"
    pin.write_bytes(pin_of(issue("manager")[1]).to_file())
    assert nobody.refused(*words, "--pin", pin, passphrase=None) == (2, "usage")
    assert nobody.refused(*words, "--pin", pin, "--simulated-machine", "--tcti", "x", passphrase=None) == (2, "usage")
    assert nobody.refused(*words, "--simulated-machine", passphrase=None) == (2, "not_pinned")


def test_what_proves_a_machine_is_named_by_kind(nobody: Party, vitus: Party, tmp_path: Path) -> None:
    """Kinds that make no machine are told at once; one that is not there is refused, and nothing takes its place."""
    pin = tmp_path / "pin.json"
    pin.write_bytes(pin_of(issue("manager")[1]).to_file())
    words = ("host", "run", "--folder", tmp_path / "host", "--pin", pin)
    for kinds in (("gpu",), ("tdx", "snp"), ("auto", "tdx"), ("nitro",)):
        named = [word for kind in kinds for word in ("--attester", kind)]
        assert nobody.refused(*words, *named, passphrase=None) == (2, "usage")
    assert nobody.refused(*words, "--attester", "tdx", "--simulated-machine", passphrase=None) == (2, "usage")
    assert nobody.refused(*words, "--attester", "sgx", passphrase=None) == (16, "tee_unavailable")
    enrolling = ("host", "enrol", "--folder", tmp_path / "host", "--pin", pin, "--name", "x", "--dry-run")
    assert vitus.refused(*enrolling, "--attester", "sgx") == (16, "tee_unavailable")
    assert not (tmp_path / "host").exists()


def state(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.swtpm
def test_a_dry_enrolment_asks_the_tpm_and_nobody_else(vitus: Party, tmp_path: Path) -> None:
    """The request is shown with the TPM's own EK certificate; the manager, which is away, hears nothing; the agent's folder
    is not even made. With another TPM in the folder's place it refuses as enrolling would."""
    if shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None:
        pytest.skip("no software TPM (Debian: swtpm swtpm-tools); runs where make test does")
    from perunml.attesters.tpm import TpmAttester
    from perunml.testing.machine import SimulatedMachine

    pin = tmp_path / "pin.json"
    pin.write_bytes(pin_of(issue("manager")[1]).to_file())
    with SimulatedMachine(tmp_path / "machine") as machine:
        words = ("host", "enrol", "--pin", pin, "--name", "gpu-7", "--tcti", machine.tcti, "--dry-run")
        would = vitus.ok(*words, "--folder", tmp_path / "host")["would_send"]
        attester = TpmAttester(machine.tcti, tmp_path / "seen")
        assert would["method"] == "POST"
        assert would["url"].endswith("/v1/enrolments")
        told = would["body"]["machine"]
        assert (told["kind"], told["name"]) == ("tpm", "gpu-7")
        assert unb64(told["ek_certificate"]) == attester.enrolment()["ek_certificate"]
        assert not (tmp_path / "host").exists()
        (tmp_path / "seen" / "tpm.json").write_text('{"machine": "another", "ak": ""}')
        before = state(tmp_path / "seen")
        assert vitus.refused(*words, "--folder", tmp_path / "seen") == (11, "tpm_changed")
        assert state(tmp_path / "seen") == before
    gone = vitus.refused(*words, "--folder", tmp_path / "host")
    assert gone == (16, "tpm_unavailable")


@pytest.mark.swtpm
def test_a_key_is_measured_once_in_a_boot(nobody: Party, vitus: Party, tmp_path: Path) -> None:
    """`host measure-key`: the same key again in the same boot, a refusal where another folder's is there; enrolling dry with a
    binder tells the binder key and leaves the folder as it is."""
    if shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None:
        pytest.skip("no software TPM (Debian: swtpm swtpm-tools); runs where make test does")
    from perunml.testing.machine import SimulatedMachine

    pin = tmp_path / "pin.json"
    pin.write_bytes(pin_of(issue("manager")[1]).to_file())
    with SimulatedMachine(tmp_path / "machine") as machine:
        machine.reboot()
        words = ("host", "measure-key", "-o", "json", "--tcti", machine.tcti, "--folder")
        told = nobody.ok(*words, tmp_path / "host")
        assert told["pcr"] == 15
        assert told["key"].startswith("ed25519:")
        assert nobody.ok(*words, tmp_path / "host") == told
        assert nobody.refused(*words, tmp_path / "other", passphrase=None) == (11, "key_measured")
        before = state(tmp_path / "host")
        attested = ("--attester", "tpm", "--attester", "snp", "--tcti", machine.tcti, "--pin", pin)
        enrolling = ("host", "enrol", "--folder", tmp_path / "host", "--name", "x", "--dry-run", *attested)
        for binder in ("tpm-key", "pcr"):
            # this machine is in no TEE: what is refused is that, after the TPM was asked
            assert vitus.refused(*enrolling, "--binder", binder) == (16, "tee_unavailable")
        assert state(tmp_path / "host") == before
        running = ("host", "run", "--folder", tmp_path / "none", *attested, "--binder", "pcr")
        assert nobody.refused(*running, passphrase=None) == (2, "key_not_measured")
    assert nobody.refused(*words, tmp_path / "host", passphrase=None) == (16, "tpm_unavailable")
    for wrong in (("--attester", "tpm"), ("--attester", "snp"), ("--attester", "tpm", "--attester", "sgx"), ()):
        words = ("host", "run", "--folder", tmp_path / "none", "--pin", pin, *wrong, "--binder", "pcr")
        assert nobody.refused(*words, passphrase=None) == (2, "usage")


def test_a_dry_enrolment_into_a_folder_that_cannot_be(vitus: Party, tmp_path: Path) -> None:
    """A file stands where the folder, or one above it, would be."""
    pin = tmp_path / "pin.json"
    pin.write_bytes(pin_of(issue("manager")[1]).to_file())
    words = ("host", "enrol", "--pin", pin, "--name", "x", "--simulated-machine", "--dry-run")
    assert vitus.refused(*words, "--folder", pin / "host") == (2, "local_file")
    if os.geteuid() != 0:  # root may write where it pleases
        (tmp_path / "shut").mkdir(mode=0o500)
        assert vitus.refused(*words, "--folder", tmp_path / "shut" / "host") == (2, "local_file")
