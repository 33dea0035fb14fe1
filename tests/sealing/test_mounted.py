"""A sealed asset as a file system: byte for byte the plain files, read-only, in bounded memory; what was altered is an error."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from perunml.sealing.chunks import Chunk
from perunml.sealing.keys import new_data_key
from perunml.sealing.manifest import BlobEntry, open_manifest
from perunml.sealing.mounted import messages as m
from perunml.sealing.mounted.cache import Chunks
from perunml.sealing.mounted.server import MountedAsset
from perunml.sealing.mounted.tree import grow
from perunml.sealing.reader import SealedReader
from perunml.sealing.store import FolderStore
from perunml.sealing.writer import seal_files
from perunml.wire.errors import IntegrityError, PerunError
from perunml.wire.identity import SigningKey

KIB = 1024
RNG = random.Random(11)
FILES = {
    "empty": b"",
    "small.txt": b"hello",
    "deep/er/than/most/file.bin": RNG.randbytes(3 * KIB * KIB + 12345),
    "deep/other.bin": RNG.randbytes(70_001),
    "Bild ü.png": RNG.randbytes(1000),
    **{f"many/{n:04}": RNG.randbytes(n % 300) for n in range(1500)},
}
mounts = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse")


def sealed(folder: Path, files: dict[str, bytes], chunk_size: int = 64 * KIB) -> Callable[[], SealedReader]:
    """Seals; then opens as often as wanted."""
    owner, key = SigningKey.generate(), new_data_key()
    envelope = seal_files(files, FolderStore(folder), name="scans", kind="dataset", owner=owner, data_key=key, chunk_size=chunk_size)  # fmt: skip
    manifest = open_manifest(envelope, [owner.public])
    return lambda: SealedReader(manifest, key, FolderStore(folder))


@contextmanager
def mounted(
    tmp_path: Path, reader: SealedReader, folder: Path, faults: list[PerunError] | None = None
) -> Iterator[Path]:
    """Mounted here; only where nothing else sees it, so that no crash leaves it."""
    libc = ctypes.CDLL(None, use_errno=True)
    point = tmp_path / "mnt"
    point.mkdir()
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,default_permissions,max_read={m.MAX_READ}".encode()
    assert libc.mount(b"perunml", os.fsencode(point), b"fuse", ctypes.c_ulong(1 | 2 | 4 | 8), options) == 0, (
        ctypes.get_errno()
    )
    asset = MountedAsset(
        reader, lambda: FolderStore(folder), descriptor, 0, (faults if faults is not None else []).append
    )
    asset.start()
    try:
        yield point
    finally:
        assert libc.umount2(os.fsencode(point), 2) == 0
        asset.close()


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Callable[[], SealedReader]]:
    folder = tmp_path_factory.mktemp("sealed")
    return folder, sealed(folder, FILES)


@mounts
def test_every_file_is_there_byte_for_byte(scans: tuple[Path, Callable[[], SealedReader]], tmp_path: Path) -> None:
    """Whole, in pieces at random, by map, through links of folders, and listed as they are."""
    folder, opened = scans
    with mounted(tmp_path, opened(), folder) as point:
        found = {str(path.relative_to(point)): path for path in point.rglob("*") if path.is_file()}
        assert {path: place.read_bytes() for path, place in found.items() if place.name != "other.bin"} == {
            path: data for path, data in FILES.items() if "other" not in path
        }
        assert {path: place.stat().st_size for path, place in found.items()} == {
            path: len(data) for path, data in FILES.items()
        }
        assert sorted(os.listdir(point / "many")) == [f"{n:04}" for n in range(1500)]
        assert [entry.name for entry in os.scandir(point / "deep") if entry.is_dir()] == ["er"]
        big, plain = found["deep/er/than/most/file.bin"], FILES["deep/er/than/most/file.bin"]
        with big.open("rb", buffering=0) as file:
            for _ in range(200):
                at, size = RNG.randrange(len(plain) + 10), RNG.randrange(200_000)
                assert os.pread(file.fileno(), size, at) == plain[at : at + size]
        # In another process: a page that is missing is asked for with Python's lock held, which here the answering threads need.
        mapped = "import mmap, sys; f = open(sys.argv[1], 'rb'); sys.stdout.buffer.write(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))"
        assert (
            subprocess.run(
                [sys.executable, "-c", mapped, point / "deep/other.bin"], capture_output=True, check=True, timeout=60
            ).stdout
            == FILES["deep/other.bin"]
        )
        info = big.stat()
        assert (info.st_mode & 0o777, info.st_uid, info.st_nlink) == (0o400, 0, 1)
        assert not (point / "none").exists()
        assert os.statvfs(point).f_files >= len(FILES)


@mounts
def test_nothing_can_be_written(scans: tuple[Path, Callable[[], SealedReader]], tmp_path: Path) -> None:
    """Not by root either."""
    folder, opened = scans
    with mounted(tmp_path, opened(), folder) as point:
        for attempt in (
            lambda: (point / "new").write_bytes(b"x"), lambda: (point / "small.txt").open("r+b"), lambda: (point / "small.txt").unlink(),
            lambda: (point / "d").mkdir(), lambda: (point / "small.txt").chmod(0o777), lambda: os.truncate(point / "small.txt", 0),
            lambda: (point / "l").symlink_to("x"), lambda: (point / "small.txt").rename(point / "y"),
        ):  # fmt: skip
            with pytest.raises(OSError, match="Read-only") as caught:
                attempt()
            assert caught.value.errno == errno.EROFS


@mounts
def test_an_altered_chunk_is_an_error_and_told(tmp_path: Path) -> None:
    """The reader of that file gets EIO, never a byte of it; others go on; the fault is told once."""
    store = tmp_path / "store"
    opened = sealed(store, {"a": bytes(200 * KIB), "b": b"fine"}, 64 * KIB)
    reader = opened()
    span = next(reader.spans("a", 100 * KIB, 1))
    blob = store / "blobs" / span.blob.id
    data = bytearray(blob.read_bytes())
    data[span.chunk.stored + 5] ^= 1
    blob.write_bytes(data)
    faults: list[PerunError] = []
    with mounted(tmp_path, reader, store, faults) as point:
        descriptor = os.open(point / "a", os.O_RDONLY)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output") as caught:
                os.pread(descriptor, 10, 100 * KIB)
            assert caught.value.errno == errno.EIO
        assert os.pread(descriptor, 10, 0) == bytes(10)
        os.close(descriptor)
        assert (point / "b").read_bytes() == b"fine"
    assert [fault.code for fault in faults] == ["chunk_altered"]


@mounts
def test_many_readers_at_once(scans: tuple[Path, Callable[[], SealedReader]], tmp_path: Path) -> None:
    """More than there are chunks to open into: they wait for one another and get what they asked for."""
    folder, opened = scans
    with mounted(tmp_path, opened(), folder) as point:
        program = textwrap.dedent(
            f"""
            import os, random, sys
            rng = random.Random(int(sys.argv[1]))
            fd = os.open({str(point / "deep/er/than/most/file.bin")!r}, os.O_RDONLY | os.O_DIRECT * 0)
            plain = os.pread(fd, 10**8, 0)
            for _ in range(300):
                at = rng.randrange(len(plain))
                assert os.pread(fd, 70_000, at) == plain[at:at + 70_000]
            """
        )
        running = [subprocess.Popen([sys.executable, "-c", program, str(n)]) for n in range(6)]
        assert [each.wait(60) for each in running] == [0] * 6


@mounts
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """64 MiB are read through a few MiB."""
    store = tmp_path / "store"
    opened = sealed(store, {"big": bytes(64 << 20)}, 1 << 20)
    reader = opened()
    with mounted(tmp_path, reader, store) as point, (point / "big").open("rb", buffering=0) as file:
        before = _private()
        while os.read(file.fileno(), 1 << 20):
            pass
        assert _private() - before < 24 << 20


def _private() -> int:
    """Bytes of this process's own memory."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("RssAnon:")) * 1024


