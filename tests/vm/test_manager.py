"""A manager in an image of the same family: parties verify it by its own golden values, and its root key opens on it alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from vm import images
from vm.images import PROJECT
from vm.machine import Vm, free_port
from vm.world import World

pytestmark = pytest.mark.vm
PORT = 7443
PROFILE = """\
apiVersion: perunml/v1
kind: ManagerProfile
profile: {{profile: simulated, imitates: measured, baseline: "{baseline}"}}
"""


@pytest.fixture(scope="module")
def manager_image(needed: None) -> Path:
    return images.built("manager", "--role", "manager")


def disk(vm: Vm, url: str) -> None:
    folder = vm.folder / "disk"
    for name, source in (("simulated-ek-roots", vm.root), ("ek-chain", vm.issuer)):
        (folder / name).mkdir(parents=True)
        shutil.copyfile(source, folder / name / "ca.pem")
    settings = f'apiVersion: perunml/v1\nkind: Manager\nurl: "{url}"\nattester: tpm\nlisten: "0.0.0.0:{PORT}"\n'
    (folder / "manager.yaml").write_text(settings)
    subprocess.run([PROJECT / "images" / "data.sh", folder, vm.data, "256M"], check=True)


def test_parties_verify_a_manager_by_its_images_golden_values_and_no_others(
    world: World, manager_image: Path, image: Path
) -> None:
    """Its evidence is judged by the golden values of its image; the host's image's are not it. After a reboot it is itself again,
    with nobody there who types a passphrase."""
    vm = world.machine("manager", manager_image)
    port = free_port()
    vm.forwards[port] = PORT
    url = f"https://127.0.0.1:{port}"
    disk(vm, url)
    vm.start()
    ready = vm.wait_for(event="ready")
    assert (ready["attester"], ready["custody"], ready["url"]) == ("tpm", "tpm", url)

    party = world["acme"]
    party.run("id", "create", "--name", "acme")
    open_pcrs = [word for index in (0, 1, 2, 3, 5, 6) for word in ("--open-pcr", str(index))]
    found = {}
    for name, folder in (("manager", manager_image), ("host", image)):
        out = world.folder / f"{name}.json"
        found[name] = out, party.run("image", "golden", str(folder), *open_pcrs, "--out", str(out))["digest"]

    def trust(name: str) -> list[str]:
        baseline, digest = found[name]
        profile = world.folder / f"{name}.yaml"
        profile.write_text(PROFILE.format(baseline=digest))
        return ["trust", url, "--profile", str(profile), "--baseline", str(baseline), "--simulated-ek-root", str(vm.root), "--simulated-ek-root", str(vm.issuer)]  # fmt: skip

    other = party.refused(*trust("host"))
    assert "pcr_mismatch" in {reason["code"] for reason in other.reasons}
    pinned = party.run(*trust("manager"))
    assert pinned["identity"] == ready["identity"]

    vm.press_power()
    vm.wait_off()
    vm.kill()
    vm.start()
    again = vm.wait_for(event="ready")
    assert again["identity"] == ready["identity"]
    assert party.run(*trust("manager"))["identity"] == ready["identity"]
