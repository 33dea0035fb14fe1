"""What an installed agent needs, as files: a systemd unit, an IMA policy, a udev rule, words for the kernel's command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perunml.host.install.ima_policy import ima_policy

UNIT = "etc/systemd/system/perunml-host.service"
POLICY = "etc/ima/ima-policy"
"""systemd loads it when the machine starts (man 7 ima-policy; systemd's ima-setup)."""
TPM = "etc/udev/rules.d/60-perunml-tpm.rules"
CMDLINE = "etc/default/grub.d/perunml.cfg"
WORDS = "ima_policy=tcb ima_template=ima-ng ima_hash=sha256 lockdown=confidentiality"
_HOMES = ("/home", "/root", "/run/user")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator wants. `pin` is the pinned manager's file; `attester` as for `host run`; `data` are file systems of data alone."""

    folder: Path
    pin: Path
    attester: tuple[str, ...] = ("tpm",)
    services_listen: str = ""
    metrics_listen: str = ""
    data: tuple[str, ...] = ()
    python: str = sys.executable


def files(wish: Wish) -> Mapping[str, str]:
    """The files by their paths below the root, and their text."""
    return {UNIT: unit(wish), POLICY: ima_policy(wish.data), TPM: _TPM_RULE, CMDLINE: _GRUB.format(words=WORDS)}


def unit(wish: Wish) -> str:
    """The systemd unit. Paths and words stand in double quotes, with systemd's own specifiers escaped (man 5 systemd.unit)."""
    words = [
        wish.python,
        "-m",
        "perunml",
        "-o",
        "json",
        "host",
        "run",
        "--folder",
        str(wish.folder),
        "--pin",
        str(wish.pin),
    ]
    words += [word for kind in wish.attester for word in ("--attester", kind)]
    for option, value in (("--services-listen", wish.services_listen), ("--metrics-listen", wish.metrics_listen)):
        words += [option, value] if value else []
    at_home = any(str(path).startswith(f"{home}/") for path in (wish.folder, wish.pin, wish.python) for home in _HOMES)
    return _UNIT.format(
        command=" ".join(_quoted(word) for word in words),
        folder=_quoted(str(wish.folder)),
        homes="read-only" if at_home else "yes",
    )


def _quoted(word: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$"), ("\n", "\\n")):
        word = word.replace(plain, escaped)
    return f'"{word}"'


_UNIT = """\
# Written by `perunml host install`; taken away by `perunml host uninstall`.
[Unit]
Description=Perun's agent: runs agreed jobs on sealed data, and proves this machine's state
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart={command}
Restart=on-failure
RestartSec=5
KillMode=mixed
TimeoutStopSec=30
UMask=0077

# It makes mounts and a user for each job, so it is root, with these capabilities and no others. A job has none.
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_SETUID CAP_SETGID CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_KILL CAP_IPC_LOCK CAP_SYS_RESOURCE CAP_MKNOD
NoNewPrivileges=yes
# Jobs' limits are cgroups below its own; unsealed data may neither swap nor be dumped.
Delegate=yes
MemorySwapMax=0
LimitMEMLOCK=infinity
LimitCORE=0

ProtectSystem=strict
ReadWritePaths=-{folder}
ProtectHome={homes}
PrivateTmp=yes
ProtectKernelModules=yes
ProtectClock=yes
ProtectHostname=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
# Not here: ProtectKernelTunables, ProtectKernelLogs, ProtectProc. They cover parts of /proc, and then the kernel lets no
# sandbox mount a /proc of its own. Nor PrivateDevices: the TPM and GPUs are devices.

[Install]
WantedBy=multi-user.target
"""
_TPM_RULE = """\
# Written by `perunml host install`: the TPM is the agent's, which runs as root, and nobody else's.
KERNEL=="tpm[0-9]*|tpmrm[0-9]*", OWNER="root", GROUP="root", MODE="0600"
"""
_GRUB = """\
# Written by `perunml host install`: measure from the first program on, and let nobody change the running kernel.
GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {words}"
"""
