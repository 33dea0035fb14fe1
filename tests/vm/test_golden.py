"""The image is built the same twice, and what is computed from its files is what a real boot measured."""

from __future__ import annotations

import filecmp
import subprocess
from pathlib import Path

import pytest

from perunml.client.golden.pe import parse_pe
from perunml.evidence.offline.boot import read_boot
from vm import images
from vm.world import World

pytestmark = pytest.mark.vm
FILES = ("disk.raw", "uki.efi", "root.img", "image.json", "packages")


def test_an_image_built_twice_is_the_same_to_the_byte(needed: None, tmp_path: Path) -> None:
    """Two whole builds, nothing kept between them."""
    for name in ("one", "two"):
        images.build(tmp_path / name)
    same, different, missing = filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", FILES, shallow=False)
    assert (sorted(same), different, missing) == (sorted(FILES), [], [])


def test_computed_pcrs_are_those_of_a_real_boot(world: World, image: Path) -> None:
    """PCRs 4, 7, 8, 9 and 11 to 14, from the files and the keys alone, against the log of a boot in which the firmware and the kernel
    measured them. (That the log is the TPM's, test_road.py shows: there the quote is verified.)"""
    vm = world.machine("golden", image)
    world.start_manager([vm.issuer, vm.root])
    world.operator_disk(vm)
    vm.start()
    log = world.boot_log(vm, "golden")
    vm.kill()
    party = world["gpu-cloud"]
    found = party.run("image", "golden", str(image), "--event-log", str(log), "--out", str(world.folder / "g.json"), "--sign")  # fmt: skip
    replayed = read_boot(log.read_bytes()).pcrs["sha256"]
    assert {int(index): value for index, value in found["pcrs"].items()} == {
        index: replayed.get(index, bytes(32)).hex() for index in (4, 7, 8, 9, 11, 12, 13, 14)
    }
    assert Path(found["signed"]).exists()


def test_the_authenticode_digest_is_the_one_that_was_signed(needed: None, image: Path) -> None:
    """Against another reader of the same format."""
    said = subprocess.run(["sbverify", "--list", image / "uki.efi"], capture_output=True, text=True, check=True)
    assert "image signature" in said.stdout
    keys = images.keys()
    checked = subprocess.run(["sbverify", "--cert", keys / "db.crt", image / "uki.efi"], capture_output=True, text=True, check=False)  # fmt: skip
    assert "Signature verification OK" in checked.stdout + checked.stderr
    uki = (image / "uki.efi").read_bytes()
    assert parse_pe(uki).authenticode in uki  # SpcIndirectDataContent holds the digest
