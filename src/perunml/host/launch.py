"""The last step before a job's code, inside the sandbox: Landlock and resource limits, then exec. Standard library only.

Bubblewrap's namespaces already hide what is not the job's; Landlock (landlock(7)) says the same once more by another
mechanism. It must come after the mounts are made, hence here and not in the runner. This file is shown to the
sandbox by itself; it imports nothing of Perun. Its argument is JSON: {"read": [...], "write": [...], "limits": {name: number},
"landlock": "required" | "none", "command": [...]}.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
import sys

EXIT_UNCONFINED = 125
"""Exit status when the confinement could not be made: the job's code never started."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_READ = 0b1101  # EXECUTE, READ_FILE, READ_DIR
_ALL_V1 = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FILE_ONLY = 0b111 | _TRUNCATE | _IOCTL_DEV  # EXECUTE, WRITE_FILE, READ_FILE: what a rule on a file may name

_libc = ctypes.CDLL(None, use_errno=True)


def landlock_version() -> int:
    """The kernel's Landlock ABI, 0 for none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)))


def confine(read: list[str], write: list[str]) -> None:
    """From now on only `read` may be read and executed, only `write` written (and read), no TCP. Raises `OSError`."""
    version = landlock_version()
    handled = _ALL_V1 | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    handled |= _IOCTL_DEV if version >= 5 else 0
    attributes = struct.pack("=Q", handled)
    if version >= 4:
        attributes += struct.pack("=Q", 0b11)  # NET_BIND_TCP, NET_CONNECT_TCP: no rule allows any port
    if version >= 6:
        attributes += struct.pack("=Q", 0b11)  # scope: abstract UNIX sockets and signals stay inside
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    for paths, allowed in ((read, _READ), (write, handled)):
        for path in paths:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights = allowed & handled & (~0 if os.path.isdir(path) else _FILE_ONLY)
            _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
            os.close(descriptor)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    _call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"landlock call {number}")
    return result


def main(argument: str) -> None:
    """Confine this process and become the job's."""
    try:
        settings = json.loads(argument)
        for name, value in settings["limits"].items():
            which = getattr(resource, name)
            _, hard = resource.getrlimit(which)
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (bound, bound))
        if settings["landlock"] == "required":
            confine(settings["read"], settings["write"])
        os.environ.pop("PWD", None)  # bubblewrap's; the contract has it not
        command = settings["command"]
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except Exception:
        os._exit(EXIT_UNCONFINED)


if __name__ == "__main__":
    main(sys.argv[1])
