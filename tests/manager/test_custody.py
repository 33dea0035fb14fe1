"""Who keeps the root key: a passphrase, a TPM in one state (a real software TPM), a TEE's sealing key. S8."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from ctypes import c_uint64, string_at
from pathlib import Path
from typing import Any

import pytest

from manager.world import code_of
from perunml.attesters import bound
from perunml.attesters.esys import WrongTpm
from perunml.manager import setup
from perunml.manager.codes import CUSTODY_ELSEWHERE
from perunml.manager.custody import Kept, Passphrase, kind_of
from perunml.manager.custody_tee import SNP_GET_DERIVED_KEY, TeeCustody, gramine_key, snp_key, tee_custody
from perunml.manager.custody_tpm import DEFAULT_PCRS, TpmCustody, check_pcrs
from perunml.testing.machine import SimulatedMachine
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import IntegrityError

ROOT = bytes(range(32))
URL = "https://127.0.0.1:1"


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SimulatedMachine, SimulatedMachine]]:
    """Two machines, each with a TPM of its own."""
    if shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None:
        pytest.skip("no software TPM (Debian: swtpm swtpm-tools); runs where make test does")
    folder = tmp_path_factory.mktemp("tpms")
    with SimulatedMachine(folder / "one") as one, SimulatedMachine(folder / "two") as two:
        two.boot()
        yield one, two


@pytest.fixture
def machine(machines: tuple[SimulatedMachine, SimulatedMachine]) -> SimulatedMachine:
    machines[0].reboot()
    return machines[0]


@pytest.mark.swtpm
def test_a_tpm_keeps_the_root_key_over_reboots(machine: SimulatedMachine, tmp_path: Path) -> None:
    """A manager's folder is made without a passphrase, and opens again after a reboot into the same state."""
    folder = tmp_path / "manager"
    identity = setup.init(folder, TpmCustody(machine.tcti), url=URL)
    assert kind_of(folder) == "tpm"
    machine.reboot()
    keys = setup.unlock(folder, TpmCustody(machine.tcti))
    assert keys.identity.public.text == identity
    assert keys.kept == Kept("tpm", DEFAULT_PCRS)


@pytest.mark.swtpm
@pytest.mark.parametrize("pcr", [0, 4, 7, 9, 11])
def test_s8_another_state_of_the_machine_is_refused(machine: SimulatedMachine, pcr: int) -> None:
    """S8: one more event in a PCR that the key is bound to, and the TPM refuses it; what others see changes nothing."""
    custody = TpmCustody(machine.tcti)
    data = custody.seal(ROOT)
    machine.extend(10, b"a file was loaded")
    assert custody.open(data)[0] == ROOT
    machine.extend(pcr, b"another boot loader")
    assert code_of(lambda: custody.open(data)) == "custody_state"
    machine.reboot()
    assert TpmCustody(machine.tcti).open(data)[0] == ROOT


@pytest.mark.swtpm
def test_s8_another_tpm_is_refused(machines: tuple[SimulatedMachine, SimulatedMachine]) -> None:
    """S8: the same state of another machine opens nothing, nor does a blob that is said to be of its own storage root."""
    one, two = machines
    one.reboot()
    data = TpmCustody(one.tcti).seal(ROOT)
    assert code_of(lambda: TpmCustody(two.tcti).open(data)) == "custody_elsewhere"
    document = json.loads(data)
    document["parent"] = json.loads(TpmCustody(two.tcti).seal(ROOT))["parent"]
    assert code_of(lambda: TpmCustody(two.tcti).open(json.dumps(document).encode())) == "custody_elsewhere"


