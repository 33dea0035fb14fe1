"""Files below a root folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from perunml.client.baselines.listing import Listing, Progress
from perunml.client.codes import BASELINE_SOURCE
from perunml.wire.errors import refuse

NOT_OF_THE_ROOT = ("dev", "proc", "run", "sys")
"""Folders at the root that the kernel or the boot fills; what is in them is not of the root."""


def list_tree(listing: Listing, root: Path, progress: Progress) -> None:
    """Add every regular file below `root`, by its path from there. Links are not followed; other file systems mounted in
    it and the folders that a running system fills are left out.

    Raises `UsageError` (baseline_source) for a file that cannot be read: a listing with holes would refuse honest machines.
    """
    try:
        device = root.stat().st_dev
        found = list(_walk(os.fsencode(root), device, listing, top=True))
    except OSError as exc:
        raise _unreadable(exc) from None
    total = sum(size for _, _, size in found)
    prefix = len(os.fsencode(root).rstrip(b"/"))
    done = 0
    for path, mode, _ in found:

        def report(count: int) -> None:
            nonlocal done
            done += count
            progress(done, max(total, done))

        try:
            # what was a file a moment ago may be a link or a pipe by now
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    listing.take(os.fsdecode(path[prefix:]), file, bool(mode & 0o111), report)
        except OSError as exc:
            raise _unreadable(exc) from None


def _walk(folder: bytes, device: int, listing: Listing, *, top: bool = False) -> Iterator[tuple[bytes, int, int]]:
    pending = [(folder, top)]
    while pending:
        here, is_top = pending.pop()
        with os.scandir(here) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                about = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(about.st_mode):
                    yield entry.path, about.st_mode, about.st_size
                elif stat.S_ISDIR(about.st_mode):
                    if is_top and os.fsdecode(entry.name) in NOT_OF_THE_ROOT:
                        continue
                    if about.st_dev != device:
                        listing.note(f"another file system, left out: {os.fsdecode(entry.path)}")
                        continue
                    pending.append((entry.path, False))


def _unreadable(exc: OSError) -> Exception:
    return refuse(BASELINE_SOURCE, exc.strerror or type(exc).__name__, seen=os.fsdecode(exc.filename or b""))
