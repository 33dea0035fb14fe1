"""A TPM beside a TEE: a host's own binders, from the folder to the verdict, with a software TPM and a forged chip."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from attesters.kernel import SevDriver
from attesters.machines import ground, write
from perunml import operators
from perunml.attesters.beside import BINDER_FILE, KEY_FILE, measure_key, measured_key
from perunml.attesters.esys import open_tpm
from perunml.evidence.bundle import Bundle, TpmPart
from perunml.evidence.composite import binder_pcr
from perunml.evidence.judge import judge
from perunml.evidence.policy import Machine, Policy
from perunml.evidence.snp.rules import SnpRules
from perunml.evidence.tpm.binder import verify_binder_key
from perunml.evidence.tpm.keys import check_ak
from perunml.testing.machine import SimulatedMachine
from perunml.testing.snp import ForgedChip
from perunml.wire.errors import EvidenceRefusal, UsageError

pytestmark = pytest.mark.swtpm
BINDING, OTHER = bytes(range(48)), b"o" * 48
RULES = SnpRules.from_json({"measurement": ["11" * 48], "products": ["Milan"], "min_tcb": {"bootloader": 4}})


@pytest.fixture(scope="module")
def chip() -> ForgedChip:
    return ForgedChip()


class Host:
    """The machine, as its agent makes its attester: a TPM, and a TEE behind /dev/sev-guest."""

    def __init__(self, machine: SimulatedMachine, chip: ForgedChip, folder: Path) -> None:
        self.machine, self.chip, self.folder = machine, chip, folder / "agent"
        self.ground = ground(write(folder / "tree", dev__sev_dash_guest=""), ioctl=SevDriver(chip.report, None))

    def attester(self, binder: str) -> Any:
        """Anew, as after a restart of the agent."""
        return operators.machine(
            self.folder, tcti=self.machine.tcti, attester=["tpm", "snp"], binder=binder, ground=self.ground,
            ima_log=self.machine.ima_log, event_log=self.machine.event_log, cmdline=self.machine.cmdline,
        )  # fmt: skip

    def enrolled(self, binder: str) -> Machine:
        """What a manager records."""
        claim = self.attester(binder).enrolment()
        return Machine(
            self.attester(binder).machine, True, claim["ak_public"], "", None, claim["ek_public"],
            claim.get("binder_public", b""),
        )  # fmt: skip

    def codes(self, bundle: Bundle, machine: Machine, binder: str, binding: bytes = BINDING) -> list[str]:
        asked = Policy("simulated", "measured+tee", self.machine.baseline(), True, tee=RULES, binder=binder)
        sent = Bundle.from_json(bundle.as_json())
        known, now = self.chip.endorsements(), int(time.time())
        found = judge(sent, machine=machine, policy=asked, binding=binding, now=now, endorsements=known)
        return [reason.code for reason in found.appraisal.reasons]


@pytest.fixture
def host(machine: SimulatedMachine, chip: ForgedChip, tmp_path: Path) -> Host:
    return Host(machine, chip, tmp_path)


def enrol(host: Host) -> Machine:
    """With a binder key, up to the point where the manager's challenge is answered (which a made-up one is not)."""
    made = host.attester("tpm-key")
    claim = made.enrolment()
    assert made.enrolment() == claim
    assert not (host.folder / BINDER_FILE).exists()
    ak = check_ak(claim["ak_public"])
    verify_binder_key(claim["binder_public"], claim["binder_certify"], claim["binder_signature"], ak)
    with pytest.raises(Exception, match=r"."):
        made.activate(b"no credential", b"no secret")
    return Machine(made.machine, True, claim["ak_public"], "", None, claim["ek_public"], claim["binder_public"])


def test_a_key_of_the_tpm_that_only_this_tee_can_use(host: Host) -> None:
    """Made when the machine enrols, kept for the agent's eyes, signs each exchange; it outlives the agent's restart."""
    known = enrol(host)
    file = host.folder / BINDER_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    attester = host.attester("tpm-key")
    found = attester.collect_many([BINDING, OTHER])
    assert host.codes(found[BINDING], known, "tpm-key") == []
    assert host.codes(found[OTHER], known, "tpm-key", OTHER) == []
    part = found[BINDING].parts[0]
    assert isinstance(part, TpmPart)
    assert json.loads(file.read_text())["secret"] not in repr(vars(attester)) + repr(part)
    attester.accepted(found[BINDING])
    shortened = attester.collect(BINDING).parts[0]
    assert isinstance(shortened, TpmPart)
    assert shortened.ima_offset > 0
    attester.forget()
    assert attester.enrolment()["binder_public"] == known.binder


