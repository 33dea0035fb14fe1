"""The whole road on a real kernel: an image boots, is enrolled, trains on sealed data under a lease, hands out a sealed model."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from vm.world import LEASE_SECONDS, World

pytestmark = pytest.mark.vm


def test_an_image_boots_enrols_trains_renews_hands_out_a_sealed_model_and_powers_off(
    world: World, image: Path, logs: Path
) -> None:
    """One machine from power on to power off; the golden values are computed from the image's files and its firmware's log."""
    vm = world.machine("road", image)
    world.start_manager([vm.issuer, vm.root])
    world.operator_disk(vm)
    began = time.monotonic()
    vm.start()
    world.seal()
    event_log = world.boot_log(vm, "road")
    machine = world.enrol(vm, "road")
    vm.wait_for(event="ready")
    baseline = world.golden(image, event_log, "road")
    agreement = world.agree("road", world.publish(baseline), [machine])
    run = world.submit(agreement, epochs=130, pause_ms=100)
    try:
        view = world["acme"].run("job", "wait", run)
    finally:
        (logs / "road.refusals.json").write_text(json.dumps(world.refusals(machine), indent=1))
    assert view["state"] == "finished", view
    renewals = [event for event in vm.events if event.get("event") == "renewed" and event.get("run") == run]
    assert renewals, "the lease was not renewed"
    target = world["acme"].folder / "model"
    world["acme"].run("output", "pull", run, "model", "--to", str(target))
    from safetensors.numpy import load_file

    [model] = target.rglob("*.safetensors")
    assert load_file(model)["weights"].shape == (8,)
    vm.press_power()
    vm.wait_off()
    took = time.monotonic() - began
    steps = {event["event"]: round(event["at"], 1) for event in vm.events if "event" in event}
    told = {"seconds": round(took, 1), "lease": LEASE_SECONDS, "events": steps, "accelerated": vm.accelerate}
    (logs / "timing.json").write_text(json.dumps(told, indent=1) + "\n")
