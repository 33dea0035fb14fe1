"""A TPM's counter tells an old copy of a manager's folder (a real software TPM)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.test_custody import machines
from manager.world import PASSPHRASE, PROFILE, cached_keys, code_of, enrol_message
from perunml.api.agreements import AgreementList
from perunml.api.enrolment import EnrolAnswer, EnrolRequest
from perunml.api.pin import Pin
from perunml.attesters.esys import open_tpm
from perunml.attesters.simulated import SimulatedAttester
from perunml.client.connection import Connection
from perunml.client.trust import trust
from perunml.host.protocol import ManagerLink
from perunml.manager import counter, setup, sweep
from perunml.manager.device import Device
from perunml.manager.server import Server
from perunml.testing.machine import SimulatedMachine
from perunml.wire.identity import SigningKey

__all__ = ["machines"]
pytestmark = pytest.mark.swtpm
URL = "https://127.0.0.1:0"


@pytest.fixture
def machine(machines: tuple[SimulatedMachine, SimulatedMachine]) -> Iterator[SimulatedMachine]:
    machines[0].reboot()
    yield machines[0]
    with open_tpm(machines[0].tcti) as tpm:
        for index in range(counter.FIRST_INDEX, counter.FIRST_INDEX + 3):
            if tpm.has(index):
                tpm.drop_counter(index)


class Counted:
    """A manager with a counter, and a party that may write something into its ledger."""

    def __init__(self, folder: Path, machine: SimulatedMachine) -> None:
        self.folder, self.machine, self.key = folder, machine, SigningKey.generate()
        setup.init(folder, PASSPHRASE, url=URL, device=Device(tcti=machine.tcti), count_in_tpm=True)
        setup.admit(folder, [self.key.public.text])

    def live(self, *, write: bool = True, seconds: float = 0.0) -> str:
        """Start, enrol a machine, read, stop; the code with which enrolling is refused."""
        device = Device(tcti=self.machine.tcti)
        server = Server(self.folder, cached_keys(self.folder), device=device)
        server.start()
        try:
            pin = trust(server.url, PROFILE)
            found = code_of(lambda: self.enrol(pin)) if write else ""
            with Connection(pin, self.key) as party:
                assert party.call("GET", "/v1/agreements", AgreementList).agreements == []
            time.sleep(seconds)
        finally:
            server.stop()
        return found

    def enrol(self, pin: Pin) -> None:
        attester, tls = SimulatedAttester(self.folder.with_name("machine")), SigningKey.generate()
        with ManagerLink(pin) as link:
            challenge = link.enrol(EnrolRequest(machine=enrol_message(attester, "one", tls)), self.key)
            answer = EnrolAnswer(answer=attester.answer(challenge.nonce))
            link.answer_enrolment(challenge.enrolment, answer, self.key)

    def value(self) -> int:
        with open_tpm(self.machine.tcti) as tpm:
            return int.from_bytes(tpm.nv_read(counter.FIRST_INDEX))

    def copy(self, target: Path) -> Path:
        return Path(shutil.copytree(self.folder, target))

    def put(self, copy: Path) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(copy, self.folder)


@pytest.fixture
def made(machine: SimulatedMachine, tmp_path: Path) -> Counted:
    return Counted(tmp_path / "manager", machine)


def test_it_counts_each_start_and_goes_on(made: Counted) -> None:
    """Over restarts and reboots of the machine."""
    first = made.value()
    for number in range(1, 4):
        assert made.live() == ""
        assert made.value() == first + number
    made.machine.reboot()
    assert made.live() == ""


def test_s1_an_old_copy_changes_nothing(made: Counted, tmp_path: Path) -> None:
    """S1: it serves what it knows, refuses the rest, and goes on refusing; the newest goes on."""
    old = made.copy(tmp_path / "old")
    made.live()
    new = made.copy(tmp_path / "new")
    made.put(old)
    assert made.live() == "rollback_detected"
    assert made.live() == "rollback_detected"
    made.put(new)
    assert made.live() == ""


def test_a_crash_between_the_store_and_the_tpm_is_none(made: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store says the next value first: the TPM is then one behind, and catches up."""
    before = made.value()
    with monkeypatch.context() as patch:
        patch.setattr(counter, "_count", lambda *_: 0)
        assert made.live() == ""
    assert made.value() == before
    assert made.live() == ""
    assert made.value() == before + 1


def test_it_counts_while_the_ledger_grows(made: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every so often, and not while nothing happens."""
    monkeypatch.setattr(counter, "EVERY", 0.3)
    monkeypatch.setattr(sweep, "INTERVAL", 0.1)
    first = made.value()
    made.live(write=False, seconds=1.0)
    assert made.value() == first + 1
    made.live(seconds=1.0)
    assert made.value() == first + 3


def test_another_tpm_or_none_is_no_counter(
    made: Counted, machines: tuple[SimulatedMachine, SimulatedMachine], tmp_path: Path
) -> None:
    """One that was cleared of its counter: the copy enters nothing; one that is made anew begins above the old one."""
    before = made.value()
    with open_tpm(made.machine.tcti) as tpm:
        tpm.drop_counter(counter.FIRST_INDEX)
    copy = made.copy(tmp_path / "copy")
    assert made.live() == "rollback_detected"
    with open_tpm(made.machine.tcti) as tpm:
        tpm.new_counter(counter.FIRST_INDEX)
        assert tpm.count(counter.FIRST_INDEX) > before
    made.put(copy)
    assert made.live() in ("", "rollback_detected")
