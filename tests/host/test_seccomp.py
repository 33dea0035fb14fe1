"""The filter's program, walked by an interpreter of its own; the real kernel's word is in test_sandbox."""

from __future__ import annotations

import errno
import struct

import pytest

from perunml.host import seccomp
from perunml.host.seccomp import filter_program
from perunml.wire.errors import UsageError

ALLOW, KILL = 0x7FFF0000, 0x80000000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def run(program: bytes, number: int, arch: int, first: int = 0) -> int:
    """What classic BPF returns for a call."""
    data = struct.pack("=IIQ", number, arch, 0) + struct.pack("=6Q", first, 0, 0, 0, 0, 0)
    code = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        operation, true, false, value = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif operation == 0x06:
            return int(value)
        else:
            taken = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
            at += true if taken else false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_named_calls_are_refused_and_others_pass(machine: str) -> None:
    """Every listed call gives EPERM, read and write pass, another architecture is killed."""
    program = filter_program(machine)
    arch = ARCH[machine]
    denied = seccomp._MACHINES[machine][1] | seccomp._SHARED
    assert len(denied) > 40
    for number in denied.values():
        assert run(program, number, arch) == 0x50000 | errno.EPERM
    for number in seccomp._ABSENT.values():
        assert run(program, number, arch) == 0x50000 | errno.ENOSYS
    for number in (0, 1, 63, 64, 9, 222):
        assert number in denied.values() or run(program, number, arch) == ALLOW
    assert run(program, 0, 0x40000003) == KILL


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_threads_and_forks_pass_but_no_namespace(machine: str) -> None:
    """clone is looked into: pthread_create's and fork's flags pass, each namespace's does not."""
    program, arch, clone, sock = filter_program(machine), ARCH[machine], *seccomp._MACHINES[machine][2:]
    for flags in (0x003D0F00, 0x01200011, 17):
        assert run(program, clone, arch, flags) == ALLOW
    for bit in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert run(program, clone, arch, bit | 17) == 0x50000 | errno.EPERM
    assert run(program, sock, arch, 1) == ALLOW
    for family in (0, 2, 10, 16, 17, 40):
        assert run(program, sock, arch, family) == 0x50000 | errno.EAFNOSUPPORT


def test_unknown_architecture_is_refused() -> None:
    """No filter is no sandbox."""
    with pytest.raises(UsageError) as caught:
        filter_program("riscv64")
    assert caught.value.code == "host_unfit"
