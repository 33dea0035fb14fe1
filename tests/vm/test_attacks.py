"""What an operator with root, a screwdriver or a copy might try, on real machines; each refused for the right reason.

The first four need no way in. The others go through a hole that an image of the tests' own has (`door`), and that the agreement
names all the same: they show what IMA, the TPM and the manager see once somebody got in.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from perunml.testing.machine import manufacture
from vm import images
from vm.burglar import NOBODY, PORT, Burglar
from vm.images import PROJECT
from vm.machine import Vm, free_port
from vm.world import World

pytestmark = pytest.mark.vm
SCRIPT = Path(__file__).with_name("agent_script.py")
LONG_LEASE = 600
"""Seconds: a lease that outlasts a reboot."""


def until(condition: Any, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.5)
    return found


def restart(vm: Vm) -> None:
    """Off and on in order: after a power cut the TPM's clock would be refused, whatever else is wrong."""
    vm.press_power()
    vm.wait_off()
    vm.kill()
    vm.start()


def variant(image: Path, target: Path, uki: Path | None = None, root: Path | None = None) -> Path:
    """The folder of an image whose disk has another UKI, or another root, than it was built with."""
    target.mkdir()
    roothash = json.loads((image / "image.json").read_text())["roothash"]
    disk = [PROJECT / "images" / "disk.sh", uki or image / "uki.efi", root or image / "root.img", roothash]
    subprocess.run([*disk, target / "disk.raw"], check=True)
    return target


def with_cmdline(image: Path, target: Path, more: str) -> Path:
    """The image's UKI with more words on its command line, signed with the same key: an operator who has it can do that."""
    folder, keys = target.with_suffix(".parts"), images.keys()
    folder.mkdir()
    words = json.loads((image / "image.json").read_text())["cmdline"]
    (folder / "cmdline").write_text(f"{words} {more}")
    bare, changed, signed = folder / "bare.efi", folder / "changed.efi", folder / "uki.efi"
    shutil.copyfile(image / "uki.efi", bare)
    subprocess.run(["sbattach", "--remove", bare], check=True, capture_output=True)
    subprocess.run(["objcopy", f"--update-section=.cmdline={folder / 'cmdline'}", bare, changed], check=True, capture_output=True)  # fmt: skip
    sign = ["sbsign", "--key", keys / "db.key", "--cert", keys / "db.crt", "--output", signed, changed]
    subprocess.run(sign, check=True, capture_output=True)
    return variant(image, target, uki=signed)


@pytest.fixture(scope="module")
def honest(world: World, image: Path) -> tuple[Vm, str, str]:
    """A machine that booted well once and is off; its name, and an agreement in force that names it with the image's golden values."""
    vm = world.machine("attacked", image)
    doored = world.machine("burgled", image)  # its TPM is known to the manager from the start, its image comes later
    world.start_manager([vm.issuer, vm.root, doored.issuer, doored.root])
    world.operator_disk(vm)
    vm.start()
    world.seal()
    event_log = world.boot_log(vm, "attacked")
    machine = world.enrol(vm, "attacked")
    vm.press_power()
    vm.wait_off()
    vm.kill()
    baseline = world.publish(world.golden(image, event_log, "attacked"))
    return vm, machine, world.agree("attacked", baseline, [machine])


def refused(world: World, vm: Vm, machine: str, agreement: str) -> dict[str, dict[str, Any]]:
    """Boot, take a job, be refused: the reasons by code."""
    vm.start()
    vm.wait_for(event="ready")
    run = world.submit(agreement)
    until(lambda: world.show(run)["state"] in ("refused", "failed") or world.refusals(machine))
    found = {reason["code"]: reason for reason in world.refusals(machine)}
    vm.press_power()
    vm.wait_off()
    vm.kill()
    return found


def test_another_command_line_signed_with_the_right_key_is_refused_by_its_pcrs(
    honest: tuple[Vm, str, str], world: World, image: Path, tmp_path: Path
) -> None:
    """Secure Boot lets it start; PCRs 4, 9 and 11 are other ones."""
    vm, machine, agreement = honest
    vm.disk = with_cmdline(image, tmp_path / "cmdline", "init=/usr/bin/busybox") / "disk.raw"
    found = refused(world, vm, machine, agreement)
    vm.disk = image / "disk.raw"
    assert "pcr_mismatch" in found, found


def test_an_unsigned_image_does_not_boot(
    honest: tuple[Vm, str, str], world: World, image: Path, tmp_path: Path
) -> None:
    """The firmware refuses it: Secure Boot is on, with the owner's keys."""
    vm, *_ = honest
    bare = tmp_path / "bare.efi"
    shutil.copyfile(image / "uki.efi", bare)
    subprocess.run(["sbattach", "--remove", bare], check=True, capture_output=True)
    vm.disk = variant(image, tmp_path / "unsigned", uki=bare) / "disk.raw"
    vm.start()
    try:
        vm.wait_for_text("Access Denied", 60)
        assert not vm.events
    finally:
        vm.kill()
        vm.disk = image / "disk.raw"


