"""The system calls a job may not make, as a seccomp filter (seccomp(2), classic BPF) that bubblewrap loads with --seccomp.

Everything is allowed that is not named: training code uses hundreds of calls, and the namespaces around it carry the
isolation. Named is what reaches into the kernel's rarely walked parts or out of the sandbox. A refused call gives EPERM, a
refused socket EAFNOSUPPORT; clone3 and io_uring give ENOSYS, at which libc falls back to clone and libuv to threads
(a filter cannot look into clone3's structure). A program of another architecture than the machine's is killed, and
x86-64's x32 calls, which number the same calls anew, do not exist.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from perunml.host.codes import HOST_UNFIT
from perunml.wire.errors import refuse

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]
_NR, _ARCH, _ARG0 = 0, 4, 16
# linux/bpf_common.h, linux/seccomp.h
_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_X32_BIT = 0x40000000
_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. NEWTIME is clone3's and unshare's alone."""

# AUDIT_ARCH_* and call numbers: arch/x86/entry/syscalls/syscall_64.tbl; include/uapi/asm-generic/unistd.h
_X86_64 = {
    "ptrace": 101, "syslog": 103, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
    "pivot_root": 155, "chroot": 161, "acct": 163, "settimeofday": 164, "sethostname": 170, "setdomainname": 171,
    "iopl": 172, "ioperm": 173, "init_module": 175, "delete_module": 176, "quotactl": 179, "nfsservctl": 180,
    "uselib": 134, "personality": 135, "_sysctl": 156, "adjtimex": 159, "clock_settime": 227, "lookup_dcookie": 212,
    "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256, "unshare": 272,
    "move_pages": 279, "vmsplice": 278, "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
    "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
}  # fmt: skip
_AARCH64 = {
    "ptrace": 117, "syslog": 116, "mount": 40, "umount2": 39, "swapon": 224, "swapoff": 225, "reboot": 142,
    "pivot_root": 41, "chroot": 51, "acct": 89, "settimeofday": 170, "sethostname": 161, "setdomainname": 162,
    "init_module": 105, "delete_module": 106, "quotactl": 60, "nfsservctl": 42, "personality": 92, "adjtimex": 171,
    "clock_settime": 112, "lookup_dcookie": 18, "kexec_load": 104, "add_key": 217, "request_key": 218, "keyctl": 219,
    "migrate_pages": 238, "unshare": 97, "move_pages": 239, "vmsplice": 75, "perf_event_open": 241,
    "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268,
    "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "kexec_file_load": 294,
    "bpf": 280, "userfaultfd": 282,
}  # fmt: skip
# From 424 on all architectures share their numbers.
_SHARED = {
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "quotactl_fd": 443, "process_madvise": 440, "pidfd_getfd": 438,
}  # fmt: skip
_ABSENT = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "clone3": 435}
_MACHINES: dict[str, tuple[int, dict[str, int], int, int]] = {
    # machine: AUDIT_ARCH, denied calls, clone, socket
    "x86_64": (0xC000003E, _X86_64, 56, 41),
    "aarch64": (0xC00000B7, _AARCH64, 220, 198),
}


def filter_program(machine: str | None = None) -> bytes:
    """The filter for `machine` (default: this one) as an array of struct sock_filter. Raises `UsageError` (host_unfit) for
    an architecture whose calls are not listed here."""
    machine = machine or os.uname().machine
    if machine not in _MACHINES:
        raise refuse(
            HOST_UNFIT, "no system call filter for this architecture", expected="x86_64 or aarch64", seen=machine
        )
    arch, denied, clone, sock = _MACHINES[machine]
    eperm, enosys, eaf = (_ERRNO | number for number in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT))
    out = [(_LOAD, 0, 0, _ARCH), (_JEQ, 1, 0, arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NR)]
    if machine == "x86_64":
        out += [(_JGE, 0, 1, _X32_BIT), (_RETURN, 0, 0, enosys)]
    for number in sorted((denied | _SHARED).values()):
        out += [(_JEQ, 0, 1, number), (_RETURN, 0, 0, eperm)]
    for number in sorted(_ABSENT.values()):
        out += [(_JEQ, 0, 1, number), (_RETURN, 0, 0, enosys)]
    out += [(_JEQ, 0, 4, clone), (_LOAD, 0, 0, _ARG0), (_JSET, 0, 1, _NAMESPACES), (_RETURN, 0, 0, eperm)]
    out += [(_RETURN, 0, 0, _ALLOW)]
    # AF_UNIX has nobody to talk to but the job itself: the sandbox shows it no socket of the machine's.
    out += [(_JEQ, 0, 3, sock), (_LOAD, 0, 0, _ARG0), (_JEQ, 1, 0, int(socket.AF_UNIX)), (_RETURN, 0, 0, eaf)]
    out += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *each) for each in out)
