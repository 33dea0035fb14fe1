"""Reading a sealed asset through its file system, beside gocryptfs on the same files, and beside plain files.

What a job sees of an input that does not fit into memory. Each round mounts anew (so the kernel has no plaintext), with the ciphertext in the page cache; another process reads: one large file with 1 MiB reads (`dd`), then many
small files one after the other. Tools take turns; medians of each round's own ratio. gocryptfs is Debian's package; where it is not installed its rows are left out.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perunml.host.memory import PrivateMemory
from perunml.sealing.keys import new_data_key
from perunml.sealing.manifest import open_manifest
from perunml.sealing.mounted.server import MountedAsset
from perunml.sealing.reader import SealedReader
from perunml.sealing.store import FolderStore
from perunml.sealing.writer import seal_files
from perunml.wire.identity import SigningKey

LARGE = 512 << 20
SMALL, COUNT = 16 << 10, 4000
ROUNDS = 7
_SMALL = "import os, sys\nfor n in os.listdir(sys.argv[1]):\n    with open(os.path.join(sys.argv[1], n), 'rb', buffering=0) as f:\n        f.read()\n"


class Perun:
    """Sealed once, mounted as the runner does it."""

    def __init__(self, folder: Path, plain: Path, memory: PrivateMemory) -> None:
        self._store, self._memory, self._key, owner = folder / "perun", memory, new_data_key(), SigningKey.generate()
        files = {str(path.relative_to(plain)): path for path in sorted(plain.rglob("*")) if path.is_file()}
        with FolderStore(self._store) as store:
            envelope = seal_files(files, store, name="f", kind="dataset", owner=owner, data_key=self._key)
        self._manifest = open_manifest(envelope, [owner.public])
        self._count = 0

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        self._count += 1
        name = f"mount{self._count}"
        path, descriptor = self._memory.serve(name)

        def failed(exc: Exception) -> None:
            raise RuntimeError("a chunk did not open") from exc

        reader = SealedReader(self._manifest, self._key, FolderStore(self._store))
        asset = MountedAsset(reader, lambda: FolderStore(self._store), descriptor, 0, failed)
        asset.start()
        try:
            yield path
        finally:
            self._memory.remove([name])
            asset.close()


class Gocryptfs:
    """A folder of its own, filled once."""

    def __init__(self, folder: Path, plain: Path) -> None:
        self._sealed, self._word, self._mount = folder / "gocryptfs", folder / "word", folder / "mount"
        self._sealed.mkdir()
        self._mount.mkdir()
        self._word.write_text("bench")
        subprocess.run(
            ["gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", self._word, self._sealed], check=True
        )
        with self.mounted(()) as path:
            shutil.copytree(plain, path, dirs_exist_ok=True)

    @contextmanager
    def mounted(self, options: tuple[str, ...] = ("-ro",)) -> Iterator[Path]:
        subprocess.run(["gocryptfs", "-q", *options, "-passfile", self._word, self._sealed, self._mount], check=True)
        try:
            yield self._mount
        finally:
            subprocess.run(["fusermount", "-u", self._mount], check=True)


class Plain:
    """The files themselves."""

    def __init__(self, plain: Path) -> None:
        self._plain = plain

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        yield self._plain


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """``{title, results}`` as bench/README.md says. Needs root; runs in a process of its own, for it leaves the machine's mounts."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        raise RuntimeError("mounting needs root and /dev/fuse")
    done = subprocess.run([sys.executable, __file__, str(rounds)], stdout=subprocess.PIPE, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})  # fmt: skip
    import json

    spent = json.loads(done.stdout)
    results: list[dict[str, Any]] = []
    for tool, works in spent.items():
        rate = LARGE / statistics.median(works["large"]) / 1e9
        results.append(
            {"name": f"one file of {LARGE >> 20} MiB, {tool}", "value": rate, "unit": "GB/s", "higher_is_better": True}
        )
        each = statistics.median(works["small"]) / COUNT * 1e6
        results.append(
            {"name": f"files of {SMALL >> 10} KiB, {tool}", "value": each, "unit": "µs each", "higher_is_better": False}
        )
    if "gocryptfs" in spent:
        for work, words in (("large", "one large file"), ("small", "small files")):
            ratio = statistics.median(
                a / b for a, b in zip(spent["gocryptfs"][work], spent["Perun"][work], strict=True)
            )
            row = {
                "name": f"{words}, against gocryptfs",
                "value": ratio,
                "unit": "x",
                "higher_is_better": True,
                "target": 1.0,
            }
            results.append(row)
    return {
        "title": "Reading through a fresh mount, ciphertext in the page cache, by another process; sealed data beside gocryptfs and plain files.",
        "results": results,
    }


def _measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    memory = PrivateMemory.enter(swap_allowed=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder, plain = Path(name), Path(name) / "plain"
        (plain / "small").mkdir(parents=True)
        with (plain / "large").open("wb") as file:
            for _ in range(LARGE >> 20):
                file.write(os.urandom(1 << 20))
        for number in range(COUNT):
            (plain / "small" / f"{number:05}").write_bytes(os.urandom(SMALL))
        tools: dict[str, Any] = {"plain": Plain(plain), "Perun": Perun(folder, plain, memory)}
        if shutil.which("gocryptfs") and shutil.which("fusermount"):
            tools["gocryptfs"] = Gocryptfs(folder, plain)
        spent: dict[str, dict[str, list[float]]] = {tool: {"large": [], "small": []} for tool in tools}
        for number in range(rounds + 1):
            for tool, made in tools.items():
                with made.mounted() as path:
                    large = _timed(["dd", f"if={path / 'large'}", "of=/dev/null", "bs=1M", "status=none"])
                    small = _timed([sys.executable, "-I", "-S", "-c", _SMALL, str(path / "small")])
                    if not number and subprocess.run(["diff", "-rq", plain, path], check=False).returncode:
                        raise RuntimeError(f"{tool}: a file is not as it was")
                if number:  # the first round warms up
                    spent[tool]["large"].append(large)
                    spent[tool]["small"].append(small)
        return spent


def _timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    import json

    print(json.dumps(_measure(int(sys.argv[1]))))