@pytest.mark.swtpm
def test_s8_a_root_key_that_an_operator_chose_does_not_pass(
    machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S8: a key that opens without its policy, or that its maker gave to the TPM, is none of ours: its root key could be
    known to whoever made it."""
    good = bound.TEMPLATE
    for attribute in (bound.USER_WITH_AUTH, bound.NO_DA):
        head = struct.unpack_from(">HHI", good, 2)
        weak = good[:2] + struct.pack(">HHI", head[0], head[1], head[2] ^ attribute) + good[10:]
        monkeypatch.setattr(bound, "TEMPLATE", weak)
        key = bound.new_key(machine.tcti, DEFAULT_PCRS)
        with pytest.raises(WrongTpm):
            bound.secret(machine.tcti, key, b"text")
        monkeypatch.setattr(bound, "TEMPLATE", good)
    for public in (b"", good, good[:-1]):
        with pytest.raises(WrongTpm):
            bound.secret(machine.tcti, bound.BoundKey(b"", public, b"", DEFAULT_PCRS), b"text")


@pytest.mark.swtpm
def test_whatever_is_changed_in_the_file_is_refused(machine: SimulatedMachine) -> None:
    """Each member of root.json is under the seal, or is what opens it."""
    custody = TpmCustody(machine.tcti)
    data = custody.seal(ROOT)
    document: dict[str, Any] = json.loads(data)
    for name, value in document.items():
        if isinstance(value, list):
            changed: Any = [*value, 12]
        elif name in ("format", "label", "kind"):
            changed = value + "x"
        else:
            raw = bytearray(unb64(value))
            raw[-1] ^= 1
            changed = b64(bytes(raw))
        with pytest.raises(IntegrityError):
            custody.open(json.dumps({**document, name: changed}).encode())
        with pytest.raises(IntegrityError):
            custody.open(json.dumps({key: other for key, other in document.items() if key != name}).encode())


def test_pcrs_that_say_nothing_are_refused() -> None:
    """Firmware, option ROMs, boot loader and secure boot are always among them: else the operator chooses what runs."""
    assert check_pcrs([0, 2, 4, 7]) == (0, 2, 4, 7)
    for pcrs in ([], [16, 23], [0, 2, 4], [0, 2, 2, 4, 7], [7, 4, 2, 0], [0, 2, 4, 7, 24], [0, 2, 4, 7, True]):
        assert code_of(lambda pcrs=pcrs: check_pcrs(pcrs)) == "malformed"


def test_an_enclave_keeps_the_root_key(tmp_path: Path) -> None:
    """Gramine's file holds the key by MRENCLAVE; another enclave's key, or another processor's, opens nothing (S8)."""
    path = tmp_path / "_sgx_mrenclave"
    path.write_bytes(b"k" * 16)
    custody = TeeCustody("sgx", lambda: gramine_key(path))
    folder = tmp_path / "manager"
    identity = setup.init(folder, custody, url=URL)
    assert kind_of(folder) == "tee"
    keys = setup.unlock(folder, custody)
    assert (keys.identity.public.text, keys.kept) == (identity, Kept("tee"))
    path.write_bytes(b"l" * 16)
    assert code_of(lambda: setup.unlock(folder, custody)) == "custody_elsewhere"
    for wrong in (b"", b"k" * 15, bytes(16), b"k" * 17):
        path.write_bytes(wrong)
        assert code_of(lambda: setup.unlock(folder, custody)) == "custody_unavailable"
    path.unlink()
    assert code_of(lambda: setup.unlock(folder, custody)) == "custody_unavailable"


class Firmware:
    """Answers the ioctl as the kernel does: 64 bytes, of which the last 32 are a key that depends on what was asked."""

    def __init__(self, measurement: bytes, status: int = 0) -> None:
        self.measurement, self.status = measurement, status
        self.asked = b""

    def __call__(self, descriptor: int, number: int, command: bytearray) -> int:
        assert number == SNP_GET_DERIVED_KEY
        version, request, response, _ = struct.unpack("<B7xQQQ", command)
        assert version == 1
        self.asked = string_at(request, 32)
        key = self.measurement.ljust(32, b"\0")
        answer = self.status.to_bytes(4, "little") + bytes(28) + (bytes(32) if self.status else key)
        for offset in range(0, 64, 8):
            c_uint64.from_address(response + offset).value = int.from_bytes(answer[offset : offset + 8], "little")
        return 0


def test_an_snp_guest_keeps_the_root_key(tmp_path: Path) -> None:
    """The derived key mixes policy, ids and measurement in, by the chip's own root; another image gets another (S8)."""
    device = tmp_path / "sev-guest"
    device.touch()
    firmware = Firmware(b"good image")
    custody = TeeCustody("snp", lambda: snp_key(device, firmware))
    data = custody.seal(ROOT)
    assert custody.open(data) == (ROOT, Kept("tee"))
    assert struct.unpack("<IIQIIQ", firmware.asked) == (0, 0, 0b1111, 0, 0, 0)
    other = TeeCustody("snp", lambda: snp_key(device, Firmware(b"evil image")))
    assert code_of(lambda: other.open(data)) == CUSTODY_ELSEWHERE.code
    broken = TeeCustody("snp", lambda: snp_key(device, Firmware(b"", status=0x16)))
    assert code_of(lambda: broken.open(data)) == "custody_unavailable"
    absent = TeeCustody("snp", lambda: snp_key(tmp_path / "none", firmware))
    assert code_of(lambda: absent.seal(ROOT)) == "custody_unavailable"


def test_tdx_has_no_sealing_key() -> None:
    """It says so and names what there is, rather than to keep the key in some weaker way."""
    assert code_of(lambda: tee_custody("tdx")) == "custody_unavailable"
    assert [repr(tee_custody(tee)) for tee in ("sgx", "snp")] == ["<TeeCustody sgx>", "<TeeCustody snp>"]


def test_kinds_are_not_taken_for_one_another(tmp_path: Path) -> None:
    """A file of one kind is no file of another; a damaged one is said to be damaged; nothing tells a secret."""
    custody = TeeCustody("sgx", lambda: b"k" * 16)
    data = custody.seal(ROOT)
    assert code_of(lambda: TpmCustody("none").open(data)) == "state_damaged"
    assert code_of(lambda: Passphrase(b"p").open(data)) == "malformed"
    assert code_of(lambda: custody.open(Passphrase(b"p").seal(ROOT))) == "state_damaged"
    for text in (b"", b"[]", b'{"format":"perunml/root-v1","kind":"other"}'):
        (tmp_path / "root.json").write_bytes(text)
        assert code_of(lambda: kind_of(tmp_path)) == "state_damaged"
    assert "secret words" not in repr(Passphrase(b"secret words"))
    assert repr(TpmCustody("device:/dev/tpmrm0")) == "<TpmCustody device:/dev/tpmrm0>"
