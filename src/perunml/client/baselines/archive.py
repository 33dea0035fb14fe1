"""Files in a tar archive: an image's, or a package's. Read as a stream; nothing is unpacked."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Callable
from typing import IO, BinaryIO, cast

from perunml.client.baselines.listing import Listing, absolute
from perunml.client.codes import BASELINE_SOURCE
from perunml.wire.errors import refuse

UNREADABLE = (tarfile.TarError, EOFError, OSError, ValueError, TypeError, IndexError, zlib.error, lzma.LZMAError)
"""What `tarfile` and its decompressors raise for bytes that are no archive; TypeError for a gzip header that is cut."""
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32")
"""Folders at the root that are links into /usr on a merged system (Debian 12 and later, Fedora, Ubuntu 20.04 and later)."""


def list_archive(
    listing: Listing, source: IO[bytes], report: Callable[[int], None], *, merged_usr: bool = False, name: str = ""
) -> None:
    """Add every regular file of the tar stream `source`, with hard links as the files that they are. With `merged_usr`,
    ``/bin/x`` is listed as ``/usr/bin/x``, which is how the kernel sees it.

    Raises `UsageError` (baseline_source) for an archive that cannot be read, or a member that leads out of it.
    """
    digests: dict[str, list[str] | None] = {}
    try:
        with tarfile.open(fileobj=source, mode="r|*") as archive:
            for member in archive:
                path = absolute(member.name)
                if path is None and (member.isreg() or member.islnk()):
                    raise refuse(BASELINE_SOURCE, "a member's name leads out of the archive", seen=member.name)
                if path is None:
                    continue
                if merged_usr:
                    path = _merged(path)
                if member.isreg():
                    file = cast(BinaryIO, archive.extractfile(member))
                    digests[path] = listing.take(path, file, bool(member.mode & 0o111), report)
                elif member.islnk():
                    target = absolute(member.linkname)
                    target = _merged(target) if merged_usr and target is not None else target
                    if target is None or target not in digests:
                        raise refuse(BASELINE_SOURCE, "a hard link to nothing in the archive", seen=member.name)
                    found = digests[path] = digests[target]
                    if found is not None:
                        listing.add(path, found)
    except UNREADABLE as exc:
        raise refuse(BASELINE_SOURCE, f"not an archive that can be read: {exc}", seen=name) from None


def _merged(path: str) -> str:
    first = path.split("/", 2)[1]
    return "/usr" + path if first in MERGED and path.count("/") > 1 else path
