"""The IMA policy of a measured machine, as text (Linux, Documentation/ABI/testing/ima_policy). Machine images have the same one."""

from __future__ import annotations

from collections.abc import Iterable

DATA = "5045524e-4d4c-4441-5441-000000000001"
"""The file system of a machine image's operator's disk ("PERNMLDATA"; images/data.sh)."""
_HEAD = """\
# Measures every file that is read or executed from the system, whoever does it: no rule names a user.
# A program is measured wherever it lies; so is what changes the kernel, its keys or this policy.
measure func=BPRM_CHECK
measure func=MODULE_CHECK
measure func=FIRMWARE_CHECK
measure func=KEXEC_KERNEL_CHECK
measure func=KEXEC_INITRAMFS_CHECK
measure func=KEXEC_CMDLINE
measure func=POLICY_CHECK
measure func=KEY_CHECK
measure func=CRITICAL_DATA
# What the kernel makes up, and what is kept in memory: proc, sysfs, securityfs, debugfs, tracefs, efivarfs, devpts,
# binfmt_misc, cgroup, cgroup2, nsfs, bpf, tmpfs (a job's code, inputs and outputs), FUSE (sealed inputs as files).
"""
MADE_UP = (
    0x9FA0, 0x62656572, 0x73636673, 0x64626720, 0x74726163, 0xDE5E81E4, 0x1CD1, 0x42494E4D,
    0x27E0EB, 0x63677270, 0x6E736673, 0xCAFE4A11, 0x01021994, 0x65735546,
)  # fmt: skip
"""Magic numbers (Linux, include/uapi/linux/magic.h) in the order of the comment."""
_DATA = """\
# The data disk, mounted noexec: the agent's folder and sealed inputs, which no digest could know beforehand.
"""
_TAIL = """\
# Everything else: libraries and other executable maps, and every file that is read.
measure func=MMAP_CHECK mask=MAY_EXEC
measure func=FILE_CHECK mask=MAY_READ
"""


def ima_policy(data: Iterable[str] = ()) -> str:
    """The policy. `data` are the ids (UUIDs) of file systems that hold data alone and are mounted noexec: what is read there is not
    measured; what is executed there is."""
    made_up = "".join(f"dont_measure fsmagic=0x{magic:{'08x' if magic == 0x01021994 else 'x'}}\n" for magic in MADE_UP)
    excluded = "".join(f"dont_measure fsuuid={uuid}\n" for uuid in data)
    return _HEAD + made_up + (_DATA + excluded if excluded else "") + _TAIL
