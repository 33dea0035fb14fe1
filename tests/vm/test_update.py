"""A new version of the image: both are allowed for a while, machines roll over with no refused job, and then the old one is over."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path

import pytest

from vm import images
from vm.world import World

pytestmark = pytest.mark.vm
WINDOW = 150
"""Seconds that the older version stays allowed; a boot takes some forty, emulated."""


def test_hosts_roll_over_in_a_window_and_the_old_image_is_refused_after_it(world: World, image: Path) -> None:
    """One machine: a job on the old image, a reboot, a job on the new one; then, the window closed, the old image again."""
    newer = images.built("newer", "--version", "0.1.0+update")
    vm = world.machine("updated", image)
    world.start_manager([vm.issuer, vm.root])
    world.operator_disk(vm)
    vm.start()
    world.seal()
    event_log = world.boot_log(vm, "updated")
    machine = world.enrol(vm, "updated")
    # what the boot manager keeps and the disk's partition table (PCRs 1 and 5) change with the disk; 4, 9 and 11 say what runs
    loose = ("--open-pcr", "1", "--open-pcr", "5")
    before = world.golden(image, event_log, "before", *loose)
    end = time.time() + WINDOW
    until = dt.datetime.fromtimestamp(end, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    both = world.golden(newer, event_log, "both", *loose, "--older", str(before), "--until", until)
    agreement = world.agree("updated", world.publish(both), [machine])

    assert world["acme"].run("job", "wait", world.submit(agreement))["state"] == "finished"
    vm.press_power()
    vm.wait_off()
    vm.kill()
    vm.disk = newer / "disk.raw"
    vm.start()
    vm.wait_for(event="ready")
    assert world["acme"].run("job", "wait", world.submit(agreement))["state"] == "finished"
    assert world.refusals(machine) == []

    vm.press_power()
    vm.wait_off()
    vm.kill()
    time.sleep(max(0.0, end + 1 - time.time()))
    vm.disk = image / "disk.raw"
    vm.start()
    vm.wait_for(event="ready")
    run = world.submit(agreement)
    deadline = time.monotonic() + 120
    while not world.refusals(machine):
        assert time.monotonic() < deadline, world.show(run)
        time.sleep(1)
    assert "pcr_mismatch" in {reason["code"] for reason in world.refusals(machine)}
