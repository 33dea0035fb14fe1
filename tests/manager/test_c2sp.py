"""A manager's ledger, and an export of it, read by a client written from C2SP's texts alone: signed-note, tlog-checkpoint, tlog-tiles and
tlog-cosignature. Nothing of perunml.ledger takes part in the reading."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from manager.test_audit import exported
from manager.test_witnesses import Watched
from manager.world import World, cached_keys
from perunml.manager.keys import Keys
from perunml.manager.store.database import Database
from perunml.manager.writer import Transaction, Writer
from perunml.wire.identity import PublicKey

MORE = 700
"""Entries beside the road's own: two full tiles, a partial one, and a level above them."""
Read = Callable[[str], bytes]
"""The bytes at a path under the log's prefix."""


def raw_key(key: PublicKey) -> bytes:
    return base64.urlsafe_b64decode(key.text.partition(":")[2] + "=")


def note_line(note: str, name: str, typed: bytes) -> bytes:
    """signed-note: the signature of a key, found by name and key id."""
    wanted = hashlib.sha256(name.encode() + b"\n" + typed).digest()[:4]
    for line in note.partition("\n\n")[2].splitlines():
        dash, signer, data = line.split(" ")
        found = base64.b64decode(data)
        if (dash, signer, found[:4]) == ("\u2014", name, wanted):
            return found[4:]
    raise LookupError(name)


def opened(note: str, name: str, key: bytes) -> tuple[int, bytes]:
    """tlog-checkpoint: size and root, after the log's signature."""
    text = note.partition("\n\n")[0] + "\n"
    Ed25519PublicKey.from_public_bytes(key).verify(note_line(note, name, b"\x01" + key), text.encode())
    origin, size, root = text.splitlines()[:3]
    assert origin == name
    return int(size), base64.b64decode(root)


def tile_path(level: str, index: int, width: int) -> str:
    """tlog-tiles, "Parameters": groups of three digits, all but the last begun with x; .p/W for a partial tile."""
    parts = [f"{index % 1000:03}"]
    while index >= 1000:
        index //= 1000
        parts.insert(0, f"x{index % 1000:03}")
    return f"tile/{level}/{'/'.join(parts)}" + (f".p/{width}" if width < 256 else "")


