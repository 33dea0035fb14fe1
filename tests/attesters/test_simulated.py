"""A machine without any root of trust, and the look at a real one."""

from __future__ import annotations

from pathlib import Path

from perunml.attesters.doctor import doctor
from perunml.attesters.simulated import ENROL_LABEL, SimulatedAttester
from perunml.evidence.bundle import SimulatedPart
from perunml.testing.bootlog import boot
from perunml.wire.identity import PublicKey


def test_a_simulated_machine_keeps_its_key(tmp_path: Path) -> None:
    """The same folder is the same machine, and its key is for its owner's eyes."""
    first, second = SimulatedAttester(tmp_path / "m"), SimulatedAttester(tmp_path / "m")
    assert first.machine == second.machine
    assert first.machine.startswith("simulated:sha256:")
    assert (tmp_path / "m" / "machine.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["machine.key"]
    assert SimulatedAttester(tmp_path / "other").machine != first.machine


def test_its_answer_and_its_statements_are_not_interchangeable(tmp_path: Path) -> None:
    """An enrolment's answer is signed under another label than evidence."""
    attester = SimulatedAttester(tmp_path)
    key = PublicKey(attester.enrolment()["key"])
    key.verify(attester.answer(b"n" * 32), ENROL_LABEL + b"n" * 32)
    bundle = attester.collect(b"b" * 48)
    part = bundle.parts[0]
    assert isinstance(part, SimulatedPart)
    key.verify(part.signature, b"perunml/simulated" + b"b" * 48)
    attester.accepted(bundle)
    attester.forget()
    assert attester.collect(b"b" * 48) == bundle


def test_its_key_shows_in_no_representation(tmp_path: Path) -> None:
    """No secret in repr."""
    attester = SimulatedAttester(tmp_path)
    secret = (tmp_path / "machine.key").read_bytes()
    assert secret.hex() not in repr(attester) + repr(vars(attester))


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_doctor_finds_a_bare_machine_wanting(tmp_path: Path) -> None:
    """Every finding that is not well says how to mend it, also where nothing can be read."""
    findings = doctor(tmp_path)
    assert {f.name for f in findings if f.ok} <= {"bwrap", "swap"}
    assert all(f.fix and f.seen for f in findings if not f.ok)


def test_the_doctor_finds_a_good_machine_well(tmp_path: Path) -> None:
    """A machine as the documents ask for it."""
    root = tree(
        tmp_path,
        {
            "dev/tpmrm0": "",
            "proc/mounts": "securityfs /sys/kernel/security securityfs rw 0 0\n",
            "proc/cmdline": "quiet ima_policy=tcb lockdown=confidentiality",
            "proc/swaps": "Filename Type Size Used Priority\n",
            "sys/kernel/security/ima/binary_runtime_measurements": "",
            "sys/kernel/security/lockdown": "none integrity [confidentiality]\n",
            "sys/kernel/security/lsm": "capability,landlock,yama",
            "sys/fs/cgroup/cgroup.controllers": "memory pids",
        },
    )
    log = root / "sys/kernel/security/tpm0/binary_bios_measurements"
    log.parent.mkdir()
    log.write_bytes(boot().encoded)
    assert [f for f in doctor(root) if not f.ok and f.name != "bwrap"] == []
    (found,) = (f for f in doctor(root) if f.name == "boot log")
    assert found.seen == "30 events, Secure Boot on, 1 entries in dbx"
    log.write_bytes(boot().encoded[:-1])
    (found,) = (f for f in doctor(root) if f.name == "boot log")
    assert found.seen.startswith("odd: ")
    assert found.fix
    assert all(not f.fix for f in doctor(root) if f.ok)


def test_the_doctor_tells_old_cgroups_and_swap(tmp_path: Path) -> None:
    """Version 1 is well enough and said so; swap is named."""
    (tmp_path / "sys/fs/cgroup/memory").mkdir(parents=True)
    root = tree(tmp_path, {"proc/swaps": "Filename Type\n/dev/sda2 partition 1 0 -2\n"})
    found = {f.name: f for f in doctor(root)}
    assert (found["cgroups"].ok, found["cgroups"].seen) == (True, "v1")
    assert (found["swap"].ok, found["swap"].seen) == (False, "/dev/sda2")
