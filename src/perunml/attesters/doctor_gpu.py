"""What a machine can prove by its NVIDIA GPUs."""

from __future__ import annotations

from perunml.attesters.detect import SWITCHES, Ground
from perunml.attesters.findings import Root, text
from perunml.attesters.nvattest import PROGRAM
from perunml.attesters.nvidia import GpuState, Nvml
from perunml.wire.errors import PerunError

NAME = "NVIDIA CC"
DRIVER = ("dev/nvidiactl", "proc/driver/nvidia/version")
PCI = "sys/bus/pci/devices"
VENDOR = "0x10de"
DISPLAY = "0x03"
"""The class of a GPU; audio and switches of the same vendor have others."""
TOOL = "nvidia_gpu_tools.py --set-cc-mode=on --reset-after-cc-mode-switch"
"""Of NVIDIA's gpu-admin-tools, where the hypervisor runs."""


def nvidia(ground: Ground) -> Root:
    """GPUs in confidential mode, out of development mode, that jobs may use."""
    if not any(map(ground.has, DRIVER)):
        return _without_driver(ground)
    try:
        library = ground.nvml()
    except ImportError:
        return _without_nvml(ground)
    try:
        state = Nvml(library).state()
    except PerunError as refusal:
        fix = (
            "Install the driver's own library of the same version (libnvidia-ml), and load the driver: modprobe nvidia"
        )
        return Root(NAME, False, refusal.reasons[0].message, "an answer of the driver", fix)
    return _state(ground, state)


def _state(ground: Ground, state: GpuState) -> Root:
    seen = f"{state.count} GPU" + ("s" if state.count != 1 else "")
    if not state.count:
        return Root(NAME, False, "a driver, and no GPU", "a GPU", "Give the machine a GPU of Hopper or newer.")
    if state.development:
        fix = f"Where the hypervisor runs: {TOOL} (not devtools)"
        return Root(NAME, False, f"{seen} in development mode", "confidential mode without debuggers", fix)
    if not state.confidential:
        fix = f"Give the GPU to a confidential VM, and where the hypervisor runs: {TOOL}"
        return Root(NAME, False, f"{seen}, confidential mode off", "confidential mode", fix)
    if not state.ready:
        fix = "nvidia-smi conf-compute -srs 1"
        return Root(NAME, False, f"{seen} in confidential mode, not yet set ready for jobs", "the ready state", fix)
    if ground.has(SWITCHES) and ground.which(PROGRAM) is None:
        fix = "Install nvattest (NVIDIA's attestation SDK): NVML has no reports of switches."
        return Root(NAME, False, f"{seen} in confidential mode, and NVSwitches", "the switches' reports", fix)
    return Root(NAME, True, f"{seen} in confidential mode")


def _without_driver(ground: Ground) -> Root:
    if _gpu_on_bus(ground):
        return Root(
            NAME, False, "a GPU, and no driver", "NVIDIA's driver", "Install NVIDIA's driver with open modules."
        )
    fix = "Use a machine with a GPU of Hopper or newer, in a confidential VM."
    return Root(NAME, False, "no NVIDIA GPU", "a GPU", fix)


def _without_nvml(ground: Ground) -> Root:
    fix = "pip install nvidia-ml-py"
    if ground.which(PROGRAM) is None:
        return Root(NAME, False, "a driver, and no way to ask it", "NVML for Python, or nvattest", fix)
    return Root(NAME, False, "nvattest can ask the GPUs; their mode is not known", "NVML for Python, to see it", fix)


def _gpu_on_bus(ground: Ground) -> bool:
    folder = ground.root / PCI
    if not folder.is_dir():
        return False
    return any(
        text(device / "vendor").strip() == VENDOR and text(device / "class").startswith(DISPLAY)
        for device in sorted(folder.iterdir())
    )
