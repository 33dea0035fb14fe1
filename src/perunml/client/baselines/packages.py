"""Files of the packages that a dpkg status lists, out of the .deb files themselves (deb(5), deb-control(5))."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from perunml.client.baselines.archive import UNREADABLE, list_archive
from perunml.client.baselines.listing import Listing, Progress
from perunml.client.codes import BASELINE_SOURCE
from perunml.wire.errors import refuse

Package = tuple[str, str, str]
"""Name, version, architecture."""
MAX_CONTROL = 4 * 1024 * 1024
MAX_STATUS = 256 * 1024 * 1024
_AR_MAGIC, _AR_HEADER = b"!<arch>\n", 60
TIMEOUT = 600


def list_packages(listing: Listing, status: Path, folder: Path, progress: Progress, *, merged_usr: bool = True) -> int:
    """Add the files of every installed package; the number of packages. Files that packages make when they are installed
    (initrd, caches, byte code) are in no package.

    Raises `UsageError` (baseline_source) for packages that the folder lacks, and for what cannot be read.
    """
    try:
        wanted = installed(status.read_bytes()[:MAX_STATUS])
        debs = sorted(folder.glob("**/*.deb"))
        at_hand: dict[Package, Path] = {}
        for deb in debs:
            at_hand.setdefault(_identity(deb), deb)
        missing = [package for package in wanted if package not in at_hand]
        if missing:
            shown = ", ".join("_".join(package) for package in missing[:8])
            raise refuse(
                BASELINE_SOURCE,
                f"{len(missing)} of {len(wanted)} installed packages are not in the folder",
                expected="the .deb file of each",
                seen=shown + (" …" if len(missing) > 8 else ""),
            )
        total = sum(at_hand[package].stat().st_size for package in wanted)
        done = 0
        for package in wanted:
            deb = at_hand[package]
            with deb.open("rb") as file:
                data = _member(file, "data.tar", deb)
                list_archive(listing, data, lambda _: None, merged_usr=merged_usr, name=str(deb))
            done += deb.stat().st_size
            progress(done, total)
    except OSError as exc:
        raise refuse(BASELINE_SOURCE, exc.strerror or type(exc).__name__, seen=str(exc.filename or "")) from None
    return len(wanted)


def installed(status: bytes) -> list[Package]:
    """The packages that /var/lib/dpkg/status says are installed. Raises `UsageError` (baseline_source)."""
    found = []
    for fields in _paragraphs(status):
        if fields.get("Status", "").split()[-1:] == ["installed"]:
            found.append(_package(fields))
    if not found:
        raise refuse(BASELINE_SOURCE, "the status lists no installed package", expected="/var/lib/dpkg/status")
    return found


def _paragraphs(data: bytes) -> Iterator[dict[str, str]]:
    for block in data.decode("utf-8", "replace").split("\n\n"):
        fields: dict[str, str] = {}
        for line in block.splitlines():
            name, colon, value = line.partition(":")
            if colon and not line[:1].isspace():
                fields[name] = value.strip()
        if fields:
            yield fields


def _package(fields: dict[str, str]) -> Package:
    try:
        return fields["Package"], fields["Version"], fields["Architecture"]
    except KeyError as exc:
        raise refuse(BASELINE_SOURCE, f"a package without {exc.args[0]}", seen=fields.get("Package", "")) from None


def _identity(deb: Path) -> Package:
    with deb.open("rb") as file:
        control = _member(file, "control.tar", deb)
        try:
            with tarfile.open(fileobj=control, mode="r|*") as archive:
                for member in archive:
                    if member.isreg() and member.name.lstrip("./") == "control" and member.size <= MAX_CONTROL:
                        found = archive.extractfile(member)
                        assert found is not None
                        return _package(next(_paragraphs(found.read()), {}))
        except UNREADABLE as exc:
            raise refuse(BASELINE_SOURCE, f"a package that cannot be read: {exc}", seen=str(deb)) from None
    raise refuse(BASELINE_SOURCE, "a package without a control file", seen=str(deb))


def _member(file: IO[bytes], prefix: str, deb: Path) -> IO[bytes]:
    """The named member of an ar archive, as a tar stream that `tarfile` can decompress."""
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise refuse(BASELINE_SOURCE, "not a .deb file", seen=str(deb))
    while len(header := file.read(_AR_HEADER)) == _AR_HEADER:
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        try:
            size = int(header[48:58])
        except ValueError:
            size = -1
        if size < 0 or header[58:] != b"`\n":
            break
        if name.startswith(prefix):
            data = file.read(size)
            return io.BytesIO(_unzstd(data, deb) if name.endswith(".zst") else data)
        file.seek(size + size % 2, io.SEEK_CUR)
    raise refuse(BASELINE_SOURCE, f"a .deb file without {prefix}", seen=str(deb))


def _unzstd(data: bytes, deb: Path) -> bytes:
    path = shutil.which("zstd")
    if path is None:
        raise refuse(BASELINE_SOURCE, "there is no `zstd` here to read this package", expected="zstd", seen=str(deb))
    done = subprocess.run([path, "-dc"], input=data, capture_output=True, timeout=TIMEOUT, check=False)
    if done.returncode != 0:
        raise refuse(BASELINE_SOURCE, "`zstd` could not read the package", seen=str(deb))
    return done.stdout
