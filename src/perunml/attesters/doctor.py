"""`host doctor`: what of this machine fits a host's job, what does not, and how to mend it. Looks, changes nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perunml.wire.errors import PerunError

_READ_AT_MOST = 64 * 1024
EVENT_LOG = "sys/kernel/security/tpm0/binary_bios_measurements"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: is it as a host needs it, what was seen, and how to mend it (empty when it is well)."""

    name: str
    ok: bool
    seen: str
    fix: str


def doctor(root: Path = Path("/")) -> list[Finding]:
    """Every finding about the machine whose file system begins at `root`."""
    return [
        _tpm(root),
        _securityfs(root),
        _boot_log(root),
        _ima_log(root),
        _ima_policy(root),
        _lockdown(root),
        _program("bwrap", "bubblewrap"),
        _cgroups(root),
        _swap(root),
        _landlock(root),
    ]


def _finding(name: str, ok: bool, seen: str, fix: str) -> Finding:
    return Finding(name, ok, seen, "" if ok else fix)


def _tpm(root: Path) -> Finding:
    device = root / "dev/tpmrm0"
    if not device.exists():
        seen, ok = "no /dev/tpmrm0", False
    else:
        ok = os.access(device, os.R_OK | os.W_OK)
        seen = "/dev/tpmrm0" if ok else "/dev/tpmrm0, but it may not be opened"
    return _finding(
        "tpm", ok, seen, "Enable the TPM 2.0 in the firmware and give the agent alone access to /dev/tpmrm0."
    )


def _securityfs(root: Path) -> Finding:
    mounted = any(line.split()[2:3] == ["securityfs"] for line in _lines(root / "proc/mounts"))
    seen = "mounted" if mounted else "not mounted"
    return _finding("securityfs", mounted, seen, "mount -t securityfs securityfs /sys/kernel/security")


def _boot_log(root: Path) -> Finding:
    """What a baseline's boot rules would be judged by; whether Secure Boot must be on is for the baseline to say."""
    from perunml.evidence.bootlog.facts import read_boot_log
    from perunml.evidence.bootlog.parse import parse_boot_log

    fix = "Turn on measured boot in the firmware, and run the agent so that it can read the kernel's copy of the log."
    try:
        facts = read_boot_log(parse_boot_log((root / EVENT_LOG).read_bytes()), {})
    except OSError as exc:
        return _finding("boot log", False, f"not read: {exc.strerror}", fix)
    except PerunError as exc:
        return _finding("boot log", False, f"odd: {exc.reasons[0].message}", "Update the firmware.")
    state = {True: "on", False: "off, or in setup mode", None: "not measured"}[facts.secure_boot]
    revoked = facts.signatures("dbx")
    told = f"{len(facts.log.events)} events, Secure Boot {state}, "
    told += f"{len(revoked)} entries in dbx" if revoked is not None else "no dbx measured"
    return _finding("boot log", True, told, "")


def _ima_log(root: Path) -> Finding:
    log = root / "sys/kernel/security/ima/binary_runtime_measurements"
    ok = log.is_file() and os.access(log, os.R_OK)
    seen = "readable" if ok else ("may not be read" if log.exists() else "the kernel keeps none")
    return _finding("ima log", ok, seen, "Boot a kernel with CONFIG_IMA and run the agent so that it can read the log.")


def _ima_policy(root: Path) -> Finding:
    words = _text(root / "proc/cmdline").split()
    policies = [word for word in words if word.startswith("ima_policy=")]
    return _finding(
        "ima policy", bool(policies), " ".join(policies) or "none on the command line", "Boot with ima_policy=tcb."
    )


def _lockdown(root: Path) -> Finding:
    text = _text(root / "sys/kernel/security/lockdown").strip()
    ok = "[integrity]" in text or "[confidentiality]" in text
    return _finding("kernel lockdown", ok, text or "not supported", "Boot with lockdown=confidentiality.")


def _program(name: str, package: str) -> Finding:
    found = shutil.which(name)
    return _finding(name, found is not None, found or "not installed", f"apt install {package}")


def _cgroups(root: Path) -> Finding:
    base = root / "sys/fs/cgroup"
    if (base / "cgroup.controllers").is_file():
        seen, ok = "v2", True
    elif (base / "memory").is_dir():
        seen, ok = "v1", True
    else:
        seen, ok = "none: limits by rlimits alone", False
    return _finding("cgroups", ok, seen, "Mount cgroup v2 at /sys/fs/cgroup, and let the agent write there.")


def _swap(root: Path) -> Finding:
    areas = _lines(root / "proc/swaps")[1:]
    seen = "none" if not areas else ", ".join(line.split()[0] for line in areas)
    return _finding("swap", not areas, seen, "swapoff -a, and take swap out of /etc/fstab.")


def _landlock(root: Path) -> Finding:
    ok = "landlock" in _text(root / "sys/kernel/security/lsm").split(",")
    return _finding("landlock", ok, "on" if ok else "not among the LSMs", "Boot with lsm=landlock,lockdown,yama,…")


def _lines(path: Path) -> list[str]:
    return list(_nonempty(_text(path)))


def _nonempty(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line.strip())


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_READ_AT_MOST).decode("utf-8", "replace")
    except OSError:
        return ""
