"""The IMA policy of a host, as text: what the kernel measures from the moment it is loaded. One for images and for machines that
were there before.

No rule names a user: `ima_policy=tcb` leaves out what others than root read, and a job's user is not root. The first rule that fits
decides, so what is measured wherever it lies stands before what is left out. Syntax: the kernel's Documentation/ABI/testing/ima_policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse

PATH = "etc/ima/ima-policy"
"""Where systemd takes it from (below /), and writes that name into securityfs: the kernel reads the file itself and measures it."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HEAD = "Measures every file that is read or executed from the system, whoever does it: no rule names a user."
_EVERYWHERE = (
    ("BPRM_CHECK", "a program that is executed, wherever it lies: in memory too"),
    ("MODULE_CHECK", "a kernel module"),
    ("FIRMWARE_CHECK", "firmware that a driver loads into a device"),
    ("KEXEC_KERNEL_CHECK", "the kernel that kexec would start,"),
    ("KEXEC_INITRAMFS_CHECK", "its initrd,"),
    ("KEXEC_CMDLINE", "and its command line"),
    ("POLICY_CHECK", "another IMA policy: whatever would change these rules"),
    ("KEY_CHECK", "a key that enters one of the kernel's keyrings"),
    ("CRITICAL_DATA", "state that the kernel holds to be critical: its version, a security module's policy, device mapper's tables"),
)  # fmt: skip
_KERNELS_OWN = (
    (0x9FA0, "proc"),
    (0x62656572, "sysfs"),
    (0x62656570, "configfs"),
    (0x73636673, "securityfs"),
    (0x64626720, "debugfs"),
    (0x74726163, "tracefs"),
    (0xDE5E81E4, "efivarfs"),
    (0x1CD1, "devpts"),
    (0x42494E4D, "binfmt_misc"),
    (0x27E0EB, "cgroup"),
    (0x63677270, "cgroup2"),
    (0x6E736673, "nsfs"),
    (0xCAFE4A11, "bpf"),
    (0xF97CFF8C, "selinuxfs"),
    (0x43415D53, "smackfs"),
    (0x01021994, "tmpfs: a job's code, inputs and outputs in the clear, whose digests no log may tell"),
    (0x65735546, "FUSE: sealed inputs as files, decrypted while they are read"),
)


def ima_policy(data_fsuuids: Iterable[str] = ()) -> str:
    """The policy's text, each rule with its reason. `data_fsuuids` are file systems' UUIDs (as `blkid` shows ext4's or xfs's) of
    disks that hold data only, mounted noexec: what is read there is not measured, what is executed is. Raises `UsageError`
    (malformed) for what is no UUID."""
    lines = [f"# {_HEAD}", "# A program, and what changes the kernel, its keys or this policy:"]
    for name, what in _EVERYWHERE:
        lines += [f"# {what}", f"measure func={name}"]
    lines.append("# Not measured when read: what the kernel makes up as it is asked, and what is kept in memory.")
    for number, what in _KERNELS_OWN:
        lines += [f"# {what}", f"dont_measure fsmagic={number:#x}"]
    for uuid in sorted({_checked(each) for each in data_fsuuids}):
        lines += ["# A data disk: the agent's folder and sealed inputs, which no digest could know beforehand.",
                  f"dont_measure fsuuid={uuid}"]  # fmt: skip
    lines += ["# Everything else: a library, or another file that is mapped to be executed,", "measure func=MMAP_CHECK mask=MAY_EXEC"]  # fmt: skip
    lines += ["# and every file that is read: scripts, byte code, settings.", "measure func=FILE_CHECK mask=MAY_READ"]
    return "\n".join(lines) + "\n"


def _checked(uuid: str) -> str:
    told = uuid.lower()
    if not _UUID.fullmatch(told):
        raise refuse(
            MALFORMED, "not the UUID of a file system", expected="8-4-4-4-12 hex digits, as `blkid -s UUID` shows", seen=uuid
        )  # fmt: skip
    return told
