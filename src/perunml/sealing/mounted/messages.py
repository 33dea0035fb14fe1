"""The kernel's FUSE messages, as far as a read-only file system needs them (linux/fuse.h, protocol 7.31 and newer).

Bytes in native order, as both ends run on one machine. Nothing here does I/O.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass

from perunml.sealing.mounted.tree import Node

MAJOR, MINOR = 7, 31
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 14, 15, 17, 18
FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, ACCESS, INTERRUPT, DESTROY, BATCH_FORGET, READDIRPLUS = (
    25, 26, 27, 28, 29, 34, 36, 38, 42, 44,
)  # fmt: skip
SILENT = frozenset({FORGET, BATCH_FORGET, INTERRUPT})
"""What the kernel expects no answer to."""
MAX_READ = 1 << 20
"""Bytes of one read: 256 pages, the most that the kernel asks for."""
READ_AHEAD = 4 << 20
"""Bytes that the kernel may ask for before somebody reads them; whoever mounts raises its own bound, 128 KiB, to this."""
REQUEST = 16 * 1024
"""Bytes of a buffer for requests: the kernel's least is 8 KiB, and room for the largest write that we allow."""
MAX_WRITE = 4096
BLOCK = 4096
IO_SIZE = 64 * 1024
"""What stat calls the best size to read by; Python's buffered files take it, and a seek reads as much."""
FOREVER = 1 << 30
"""Seconds for which the kernel may keep a name and its attributes: nothing here ever changes."""
_FLAGS = (1 << 0) | (1 << 13) | (1 << 17) | (1 << 18) | (1 << 22) | (1 << 24)
"""ASYNC_READ, DO_READDIRPLUS, NO_OPEN_SUPPORT, PARALLEL_DIROPS, MAX_PAGES, NO_OPENDIR_SUPPORT."""

_HEADER = struct.Struct("=IIQQIIIHH")
_INIT = struct.Struct("=IIII")
_READ = struct.Struct("=QQIIQII")
_OUT = struct.Struct("=IiQ")
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("=QQQQII")
_ATTR_HEAD = struct.Struct("=QII")
_STATFS = struct.Struct("=QQQQQIIII24x")
_DIRENT = struct.Struct("=QQII")


@dataclass(frozen=True, slots=True)
class Request:
    """What the kernel asks: `node` is the number of a file or folder, `body` what follows the header."""

    opcode: int
    unique: int
    node: int
    body: memoryview


def read_request(data: memoryview) -> Request:
    """Raises `ValueError`: not a whole request."""
    if len(data) < _HEADER.size:
        raise ValueError("a request without its header")
    length, opcode, unique, node, *_ = _HEADER.unpack_from(data)
    if length != len(data):
        raise ValueError("a request of another length")
    return Request(opcode, unique, node, data[_HEADER.size :])


def answer(unique: int, size: int = 0, error: int = 0) -> bytes:
    """The head of an answer with `size` bytes, or of the refusal `error` (an errno)."""
    return _OUT.pack(_OUT.size + size, -error, unique)


def init_answer(body: memoryview) -> bytes:
    """Raises `ValueError` for a kernel that speaks another version."""
    major, minor, _, offered = _INIT.unpack_from(body)
    if major != MAJOR or minor < MINOR:
        raise ValueError(f"FUSE {major}.{minor}")
    pages = MAX_READ // BLOCK
    return _INIT_OUT.pack(MAJOR, MINOR, READ_AHEAD, offered & _FLAGS, 64, 48, MAX_WRITE, 1, pages, 0, 0)


def read_wanted(body: memoryview) -> tuple[int, int]:
    """Offset and size, in bytes; of READ, READDIR and READDIRPLUS. Raises `struct.error`."""
    _, offset, size, *_ = _READ.unpack_from(body)
    return offset, size


def attributes(node: Node, owner: int) -> bytes:
    mode = stat.S_IFDIR | 0o500 if node.folder else stat.S_IFREG | 0o400
    blocks = -(-node.size // 512)
    links = 2 if node.folder else 1
    return _ATTR.pack(node.number, node.size, blocks, 0, 0, 0, 0, 0, 0, mode, links, owner, owner, 0, IO_SIZE, 0)


def entry(node: Node, owner: int) -> bytes:
    return _ENTRY.pack(node.number, 0, FOREVER, FOREVER, 0, 0) + attributes(node, owner)


def getattr_answer(node: Node, owner: int) -> bytes:
    return _ATTR_HEAD.pack(FOREVER, 0, 0) + attributes(node, owner)


def statfs_answer(size: int, files: int) -> bytes:
    return _STATFS.pack(-(-size // BLOCK), 0, 0, files, 0, BLOCK, 255, BLOCK, 0)


def listing(node: Node, offset: int, size: int, owner: int, *, plus: bool) -> bytes:
    """As many names of the folder as fit into `size` bytes, from number `offset`; with their attributes when `plus`."""
    made = bytearray()
    names = [
        (b".", node),
        (b"..", node.parent or node),
        *((name.encode(), child) for name, child in node.children.items()),
    ]
    for place in range(min(offset, len(names)), len(names)):
        name, child = names[place]
        kind = stat.S_IFDIR if child.folder else stat.S_IFREG
        row = _DIRENT.pack(child.number, place + 1, len(name), kind >> 12) + name
        row += bytes(-len(row) % 8)
        if plus:
            # The kernel takes no reference to the two dots.
            row = (entry(child, owner) if place > 1 else bytes(_ENTRY.size + _ATTR.size)) + row
        if len(made) + len(row) > size:
            break
        made += row
    return bytes(made)
