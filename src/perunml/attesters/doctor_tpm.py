"""What a machine can prove by its TPM, by IMA, and by a cloud's virtual TPM."""

from __future__ import annotations

from pathlib import Path

from perunml.attesters import doctor_machine as machine
from perunml.attesters.detect import AZURE, AZURE_TAG
from perunml.attesters.findings import Root, text

DMI = "sys/class/dmi/id"
VERSION = "sys/class/tpm/tpm0/tpm_version_major"


def tpm(root: Path) -> Root:
    """A TPM 2.0 that the agent may open."""
    found = machine.tpm(root)
    if text(root / VERSION).strip() == "1":
        return Root("TPM", False, "a TPM 1.2", "a TPM 2.0", "Switch the TPM to version 2.0 in the firmware's setup.")
    if found.ok:
        return Root("TPM", True, found.seen)
    missing = "access to the TPM" if (root / "dev/tpmrm0").exists() else "a TPM 2.0"
    return Root("TPM", False, found.seen, missing, found.fix)


def ima(root: Path) -> Root:
    """A kernel that measures what it loads, from the boot on."""
    log, policy = machine.ima_log(root), machine.ima_policy(root)
    if not log.ok:
        return Root("IMA", False, log.seen, "the kernel's list of measured files", log.fix)
    if not policy.ok:
        return Root("IMA", False, policy.seen, "an IMA policy that is in force from the start", policy.fix)
    if not machine.tpm(root).ok:
        return Root("IMA", False, policy.seen, "a TPM that the measurements go into", machine.tpm(root).fix)
    return Root("IMA", True, policy.seen)


def cloud(root: Path) -> Root:
    """A cloud's vTPM: only as good as the cloud, unless a TEE vouches for it."""
    name = _cloud(root)
    if not name:
        return Root(CLOUD, False, "no cloud's machine that is known here", "a cloud", OTHER)
    if not (root / "dev/tpmrm0").exists():
        fix = f"Start the machine anew at {name} with its virtual TPM (trusted launch, shielded VM) turned on."
        return Root(CLOUD, False, f"{name}, without a virtual TPM", "a virtual TPM", fix)
    found = machine.tpm(root)
    if not found.ok:
        return Root(CLOUD, False, f"{name}, {found.seen}", "access to the TPM", found.fix)
    return Root(CLOUD, True, f"{name}'s virtual TPM")


CLOUD = "cloud vTPM"
OTHER = "Nothing to do; or move the machine to a cloud's confidential VM."


def _cloud(root: Path) -> str:
    if text(root / AZURE).strip() == AZURE_TAG:
        return "Azure"
    return "Google Compute Engine" if "Google" in text(root / DMI / "product_name") else ""