def test_without_the_binder_the_machine_is_refused(host: Host) -> None:
    """The same machine, its agent run without it: no part says that TPM and TEE are one machine's."""
    known = enrol(host)
    assert host.codes(host.attester("").collect(BINDING), known, "tpm-key") == ["binder_mismatch"]


def test_an_agent_whose_machine_has_no_binder_key_says_so(host: Host) -> None:
    """Enrolled without it, or a damaged file."""
    attester = host.attester("tpm-key")
    with pytest.raises(EvidenceRefusal, match="binder_key") as caught:
        attester.collect(BINDING)
    assert caught.value.reasons[0].command == "perunml host enrol"
    for damaged in ("{", "[]", '{"private": "zz"}', '{"private": "00"}'):
        (host.folder / BINDER_FILE).write_text(damaged)
        with pytest.raises(EvidenceRefusal, match="binder_key"):
            attester.collect(BINDING)


def test_another_boots_state_needs_another_key(host: Host, files: Sequence[Path]) -> None:
    """PCRs 0 to 7 are others: the key does not open, the agent says so, and enrolling makes a new one."""
    known = enrol(host)
    with open_tpm(host.machine.tcti) as tpm:
        tpm.extend(7, {"sha256": b"\x01" * 32})
    attester = host.attester("tpm-key")
    with pytest.raises(EvidenceRefusal, match="binder_key"):
        attester.collect(BINDING)
    assert attester.enrolment()["binder_public"] != known.binder


def test_a_key_of_the_tee_shown_in_pcr_15(host: Host) -> None:
    """Measured at boot, quoted and reported: accepted; a TEE with another text is refused."""
    text = measure_key(host.machine.tcti, host.folder)
    assert measured_key(host.folder) == text == measure_key(host.machine.tcti, host.folder)
    with open_tpm(host.machine.tcti) as tpm:
        assert tpm.read_pcrs("sha256", [15])[15] == binder_pcr(text)
        assert any(tpm.read_pcrs("sha384", [15])[15])
    known = host.enrolled("pcr")
    assert host.codes(host.attester("pcr").collect(BINDING), known, "pcr") == []
    assert host.codes(host.attester("").collect(BINDING), known, "pcr") == ["binder_mismatch"]
    (host.folder / KEY_FILE).write_text("ed25519:of-another-tee")
    assert host.codes(host.attester("pcr").collect(BINDING), known, "pcr") == ["binder_mismatch"]


def test_a_pcr_that_shows_something_else_is_refused(host: Host, files: Sequence[Path]) -> None:
    """Whoever came before: nothing is extended, nothing kept. After the next boot there is a new key."""
    first = measure_key(host.machine.tcti, host.folder)
    with pytest.raises(EvidenceRefusal, match="key_measured"):
        measure_key(host.machine.tcti, host.folder / "other")
    assert not (host.folder / "other").exists()
    (host.folder / KEY_FILE).unlink()
    with pytest.raises(EvidenceRefusal, match="key_measured"):
        measure_key(host.machine.tcti, host.folder)
    with pytest.raises(UsageError, match="key_not_measured"):
        host.attester("pcr")
    host.machine.reboot(files)
    assert measure_key(host.machine.tcti, host.folder) != first


@pytest.mark.parametrize("which", [["tpm"], ["snp"], ["tpm", "sgx"], ["auto"], ["azure"]])
def test_a_binder_needs_a_tpm_and_the_tee_beside_it(which: list[str]) -> None:
    """Said at once."""
    with pytest.raises(ValueError, match="binder"):
        operators.machine_kinds(None, which, False, "pcr")
    with pytest.raises(ValueError, match="which machine"):
        operators.machine_kinds(None, [], True, "pcr")