def test_a_changed_root_stops_the_kernel(
    honest: tuple[Vm, str, str], world: World, image: Path, tmp_path: Path
) -> None:
    """dm-verity finds the block, and the kernel panics rather than to go on."""
    vm, *_ = honest
    root = tmp_path / "root.img"
    shutil.copyfile(image / "root.img", root)
    with root.open("r+b") as file:  # a block of the file system's own data, and one in every MiB
        size = json.loads((image / "image.json").read_text())["blocks"] * 4096
        for at in range(1 << 20, size, 1 << 20):
            file.seek(at)
            file.write(b"evil")
    vm.disk = variant(image, tmp_path / "changed", root=root) / "disk.raw"
    vm.start()
    try:
        vm.wait_for_text("Kernel panic", 120)
        assert not vm.events
    finally:
        vm.kill()
        vm.disk = image / "disk.raw"


def test_a_swapped_tpm_is_another_machine(honest: tuple[Vm, str, str], world: World, image: Path) -> None:
    """The disk with the machine's certificate, and another TPM: the agent itself finds that it is not enrolled, and the other
    TPM's machine, enrolled, is none that the agreement names."""
    vm, *_ = honest
    other = world.machine("swapped", image)
    shutil.rmtree(other.tpm / "ca")
    shutil.copytree(vm.tpm / "ca", other.tpm / "ca")  # same maker
    shutil.rmtree(other.tpm / "tpm")
    manufacture(other.tpm)
    other.data = vm.data
    other.start()
    said = other.wait_for_text('"tpm_changed"')
    assert said
    other.kill()


@pytest.fixture(scope="module")
def burgled(honest: tuple[Vm, str, str], world: World, door_image: Path) -> tuple[Vm, str, Burglar, Path]:
    """A machine whose image has a hole, enrolled and on; its boot log."""
    [vm] = [vm for vm in world.machines if vm.folder.name == "burgled"]
    vm.disk = door_image / "disk.raw"
    port = free_port()
    vm.forwards[port] = PORT
    world.operator_disk(vm)
    vm.start()
    event_log = world.boot_log(vm, "burgled")
    machine = world.enrol(vm, "burgled")
    vm.wait_for(event="ready")
    return vm, machine, Burglar(port), event_log


def test_an_unlisted_program_run_by_an_unprivileged_user_ends_the_lease_and_the_job(
    burgled: tuple[Vm, str, Burglar, Path], world: World, door_image: Path
) -> None:
    """While the job runs, nobody runs a program that no party listed: the next renewal is refused, with path and digest, the job
    dies, nothing comes out."""
    vm, machine, burglar, event_log = burgled
    baseline = world.publish(world.golden(door_image, event_log, "burgled"))
    agreement = world.agree("burgled", baseline, [machine])
    run = world.submit(agreement, epochs=3000, pause_ms=100)
    vm.wait_for(event="running", run=run)
    program = b"#!/usr/bin/busybox sh\necho evil\n"
    burglar.put("/run/evil", program, "0755")
    burglar.run(["/usr/bin/busybox", "mount", "-o", "remount,exec", "/run"])
    assert burglar.run(["/run/evil"], user=NOBODY) == b"evil\n"
    until(lambda: world.show(run)["state"] not in ("queued", "running"), 180)
    found = {reason["code"]: reason for reason in world.refusals(machine)}
    (world.folder / "unlisted.json").write_text(json.dumps(found))
    reason = next(reason for reason in found.values() if "/run/evil" in json.dumps(reason))
    assert hashlib.sha256(program).hexdigest() in json.dumps(reason)
    assert world.show(run)["state"] in ("lost", "failed")
    vm.wait_for(event="keys_wiped", run=run)
    assert not world["acme"].call("output", "pull", run, "model", "--to", str(world.folder / "none")).value


def test_the_boot_log_of_a_good_boot_does_not_explain_another(
    burgled: tuple[Vm, str, Burglar, Path], honest: tuple[Vm, str, str], world: World
) -> None:
    """This machine sends the other one's boot log, which the parties would have liked; the quote gives it the lie."""
    _, machine, burglar, _ = burgled
    agreement = world.agree("replayed", world.publish(world.folder / "attacked.baseline.json"), [machine])
    burglar.hold_agent()
    burglar.put("/run/other.eventlog", (world.folder / "attacked.eventlog").read_bytes())
    run = world.submit(agreement)
    said = burglar.python(SCRIPT.read_text(), "release", run, agreement, "/run/other.eventlog")
    codes = {reason["code"] for reason in json.loads(said)}
    assert "event_log_mismatch" in codes, said


def test_a_rebooted_machine_cannot_go_on_with_an_old_session(
    burgled: tuple[Vm, str, Burglar, Path], world: World, door_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys were stolen, its lease still runs; the same machine, one boot later, renews in vain."""
    vm, machine, burglar, _ = burgled
    restart(vm)
    vm.wait_for(event="ready")
    burglar.hold_agent()
    monkeypatch.setattr("vm.world.LEASE_SECONDS", LONG_LEASE)
    agreement = world.agree("rebooted", world.publish(world.folder / "burgled.baseline.json"), [machine])
    run = world.submit(agreement)
    said = burglar.python(SCRIPT.read_text(), "release", run, agreement)
    assert said == b"released\n", said
    burglar.run(["/usr/bin/busybox", "sync"])
    restart(vm)
    vm.wait_for(event="ready")
    burglar.hold_agent()
    said = burglar.python(SCRIPT.read_text(), "renew")
    codes = {reason["code"] for reason in json.loads(said)}
    assert codes & {"rebooted", "clock_rollback", "ima_offset"}, said
