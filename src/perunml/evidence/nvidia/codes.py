"""The rules of NVIDIA's devices alone; what they share with TEEs is in `evidence.tee.codes`."""

from perunml.evidence.codes import evidence_rule
from perunml.wire.rules import Kind, rule

_MACHINE = (
    "The machine's operator offers the agreed devices, or the parties agree on others: `perunml agreement propose`."
)
_COLLATERAL = "The manager's operator collects newer collateral and puts it into the manager's folder: `perunml collateral bundle`."

RIM_MISSING = evidence_rule(
    "rim_missing",
    "There is no signed reference manifest (RIM) for the device's driver or firmware version: nothing says what its "
    "measurements should be.",
    "The manager's operator collects the manifest of that version, or the parties excuse that version until a day: "
    "`perunml agreement propose`.",
)
RIM_SIGNATURE = evidence_rule(
    "rim_signature",
    "A reference manifest (RIM) is not signed by its vendor as a whole, or not of its form.",
    _COLLATERAL,
)
FIRMWARE_MISMATCH = evidence_rule(
    "firmware_mismatch",
    "The firmware that a device's report names is not the one that its certificate was issued for, or a GPU's names none.",
    "The host's operator resets the device and collects fresh evidence: `perunml host run`.",
)
GPU_COUNT = evidence_rule("gpu_count", "The machine shows more or fewer GPUs than the profile demands.", _MACHINE)
NVSWITCH_MISSING = evidence_rule(
    "nvswitch_missing", "The machine shows more or fewer NVSwitches than the profile demands.", _MACHINE
)
DEVICE_REPEATED = evidence_rule(
    "device_repeated",
    "Two reports are of one and the same device: it counts once.",
    "The host's operator collects one report of each device: `perunml host run`.",
)
DEVICE_TOPOLOGY = evidence_rule(
    "device_topology",
    "The GPUs and NVSwitches that were proven are not those that are wired to one another, or a switch is not locked.",
    _MACHINE,
)
GPU_ARCHITECTURE = evidence_rule(
    "gpu_architecture", "The device is of an architecture that the profile does not name.", _MACHINE
)
GPU_DRIVER = evidence_rule(
    "gpu_driver", "The GPU runs under a driver version that the profile does not admit.",
    "The machine's operator installs an agreed driver, or the parties agree on this one: `perunml agreement propose`.",
)  # fmt: skip
GPU_FIRMWARE = evidence_rule(
    "gpu_firmware", "The device's firmware (VBIOS) is of a version that the profile does not admit.",
    "The machine's operator updates the firmware, or the parties agree on this one: `perunml agreement propose`.",
)  # fmt: skip
GPU_MODE = evidence_rule(
    "gpu_mode",
    "The GPU is in another mode of confidential computing than the profile admits, or does not say in which.",
    "The machine's operator sets the agreed mode and resets the GPU, or the parties agree on it: `perunml agreement propose`.",
)
EXTRA_MISSING = rule(
    "extra_missing",
    Kind.USAGE,
    "NVIDIA's manifests are read with lxml and signxml, which are not installed.",
    "Whoever runs this program installs them: pip install perunml[gpu]; then `perunml evidence check` again.",
)
