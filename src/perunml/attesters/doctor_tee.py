"""What a machine can prove by the TEE that it runs in: told from the kernel's files, without asking for a report."""

from __future__ import annotations

import os
import re
from contextlib import suppress

from perunml.attesters.detect import Ground
from perunml.attesters.findings import Root, flags, mounted, text
from perunml.attesters.gramine import DCAP, TYPE, attestation_type
from perunml.attesters.sev_guest import DEVICE as SEV_GUEST
from perunml.attesters.tsm import CCEL, REPORTS

OUTSIDE = "the TEE itself"
"""What a machine lacks that is in none of that kind."""
CONFIGFS_SINCE = (6, 7)
"""Linux's first version with configfs-tsm."""
TDX_GUEST = "dev/tdx_guest"
SEV_MARKS = (SEV_GUEST, "sys/devices/platform/sev-guest", "sys/devices/system/cpu/sev")
SGX_MARKS = ("dev/sgx_enclave", "dev/sgx/enclave")
CONFIGFS = "sys/kernel/config"


def tdx(ground: Ground) -> Root:
    """A trust domain that can ask for its quote."""
    if not (ground.has(TDX_GUEST) or "tdx_guest" in flags(ground.root)):
        fix = "Run the host as a TDX guest: a cloud's confidential VM, or QEMU with a tdx-guest object."
        return Root("TDX", False, "not a trust domain", OUTSIDE, fix)
    if (lacking := _no_configfs(ground, "tdx-guest")) is not None:
        return Root("TDX", False, "a trust domain, " + lacking[0], "configfs-tsm", lacking[1])
    log = "with its event log" if ground.has(CCEL.removeprefix("/")) else "without an event log: RTMRs by value only"
    return Root("TDX", True, f"a trust domain, {log}")


def snp(ground: Ground) -> Root:
    """An SNP guest that can ask for its report, by either interface."""
    if not any(map(ground.has, SEV_MARKS)):
        fix = "Run the host as an SEV-SNP guest: a cloud's confidential VM, or QEMU with a sev-snp-guest object."
        return Root("SEV-SNP", False, "not an SNP guest", OUTSIDE, fix)
    lacking = _no_configfs(ground, "sev-guest")
    if lacking is None:
        return Root("SEV-SNP", True, "an SNP guest, by configfs-tsm")
    if not ground.has(SEV_GUEST):
        return Root("SEV-SNP", False, "an SNP guest without /dev/sev-guest", "the guest's driver", lacking[1])
    if not os.access(ground.root / SEV_GUEST, os.R_OK | os.W_OK):
        fix = "Give the agent alone access to /dev/sev-guest."
        return Root("SEV-SNP", False, "an SNP guest whose /dev/sev-guest may not be opened", "access to it", fix)
    return Root("SEV-SNP", True, "an SNP guest, by /dev/sev-guest")


def sgx(ground: Ground) -> Root:
    """An enclave under Gramine whose manifest lets it attest."""
    told = ""
    with suppress(OSError):
        told = attestation_type(ground.tree)
    if told == DCAP:
        return Root("SGX", True, "an enclave under Gramine, by DCAP")
    if told or ground.tree.exists(TYPE):
        fix = 'Write sgx.remote_attestation = "dcap" into the manifest, and sign it anew.'
        return Root("SGX", False, f"Gramine that attests by {told or 'nothing'}", "attestation by DCAP", fix)
    if any(map(ground.has, SGX_MARKS)):
        fix = "Run the agent under Gramine, with its manifest: gramine-sgx perunml host run …"
        return Root("SGX", False, "SGX is there, and this is no enclave", "an enclave around the agent", fix)
    fix = "Use a machine with SGX, turn it on in the firmware's setup, and run the agent under Gramine."
    return Root("SGX", False, "no SGX", OUTSIDE, fix)


def _no_configfs(ground: Ground, module: str) -> tuple[str, str] | None:
    """Why there is no folder to ask for reports in: (what was seen, the one fix); None where there is one."""
    if ground.tree.exists(REPORTS):
        return None
    release = text(ground.root / "proc/sys/kernel/osrelease").strip()
    if (found := re.match(r"(\d+)\.(\d+)", release)) and tuple(map(int, found.groups())) < CONFIGFS_SINCE:
        return f"kernel {release} without configfs-tsm", "Boot a kernel 6.7 or newer."
    if not mounted(ground.root, "configfs"):
        return "configfs is not mounted", f"mount -t configfs none /{CONFIGFS}"
    return "no driver behind configfs-tsm", f"modprobe {module}"
