"""Sealing and opening a file, beside `age` and gocryptfs on the same file, in one run.

All files lie in memory (/dev/shm), so that no disk is measured; tools take turns, medians of each round's own ratio. `age` is its command (X25519 recipient, as installed), gocryptfs a mounted folder that the file is copied into and
out of with 1 MiB reads and writes; Perun's figures are `seal_files`, `unpack` and `SealedReader` in a process that runs already: each does what it does for its user once started, and age's own start takes some milliseconds of
a second. Debian packages `age` and `gocryptfs`; where one is not installed, its rows are left out.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perunml.sealing.keys import new_data_key
from perunml.sealing.manifest import Manifest, open_manifest
from perunml.sealing.reader import SealedReader
from perunml.sealing.store import FolderStore
from perunml.sealing.views.files import unpack
from perunml.sealing.writer import seal_files
from perunml.wire.identity import SigningKey

SIZE = 256 << 20
PART = 1 << 20
ROUNDS = 5
GOALS = {"encrypt": 2.5, "decrypt": 4.0, "read": 8.0}


class Perun:
    """Sealed under a fresh key each time."""

    def __init__(self, folder: Path, plain: Path) -> None:
        self._folder, self._plain, self._owner = folder / "perun", plain, SigningKey.generate()
        self._manifest: Manifest
        self._key = new_data_key()

    def encrypt(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._key = new_data_key()
        with FolderStore(self._folder) as store:
            envelope = seal_files(
                {"f": self._plain}, store, name="f", kind="dataset", owner=self._owner, data_key=self._key
            )
        self._manifest = open_manifest(envelope, [self._owner.public])

    def decrypt(self) -> None:
        out = self._folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with FolderStore(self._folder) as store, SealedReader(self._manifest, self._key, store) as reader:
            unpack(reader, out)

    def read(self) -> None:
        buffer = bytearray(8 * PART)
        with FolderStore(self._folder) as store, SealedReader(self._manifest, self._key, store) as reader:
            for offset in range(0, SIZE, len(buffer)):
                reader.read_into("f", offset, buffer)

    def out(self) -> Path:
        return self._folder / "out" / "f"

    def close(self) -> None:
        """Nothing stays open."""


class Age:
    """The command, with a key file."""

    def __init__(self, folder: Path, plain: Path) -> None:
        self._key, self._plain, self._sealed, self._out = (
            folder / "age.key",
            plain,
            folder / "age.sealed",
            folder / "age.out",
        )
        done = subprocess.run(["age-keygen", "-o", self._key], capture_output=True, text=True, check=True)
        self._recipient = done.stderr.split()[-1]

    def encrypt(self) -> None:
        subprocess.run(["age", "-r", self._recipient, "-o", self._sealed, self._plain], check=True)

    def decrypt(self) -> None:
        subprocess.run(["age", "-d", "-i", self._key, "-o", self._out, self._sealed], check=True)

    def out(self) -> Path:
        return self._out

    def close(self) -> None:
        """Nothing runs."""


class Gocryptfs:
    """A mounted folder."""

    def __init__(self, folder: Path, plain: Path) -> None:
        self._plain, self._mount, self._out = plain, folder / "mount", folder / "gocryptfs.out"
        sealed, word = folder / "gocryptfs", folder / "word"
        sealed.mkdir()
        self._mount.mkdir()
        word.write_text("bench")
        subprocess.run(["gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", word, sealed], check=True)
        subprocess.run(["gocryptfs", "-q", "-passfile", word, sealed, self._mount], check=True)

    def encrypt(self) -> None:
        (self._mount / "f").unlink(missing_ok=True)
        _copy(self._plain, self._mount / "f")

    def decrypt(self) -> None:
        _copy(self._mount / "f", self._out)

    def out(self) -> Path:
        return self._out

    def close(self) -> None:
        subprocess.run(["fusermount", "-u", self._mount], check=True)


def _copy(source: Path, target: Path) -> None:
    buffer = bytearray(PART)
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
        while got := read.readinto(buffer):
            write.write(memoryview(buffer)[:got])


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """``{title, results}`` as bench/README.md says."""
    tools: dict[str, Any] = {"Perun": Perun}
    if shutil.which("age") and shutil.which("age-keygen"):
        tools["age"] = Age
    if shutil.which("gocryptfs") and shutil.which("fusermount") and os.path.exists("/dev/fuse"):
        tools["gocryptfs"] = Gocryptfs
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        plain = Path(name) / "plain"
        with plain.open("wb") as file:
            for _ in range(SIZE // PART):
                file.write(os.urandom(PART))
        made = {tool: make(Path(name), plain) for tool, make in tools.items()}
        try:
            spent = _turns(made, rounds)
            for tool in made.values():
                if tool.out().read_bytes() != plain.read_bytes():
                    raise RuntimeError("a file did not come back as it was")
        finally:
            for tool in made.values():
                tool.close()
    results: list[dict[str, Any]] = []
    for (tool, work), times in spent.items():
        rate = SIZE / statistics.median(times) / 1e9
        results.append({"name": f"{work}, {tool}", "value": rate, "unit": "GB/s", "higher_is_better": True})
    for peer in ("age", "gocryptfs"):
        for work, goal in GOALS.items():
            theirs, ours = spent.get((peer, "decrypt" if work == "read" else work)), spent[("Perun", work)]
            if theirs is not None:
                ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
                words = "read without an output file, against decrypting" if work == "read" else work
                results.append({"name": f"{words}, against {peer}", "value": ratio, "unit": "x", "higher_is_better": True, "target": goal})  # fmt: skip
    return {
        "title": f"One file of {SIZE >> 20} MiB in memory, sealed and opened, beside age and gocryptfs on the same file.",
        "results": results,
    }


def _turns(made: dict[str, Any], rounds: int) -> dict[tuple[str, str], list[float]]:
    spent: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        for work in ("encrypt", "decrypt", "read"):
            for name, tool in made.items():
                todo: Callable[[], None] | None = getattr(tool, work, None)
                if todo is None:
                    continue
                began = time.perf_counter()
                todo()
                if number:  # the first round warms up
                    spent.setdefault((name, work), []).append(time.perf_counter() - began)
    return spent