@dataclass
class Log:
    """A static log: nothing is asked for but files."""

    read: Read
    size: int

    def node(self, level: int, index: int) -> bytes:
        """The hash over 2**level leaves: out of the tile that holds its row in eight, folded where it lies between rows."""
        row, up = divmod(level, 8)
        hashes = self._row(row, index << up, (index + 1) << up)
        while len(hashes) > 1:
            hashes = [sha(b"\x01" + a + b) for a, b in zip(hashes[::2], hashes[1::2], strict=True)]
        return hashes[0]

    def _row(self, row: int, first: int, last: int) -> list[bytes]:
        tile = first // 256
        assert last <= (tile + 1) * 256
        width = min(256, (self.size >> 8 * row) - tile * 256)
        data = self.read(tile_path(str(row), tile, width))
        assert len(data) == 32 * width
        return [data[32 * i : 32 * i + 32] for i in range(first - tile * 256, last - tile * 256)]

    def range(self, low: int, high: int) -> bytes:
        """RFC 6962 section 2.1, over leaves low up to high."""
        width = high - low
        if width & (width - 1) == 0 and low % width == 0:
            return self.node(width.bit_length() - 1, low // width)
        half = 1 << (width - 1).bit_length() - 1
        return sha(b"\x01" + self.range(low, low + half) + self.range(low + half, high))

    def path(self, index: int, low: int, high: int) -> list[tuple[bool, bytes]]:
        """The hashes beside leaf `index`, from the top; True: it stands on the left."""
        if high - low == 1:
            return []
        half = low + (1 << (high - low - 1).bit_length() - 1)
        if index < half:
            return [(False, self.range(half, high)), *self.path(index, low, half)]
        return [(True, self.range(low, half)), *self.path(index, half, high)]

    def leaves(self) -> list[bytes]:
        """tlog-tiles, "Log Entries": each behind its length in 16 bits."""
        found = []
        for tile in range(-(-self.size // 256)):
            data = self.read(tile_path("entries", tile, min(256, self.size - tile * 256)))
            while data:
                length = int.from_bytes(data[:2], "big")
                found.append(data[2 : 2 + length])
                data = data[2 + length :]
        return found


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.fixture(scope="module")
def road(world: World, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    road = Watched(world, tmp_path_factory.mktemp("road"))
    world.stop()
    database = Database(world.folder / "manager.sqlite")
    asyncio.run(_grow(database, cached_keys(world.folder)))
    database.close()
    world.start()
    road.witness("watcher")
    return road


async def _grow(database: Database, keys: Keys) -> None:
    writer = Writer(database, keys, committed=lambda _: None, forget=lambda: None, halted=lambda: None)
    running = asyncio.create_task(writer.run())
    await asyncio.sleep(0)

    def work(transaction: Transaction) -> None:
        transaction.journal.append("enrolment", 0, "", "machine", {})

    await asyncio.gather(*(writer.submit(work) for _ in range(MORE)))
    writer.stop()
    await running


def read_all(read: Read, identity: str) -> tuple[int, bytes]:
    """As a monitor: the checkpoint's signature, every entry, every tile, and each entry's place in the tree. Size and root."""
    key = raw_key(PublicKey(identity))
    name = "perunml.ledger/" + hashlib.sha256(identity.encode()).hexdigest()[:32]
    size, root = opened(read("checkpoint").decode(), name, key)
    log = Log(read, size)
    leaves = log.leaves()
    assert len(leaves) == size
    assert [log.node(0, i) for i in range(size)] == [sha(b"\x00" + leaf) for leaf in leaves]
    assert log.range(0, size) == root
    for index in (0, 1, 255, 256, 511, 512, size - 2, size - 1):
        value = sha(b"\x00" + leaves[index])
        for left, beside in reversed(log.path(index, 0, size)):
            value = sha(b"\x01" + beside + value) if left else sha(b"\x01" + value + beside)
        assert value == root
    return size, root


def test_p16_a_c2sp_client_reads_the_manager_itself(road: Watched) -> None:
    """Over the manager's HTTP; the requests are signed by a party, which is all that differs from a public log."""
    connection = road.party["clinic"]
    cache: dict[str, bytes] = {}

    def read(path: str) -> bytes:
        if path not in cache:
            cache[path] = connection.raw("GET", f"/v1/ledger/{path}")
        return cache[path]

    size, _ = read_all(read, road.world.pin.identity)
    assert size > MORE
    assert {path for path in cache if path.startswith("tile/1")} == {f"tile/1/000.p/{size >> 8}"}


def test_p16_a_c2sp_client_reads_an_export(road: Watched, tmp_path: Path) -> None:
    """Unpacked, it is the folder that a static log serves; the whole ledger, whatever of it the exporting party may open."""
    with zipfile.ZipFile(exported(road, "clinic", tmp_path)) as archive:
        archive.extractall(tmp_path / "log")
        names = {name for name in archive.namelist() if not name.startswith("perunml/")}
    asked = set()

    def read(path: str) -> bytes:
        asked.add(path)
        return (tmp_path / "log" / path).read_bytes()

    size, _ = read_all(read, road.world.pin.identity)
    assert asked == names  # and nothing lies there that a C2SP client does not know
    assert f"tile/entries/002.p/{size - 512}" in asked


def test_p17_a_c2sp_client_reads_a_witness(road: Watched, tmp_path: Path) -> None:
    """tlog-cosignature: what a witness of ours signs is what any witness signs, over the checkpoint that any log shows."""
    note = road.party["clinic"].raw("GET", "/v1/ledger/checkpoint").decode()
    from perunml.ledger.notes import parse_note
    from perunml.ledger.witnessing import sign_as_witness

    cosigned = str(sign_as_witness(parse_note(note), road.watcher, 1_800_000_000))
    key = raw_key(road.watcher.public)
    name = "perunml.witness/" + hashlib.sha256(road.watcher.public.text.encode()).hexdigest()[:32]
    data = note_line(cosigned, name, b"\x04" + key)
    time, signature = int.from_bytes(data[:8], "big"), data[8:]
    text = note.partition("\n\n")[0] + "\n"
    message = f"cosignature/v1\ntime {time}\n{text}".encode()
    Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    assert time == 1_800_000_000
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message.replace(b"time 1", b"time 2"))
