"""What of this machine fits any host's job, and what one needs that proves by its TPM and IMA."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from perunml.attesters.findings import Finding, finding, lines, mounted, text
from perunml.wire.errors import PerunError

EVENT_LOG = "sys/kernel/security/tpm0/binary_bios_measurements"
IMA_LOG = "sys/kernel/security/ima/binary_runtime_measurements"
MEASURED = "measured"


def machine_findings(root: Path) -> list[Finding]:
    """Every finding about the machine whose file system begins at `root`."""
    return [
        tpm(root),
        _securityfs(root),
        boot_log(root),
        ima_log(root),
        ima_policy(root),
        _lockdown(root),
        _program("bwrap", "bubblewrap"),
        _cgroups(root),
        _swap(root),
        _landlock(root),
    ]


def tpm(root: Path) -> Finding:
    device = root / "dev/tpmrm0"
    if not device.exists():
        seen, ok = "no /dev/tpmrm0", False
    else:
        ok = os.access(device, os.R_OK | os.W_OK)
        seen = "/dev/tpmrm0" if ok else "/dev/tpmrm0, but it may not be opened"
    return finding(
        "tpm", ok, seen, "Enable the TPM 2.0 in the firmware and give the agent alone access to /dev/tpmrm0.", MEASURED
    )


def _securityfs(root: Path) -> Finding:
    ok = mounted(root, "securityfs")
    seen = "mounted" if ok else "not mounted"
    return finding("securityfs", ok, seen, "mount -t securityfs securityfs /sys/kernel/security", MEASURED)


def boot_log(root: Path) -> Finding:
    """What a baseline's boot rules would be judged by; whether Secure Boot must be on is for the baseline to say."""
    from perunml.evidence.bootlog.facts import read_boot_log
    from perunml.evidence.bootlog.parse import parse_boot_log

    fix = "Turn on measured boot in the firmware, and run the agent so that it can read the kernel's copy of the log."
    try:
        facts = read_boot_log(parse_boot_log((root / EVENT_LOG).read_bytes()), {})
    except OSError as exc:
        return finding("boot log", False, f"not read: {exc.strerror}", fix, MEASURED)
    except PerunError as exc:
        return finding("boot log", False, f"odd: {exc.reasons[0].message}", "Update the firmware.", MEASURED)
    state = {True: "on", False: "off, or in setup mode", None: "not measured"}[facts.secure_boot]
    revoked = facts.signatures("dbx")
    told = f"{len(facts.log.events)} events, Secure Boot {state}, "
    told += f"{len(revoked)} entries in dbx" if revoked is not None else "no dbx measured"
    return finding("boot log", True, told, "", MEASURED)


def ima_log(root: Path) -> Finding:
    log = root / IMA_LOG
    ok = log.is_file() and os.access(log, os.R_OK)
    seen = "readable" if ok else ("may not be read" if log.exists() else "the kernel keeps none")
    return finding(
        "ima log", ok, seen, "Boot a kernel with CONFIG_IMA and run the agent so that it can read the log.", MEASURED
    )


def ima_policy(root: Path) -> Finding:
    words = text(root / "proc/cmdline").split()
    policies = [word for word in words if word.startswith("ima_policy=")]
    return finding(
        "ima policy",
        bool(policies),
        " ".join(policies) or "none on the command line",
        "Boot with ima_policy=tcb.",
        MEASURED,
    )


def _lockdown(root: Path) -> Finding:
    told = text(root / "sys/kernel/security/lockdown").strip()
    ok = "[integrity]" in told or "[confidentiality]" in told
    return finding("kernel lockdown", ok, told or "not supported", "Boot with lockdown=confidentiality.", MEASURED)


def _program(name: str, package: str) -> Finding:
    found = shutil.which(name)
    return finding(name, found is not None, found or "not installed", f"apt install {package}")


def _cgroups(root: Path) -> Finding:
    base = root / "sys/fs/cgroup"
    if (base / "cgroup.controllers").is_file():
        seen, ok = "v2", True
    elif (base / "memory").is_dir():
        seen, ok = "v1", True
    else:
        seen, ok = "none: limits by rlimits alone", False
    return finding("cgroups", ok, seen, "Mount cgroup v2 at /sys/fs/cgroup, and let the agent write there.")


def _swap(root: Path) -> Finding:
    areas = lines(root / "proc/swaps")[1:]
    seen = "none" if not areas else ", ".join(line.split()[0] for line in areas)
    return finding("swap", not areas, seen, "swapoff -a, and take swap out of /etc/fstab.")


def _landlock(root: Path) -> Finding:
    ok = "landlock" in text(root / "sys/kernel/security/lsm").split(",")
    return finding("landlock", ok, "on" if ok else "not among the LSMs", "Boot with lsm=landlock,lockdown,yama,…")
