"""Views of a sealed asset: so far, a folder of files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from perunml.sealing.index import check_path
from perunml.sealing.reader import TOGETHER, SealedReader
from perunml.sealing.store import disk_full


def unpack(reader: SealedReader, target: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Writes every file below `target`, which exists and is empty (a memory mount, for secrets). Raises
    `IntegrityError` and `LimitReached` (disk_full)."""
    total, done = reader.manifest.size, 0
    buffer = bytearray(2 * TOGETHER * reader.manifest.chunk_size)
    if any(target.iterdir()):
        raise ValueError("the folder to unpack into is not empty")  # a link in it could lead out of it
    with disk_full():
        for path, size in reader.files.items():
            place = target / check_path(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            # O_EXCL and O_NOFOLLOW: nothing that is there already is followed or written over.
            fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            with os.fdopen(fd, "wb", buffering=0) as file:
                offset = 0
                # The first read aligns to the chunk's border, so that those after it need no copy.
                step = reader.manifest.chunk_size - reader.place(path).offset % reader.manifest.chunk_size
                while offset < size:
                    got = reader.read_into(path, offset, memoryview(buffer)[: min(step, size - offset)])
                    view = memoryview(buffer)[:got]
                    while view:
                        view = view[file.write(view) :]
                    offset, step = offset + got, len(buffer)
                    done += got
                    if progress:
                        progress(done, total)
    buffer[:] = bytes(len(buffer))