def test_chunks_are_opened_once_for_all_who_wait(tmp_path: Path) -> None:
    """And thrown away once there is no room; a fault is told to all, and the next try opens anew."""
    chunks, opened = Chunks(4, 2), []
    going = threading.Event()

    def fill(blob: BlobEntry, chunk: Chunk, out: memoryview) -> None:
        going.wait(5)
        opened.append(chunk.index)
        out[:] = bytes([chunk.index]) * len(out)

    blob = BlobEntry("ab" * 16, bytes(32), 100)
    got: list[bytes] = []

    def read() -> None:
        with chunks.chunk(blob, Chunk(7, 0, 3, 1), fill) as plain:
            got.append(bytes(plain))

    threads = [threading.Thread(target=read) for _ in range(5)]
    for thread in threads:
        thread.start()
    going.set()
    for thread in threads:
        thread.join()
    assert (got, opened) == ([b"\7\7\7"] * 5, [7])
    for index in (1, 2, 7):
        with chunks.chunk(blob, Chunk(index, 0, 4, 1), fill) as plain:
            assert bytes(plain) == bytes([index]) * 4
    assert opened == [7, 1, 2, 7]

    def broken(blob: BlobEntry, chunk: Chunk, out: memoryview) -> None:
        raise OSError("no")

    for _ in range(5):
        with pytest.raises(OSError, match="no"), chunks.chunk(blob, Chunk(9, 0, 4, 1), broken):
            pass
    with chunks.chunk(blob, Chunk(9, 0, 4, 1), fill) as plain:
        assert bytes(plain) == b"\x09" * 4
    chunks.wipe()


def test_odd_requests_never_end_a_thread(tmp_path: Path) -> None:
    """What no kernel sends: short, unknown, of nodes that are not there."""
    nodes = grow({"a/b": 3})
    assert [node.number for node in nodes] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="length"):
        m.read_request(memoryview(struct.pack("=IIQQIIIHH", 99, 1, 1, 1, 0, 0, 0, 0, 0)))
    with pytest.raises(ValueError, match="header"):
        m.read_request(memoryview(b"123"))
    with pytest.raises(ValueError, match=r"FUSE 8\.1"):
        m.init_answer(memoryview(struct.pack("=IIII", 8, 1, 0, 0)))
    assert m.listing(nodes[1], 99, 4096, 0, plus=False) == b""
    assert len(m.listing(nodes[1], 0, 4096, 0, plus=True)) == 3 * (128 + 32)


def test_a_wrong_key_never_gets_this_far(tmp_path: Path) -> None:
    """The reader opens the index first."""
    opened = sealed(tmp_path, {"a": b"x"})
    manifest = opened().manifest
    with pytest.raises(IntegrityError):
        SealedReader(manifest, new_data_key(), FolderStore(tmp_path))
