"""A manager in a process of its own on a machine with a (software) TPM: its evidence, its root key, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.kit import Party
from perunml.client.profile import ManagerProfile
from perunml.client.trust import Given, examine
from perunml.evidence.tpm.chain import Trust
from perunml.testing.machine import SimulatedMachine

pytestmark = pytest.mark.swtpm
URL = "https://127.0.0.1:1"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedMachine]:
    if shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None:
        pytest.skip("no software TPM (Debian: swtpm swtpm-tools); runs where make test does")
    with SimulatedMachine(tmp_path_factory.mktemp("machine")) as made:
        made.boot([Path(sys.executable)])
        yield made


class Managed:
    """One manager's folder on the machine, and what a party has in hand to judge it."""

    def __init__(self, machine: SimulatedMachine, folder: Path, party: Party) -> None:
        self.machine, self.folder, self.party = machine, folder, party
        files = {"ima-log": machine.ima_log, "event-log": machine.event_log, "cmdline": machine.cmdline}
        words: list[object] = ["--custody", "tpm", "--attester", "tpm", "--tcti", machine.tcti]
        words += [word for name, path in files.items() for word in (f"--{name}", path)]
        words += ["--ek-chain", machine.roots[0]]
        init = ("-o", "json", "manager", "init", "--folder", folder, "--url", URL, *words)
        said = party(*init, passphrase=None)
        assert said.code == 0, said.err
        self.made: dict[str, Any] = said.json
        baseline = machine.baseline()
        self.baseline = folder.parent / "baseline.json"
        body = {"apiVersion": "perunml/v1", "kind": "Baseline", **baseline.as_json()}
        self.baseline.write_text(json.dumps(body))
        self.profile = folder.parent / "profile.json"
        asked = {"profile": "simulated", "imitates": "measured", "baseline": baseline.digest}
        self.write(asked)
        self.words = ["--profile", self.profile, "--baseline", self.baseline]
        self.root = ["--simulated-ek-root", machine.roots[1]]

    def write(self, profile: dict[str, Any], **more: Any) -> None:
        document = {"apiVersion": "perunml/v1", "kind": "ManagerProfile", "profile": profile, **more}
        self.profile.write_text(json.dumps(document))

    @contextlib.contextmanager
    def running(self) -> Iterator[dict[str, Any]]:
        """Its `ready` event. No passphrase is asked for: stdin is no terminal, and no descriptor is given."""
        words = ["-o", "json", "manager", "run", "--folder", str(self.folder), "--listen", "127.0.0.1:0"]
        with subprocess.Popen(
            [sys.executable, "-m", "perunml", *words, "--tcti", self.machine.tcti],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            try:
                yield json.loads(line or "{}")
            finally:
                process.send_signal(signal.SIGTERM)
                _, err = process.communicate(timeout=30)
        assert err == ""
        assert process.returncode == 0


@pytest.fixture(scope="module")
def managed(machine: SimulatedMachine, tmp_path_factory: pytest.TempPathFactory) -> Managed:
    here = tmp_path_factory.mktemp("measured")
    return Managed(machine, here / "manager", Party(here / "home"))


@pytest.fixture(scope="module")
def ready(managed: Managed) -> Iterator[dict[str, Any]]:
    with managed.running() as event:
        yield event


def test_trust_in_a_manager_on_a_tpm(managed: Managed, ready: dict[str, Any]) -> None:
    """From `manager init` without a passphrase to a pin: evidence, activation, custody, each told in words and as JSON."""
    made = managed.made
    assert (made["custody"], made["attester"], made["simulated"]) == ("tpm", "tpm", False)
    assert (ready["identity"], ready["custody"], ready["attester"]) == (made["identity"], "tpm", "tpm")
    ask = ("trust", ready["url"], *managed.words, *managed.root)
    said = managed.party(*ask, passphrase=None)
    assert said.code == 0, said.err
    assert "in the machine's TPM, while its PCRs 0, 1, 2, 3, 4, 5, 6, 7, 9, 11 are" in said.out
    assert "simulated (proves nothing" in said.out  # the root is a software TPM's
    told = managed.party.ok(*ask)
    assert (told["identity"], told["custody"], told["profile"]) == (made["identity"], "tpm", "simulated")
    assert told["machine"].startswith("ek:sha256:")
    assert told["claims"]["tpm"]["kind"] == "simulated"
    assert told["claims"]["entries"] == 2
    assert told["judged_by"] == managed.machine.baseline().digest


def test_t18_a_software_tpm_is_nobodys(managed: Managed, ready: dict[str, Any]) -> None:
    """K2, T18: without its root by name it is refused; with it, it is `simulated`, which the profile must say."""
    assert managed.party.refused("trust", ready["url"], *managed.words) == (11, "ek_chain")
    machine = "ek:sha256:" + "0" * 64
    managed.write({"profile": "measured", "baseline": managed.machine.baseline().digest, "machines": [machine]})
    said = managed.party("-o", "json", "trust", ready["url"], *managed.words, *managed.root)
    assert said.code == 11
    assert {"simulated_not_allowed", "wrong_profile", "wrong_machine"} <= set(said.reasons)
    managed.write({"profile": "simulated", "imitates": "measured", "baseline": managed.machine.baseline().digest})


def test_the_baseline_must_be_given(managed: Managed, ready: dict[str, Any]) -> None:
    """A profile names it by digest, and it is not asked of the manager."""
    ask = ("trust", ready["url"], "--profile", managed.profile, *managed.root)
    assert managed.party.refused(*ask) == (11, "baseline_missing")


def test_c1_a_relay_gets_nothing(managed: Managed, ready: dict[str, Any]) -> None:
    """C1, C4: the real manager's fresh evidence, told over somebody else's TLS key."""
    from perunml.client.asking import Shown, fetch_attestation

    profile = ManagerProfile.load(managed.profile.read_bytes(), baselines=[managed.machine.baseline()])
    given = Given(Trust(simulated=(managed.machine.roots[1].read_bytes(),)))

    def relayed(url: str, nonce: bytes) -> Shown:
        return Shown(fetch_attestation(url, nonce).attestation, "sha256:" + "0" * 64)

    assert examine(ready["url"], profile, given=given).pin.identity == managed.made["identity"]
    with pytest.raises(Exception, match="channel_mismatch"):
        examine(ready["url"], profile, given=given, fetch=relayed)


def test_i5_a_file_that_nobody_agreed_to(managed: Managed, ready: dict[str, Any], tmp_path: Path) -> None:
    """I5, C14: loaded on the manager's machine after it was pinned: the next contact refuses it."""
    before = managed.baseline.read_bytes()
    ask = ("trust", ready["url"], *managed.words, *managed.root)
    assert managed.party.ok(*ask)
    evil = tmp_path / "evil"
    evil.write_text("evil")
    managed.machine.measure(evil)
    assert managed.party.refused(*ask) == (11, "not_in_policy")
    assert managed.baseline.read_bytes() == before


def test_s8_another_boot_does_not_get_the_root_key(machine: SimulatedMachine, tmp_path: Path) -> None:
    """S8: after an event that was not there when the manager was made, it does not start, and says why."""
    machine.reboot()
    managed = Managed(machine, tmp_path / "manager", Party(tmp_path / "home"))
    machine.extend(4, b"another boot loader")
    run = ("manager", "run", "--folder", managed.folder, "--tcti", machine.tcti)
    assert managed.party.refused(*run) == (14, "custody_state")
    machine.reboot()
    run = ("manager", "init", "--folder", tmp_path / "x", "--url", URL, "--custody", "tpm")
    assert managed.party.refused(*run, "--pcrs", "7", "--tcti", machine.tcti) == (2, "malformed")
    assert managed.party.refused(*run, "--pcrs", "seven") == (2, "usage")
    assert managed.party.refused("manager", "init", "--folder", tmp_path / "y", "--url", URL, "--custody", "tee") == (
        2,
        "custody_unavailable",
    )
