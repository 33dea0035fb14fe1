"""Outlives a runner by a moment, to end what the runner's death left behind. Standard library only: it is run by its path.

Bubblewrap's processes ask the kernel to die with their parents, each at its own time: one whose parent is killed while the sandbox is
being made runs on, or waits for ever, and keeps the job's memory mounts alive. A job's user has no process but the job's, so when
the runner is gone every process of that user is to go. Standard input is a pipe whose other end the runner alone holds: a byte
says that all is over and nobody is to be killed, its end that the runner is gone. Argument: the job's user id.
"""

from __future__ import annotations

import os
import signal
import sys
import time

QUIET = 0.5
"""Seconds without a process of the user until nothing more can come: a fork that was under way is over long before."""
READY = b"r"


def kill_all(user: int) -> bool:
    """SIGKILL for every process of the user (its real id); whether there was one."""
    found = False
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/status") as file:
                text = file.read()
            # the owner of /proc/PID is root's for a process that may not be dumped; this line is not
            if f"\nUid:\t{user}\t" in text and "\nState:\tZ" not in text:
                found = True
                os.kill(int(name), signal.SIGKILL)
        except OSError:
            continue  # it ended by itself
    return found


def main(user: int) -> None:
    """Wait for the runner's word or its end."""
    os.write(1, READY)
    if os.read(0, 1):
        return
    last = time.monotonic()
    while time.monotonic() - last < QUIET:
        if kill_all(user):
            last = time.monotonic()
        time.sleep(0.01)


if __name__ == "__main__":
    main(int(sys.argv[1]))
