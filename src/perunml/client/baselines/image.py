"""Files of an image: a tar archive, or a squashfs, EROFS or ext4 file system where the tool that reads it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from perunml.client.baselines.archive import list_archive
from perunml.client.baselines.listing import Listing, Progress
from perunml.client.baselines.tree import list_tree
from perunml.client.codes import BASELINE_SOURCE
from perunml.wire.errors import refuse

HEAD = 4096
"""Bytes looked at to tell what an image is."""
TIMEOUT = 3600
"""Seconds for a tool to unpack an image."""


def list_image(listing: Listing, image: Path, progress: Progress) -> None:
    """Add the files of the image. Raises `UsageError` (baseline_source): of no known kind, or no tool to read it."""
    try:
        size = image.stat().st_size
        with image.open("rb") as file:
            head = file.read(HEAD)
            kind = _kind(head)
            if kind is None:
                file.seek(0)
                # decompressed bytes are counted, which no total is known for: the file's own position is
                list_archive(listing, file, lambda _: progress(min(file.tell(), size), size), name=str(image))
                return
    except OSError as exc:
        raise refuse(BASELINE_SOURCE, exc.strerror or type(exc).__name__, seen=str(image)) from None
    with tempfile.TemporaryDirectory(prefix="perunml-image-") as folder:
        target = Path(folder) / "root"
        _unpack(kind, image, target)
        list_tree(listing, target, progress)


def _kind(head: bytes) -> str | None:
    """By magic number: squashfs at 0 (fs/squashfs), EROFS and ext4 in the superblock at 1024."""
    if head[:4] == b"hsqs":
        return "squashfs"
    if head[1024:1028] == (0xE0F5E1E2).to_bytes(4, "little"):
        return "EROFS"
    if head[1080:1082] == (0xEF53).to_bytes(2, "little"):
        return "ext4"
    return None


def _unpack(kind: str, image: Path, target: Path) -> None:
    # absolute, so that a name which begins with a dash is no option
    source = str(image.resolve())
    if kind != "squashfs":
        target.mkdir()
    tool, arguments, package = {
        "squashfs": (
            "unsquashfs",
            ["-quiet", "-no-progress", "-no-xattrs", "-dest", str(target), source],
            "squashfs-tools",
        ),
        "EROFS": ("fsck.erofs", [f"--extract={target}", "--no-preserve-owner", source], "erofs-utils"),
        "ext4": ("debugfs", ["-R", f'rdump / "{target}"', source], "e2fsprogs"),
    }[kind]
    path = shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise refuse(
            BASELINE_SOURCE,
            f"there is no `{tool}` here to read a {kind} image",
            expected=f"the package {package}, or the image's files as a folder (--root) or a tar archive",
            seen=str(image),
        )
    try:
        done = subprocess.run(
            [path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise refuse(BASELINE_SOURCE, f"`{tool}` took more than {TIMEOUT} s", seen=str(image)) from None
    if done.returncode != 0 or not any(target.iterdir()):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise refuse(
            BASELINE_SOURCE, f"`{tool}` could not read the {kind} image", seen=said[-1] if said else str(image)
        )
