"""A real manager: trusted, reached, refused, impersonated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.kit import Party
from cli.manager import PASSPHRASE, Manager
from perunml.manager import setup


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """Runs for the whole module."""
    made = Manager(tmp_path_factory.mktemp("manager") / "folder")
    with made.running():
        yield made


def test_trust_pins_a_real_manager(manager: Manager, nobody: Party) -> None:
    """Evidence over the keys, judged and kept; needs neither identity nor passphrase."""
    said = nobody("-o", "json", "trust", manager.url, "--profile", manager.profile, passphrase=None)
    assert said.code == 0
    pin = said.json
    assert (pin["identity"], pin["simulated"], pin["url"]) == (manager.identity, True, manager.url)
    text = nobody("trust", manager.url, "--profile", manager.profile, passphrase=None)
    assert "simulated (proves nothing" in text.out


def test_a_dry_run_of_trust_pins_nothing(manager: Manager, nobody: Party) -> None:
    """Verified, and nothing written."""
    assert nobody.ok("trust", manager.url, "--profile", manager.profile, "--dry-run")["identity"] == manager.identity
    assert not nobody.home.exists()


def test_a_profile_that_wants_more(manager: Manager, nobody: Party, tmp_path: Path) -> None:
    """Exit code 11, and no pin."""
    profile = tmp_path / "strict.yaml"
    profile.write_text(
        "{apiVersion: perunml/v1, kind: ManagerProfile, profile: {profile: tee, sgx: {mr_enclave: ['0000000000000000000000000000000000000000000000000000000000000000']}}}"
    )
    code, _ = nobody.refused("trust", manager.url, "--profile", profile, passphrase=None)
    assert code == 11
    assert not nobody.home.exists()


def test_a_key_that_nobody_admitted(manager: Manager, vitus: Party) -> None:
    """C16, P13: exit code 10 in one constant shape, whatever is asked for."""
    vitus.ok("trust", manager.url, "--profile", manager.profile)
    asked = (["agreement", "list"], ["job", "show", "0" * 32], ["asset", "show", "sha256:" + "0" * 64])
    said = {vitus("-o", "json", *words).err for words in asked}
    assert len(said) == 1
    assert vitus.refused(*asked[0]) == (10, "request_unsigned")


def test_nobody_answers(manager: Manager, tmp_path: Path) -> None:
    """Exit code 16, with the address."""
    party = manager.party(tmp_path / "home", "lonely")
    other = Manager(tmp_path / "other" / "folder")
    with other.running() as url:
        pin = party.ok("trust", url, "--profile", other.profile)
    said = party("agreement", "list", "--manager", pin["url"])
    assert (said.code, said.reasons) == (16, ["unreachable"])
    assert url in said.err
    assert party.refused("trust", url, "--profile", other.profile) == (16, "unreachable")


def test_another_manager_at_the_pinned_address(tmp_path: Path) -> None:
    """C1: it gets no request, not even a signed one; exit code 11."""
    first, second = (Manager(tmp_path / name / "folder") for name in "ab")
    with first.running():
        party = first.party(tmp_path / "home", "party")
    with second.running(first.port):
        assert party.refused("agreement", "list") == (11, "channel_mismatch")
        assert party.refused("trust", second.url, "--profile", second.profile) == (11, "wrong_manager")


def test_enrol_a_simulated_machine(manager: Manager, tmp_path: Path) -> None:
    """The operator signs; the machine is called simulated."""
    operator = manager.party(tmp_path / "home", "operator")
    command = ("host", "enrol", "--folder", tmp_path / "host", "--name", "laptop")
    done = operator.ok(*command, "--simulated-machine")
    assert done["machine"].startswith("simulated:sha256:")
    assert done["simulated"] is True
    assert operator.refused(*command) == (2, "usage")
    assert operator.refused(*command, "--simulated-machine", "--tcti", "device:/dev/null") == (2, "usage")


def test_dry_run_sends_nothing(manager: Manager, tmp_path: Path, scans: Path) -> None:
    """What would go out is shown: method, address, body."""
    party = manager.party(tmp_path / "home", "careful")
    party.ok("seal", scans, "--name", "scans", "--kind", "dataset")
    would = party.ok("push", "scans", "--dry-run")["would_send"]
    assert (would["method"], would["url"]) == ("POST", f"{manager.url}/v1/assets")
    assert set(would["body"]) == {"manifest", "keys"}
    text = party("push", "scans", "--dry-run")
    assert text.code == 0
    assert text.out.startswith("would send: POST")


def test_host_doctor_says_what_is_missing(nobody: Party) -> None:
    """Each finding has what was seen; each bad one a cure; the roots of trust and the profiles come after."""
    found = nobody.ok("host", "doctor")
    assert found["findings"]
    assert all(item["ok"] or item["fix"] for item in found["findings"])
    assert [root["name"] for root in found["roots"]][:3] == ["TPM", "IMA", "TDX"]
    assert all(root["proves"] or root["fix"] for root in found["roots"])
    assert [each["name"] for each in found["profiles"]] == ["measured", "tee", "gpu-cc", "simulated"]
    assert "Profiles that it could meet" in nobody("host", "doctor").out


def test_init_run_admit_as_processes(tmp_path: Path, nobody: Party) -> None:
    """As an operator types them: init refuses a second time, run says ready, the wrong passphrase opens nothing."""
    folder = tmp_path / "manager"
    made = nobody.ok("manager", "init", "--folder", folder, "--url", "https://127.0.0.1:7443")
    assert nobody.refused("manager", "init", "--folder", folder, "--url", "https://127.0.0.1:7443")[0] == 2
    assert nobody.refused("manager", "run", "--folder", folder, passphrase=b"wrong") == (14, "unseal_failed")
    assert nobody.refused("manager", "run", "--folder", folder, "--listen", "nonsense") == (2, "usage")
    key = nobody.ok("id", "create", "--name", "x")["identity"]
    assert nobody.ok("manager", "admit", "--folder", folder, key) == {"admitted": [key]}
    assert nobody.refused("manager", "admit", "--folder", folder, "ed25519:AA") == (2, "malformed")
    reading, writing = os.pipe()
    words = [
        "-o",
        "json",
        "--passphrase-fd",
        str(reading),
        "manager",
        "run",
        "--folder",
        str(folder),
        "--listen",
        "127.0.0.1:0",
    ]
    from cli.kit import PASSPHRASE as OWN

    with subprocess.Popen(
        [sys.executable, "-m", "perunml", *words],
        pass_fds=[reading],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(reading)
        os.write(writing, OWN)
        os.close(writing)
        assert process.stdout is not None
        event = json.loads(process.stdout.readline())
        assert (event["event"], event["identity"], event["simulated"]) == ("ready", made["identity"], True)
        profile = tmp_path / "profile.yaml"
        profile.write_text("{apiVersion: perunml/v1, kind: ManagerProfile, profile: {profile: simulated}}")
        assert nobody.ok("trust", event["url"], "--profile", profile)["identity"] == made["identity"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (out, err) == ("", "")
    assert process.returncode == 0


def test_a_tee_that_is_not_there_keeps_nothing(tmp_path: Path, nobody: Party) -> None:
    """TDX has no sealing key at all; SGX and SEV-SNP are looked for; a TEE keeps nothing for a manager that it does not attest."""
    for attester in ("tdx", "sgx", "snp", "simulated"):
        init = ("manager", "init", "--folder", tmp_path / attester, "--url", "https://127.0.0.1:1", "--custody", "tee")
        code, reason = nobody.refused(*init, "--attester", attester)
        assert (code, reason) in ((2, "custody_unavailable"), (16, "tee_unavailable"))
        assert not (tmp_path / attester / "manager.json").exists()
    assert reason == "custody_unavailable"


def test_the_wrong_folder(tmp_path: Path, nobody: Party) -> None:
    """Not a manager's."""
    assert nobody.refused("manager", "run", "--folder", tmp_path)[0] == 2
    assert nobody.refused("manager", "admit", "--folder", tmp_path, "ed25519:AA")[0] == 2
    assert setup.init(tmp_path / "m", PASSPHRASE, url="https://127.0.0.1:1")
