"""Answers the kernel's requests about one sealed asset, in a few threads: preadv, AES-GCM and writev leave Python's lock.

The kernel keeps names, attributes and pages that were read; here there is memory for a few chunks only. Nothing is
written, ever: the mount is read-only, and requests that would change something get an error all the same.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

from perunml.sealing.chunks import TAG, Chunk
from perunml.sealing.keys import wipe
from perunml.sealing.manifest import BlobEntry
from perunml.sealing.mounted import messages as m
from perunml.sealing.mounted.cache import Chunks
from perunml.sealing.mounted.tree import Node, grow
from perunml.sealing.reader import SealedReader
from perunml.sealing.store import BlobSource
from perunml.wire.errors import PerunError

MOST_THREADS = 8
"""Answering at once: one for each processor, at least two; more would wait for Python's lock."""
END_SECONDS = 5.0
"""For which an end is waited for; should a file still be open somewhere, the process, which ends right after, ends the rest."""
AT_ONCE = 3
"""Chunks that one answer is written from without a copy: 1 MiB lies in two of the usual size, or three that follow records' borders."""
AHEAD = 4
"""Chunks kept beyond those that are being answered from: small files that lie in one chunk are read one after the other."""


class MountedAsset:
    """Serves `reader` over `descriptor`, an open /dev/fuse that is, or is about to be, mounted. `source` makes a source of ciphertext for
    each thread; `fault` hears, once, of the first chunk that does not open."""

    def __init__(
        self, reader: SealedReader, source: Callable[[], BlobSource], descriptor: int, owner: int,
        fault: Callable[[PerunError], None], *, threads: int | None = None,
    ) -> None:  # fmt: skip
        self._reader = reader
        self._source = source
        self._descriptor = descriptor
        self._owner = owner
        self._fault = fault
        threads = threads or min(MOST_THREADS, max(2, len(os.sched_getaffinity(0))))
        self._nodes = grow(reader.files)
        chunk = reader.manifest.chunk_size
        self._chunks = Chunks(chunk, threads * AT_ONCE + AHEAD)
        self._told = threading.Lock()
        self._threads = [
            threading.Thread(target=self._serve, name=f"perunml-fuse-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Wait for the threads, which end when the file system is no longer mounted anywhere; wipe what they held."""
        for thread in self._threads:
            thread.join(END_SECONDS)
        os.close(self._descriptor)
        if not any(thread.is_alive() for thread in self._threads):
            self._chunks.wipe()
        self._reader.close()

    def _serve(self) -> None:
        buffer = memoryview(bytearray(m.REQUEST))
        source, sealed = self._source(), bytearray(self._reader.manifest.chunk_size + TAG)
        while True:
            try:
                got = os.readv(self._descriptor, [buffer])
            except OSError as exc:
                if exc.errno == errno.ENODEV:  # unmounted
                    return
                if exc.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):  # ENOENT: the request was taken back
                    continue
                return
            if not got:
                return
            self._answer(m.read_request(buffer[:got]), source, sealed)

    def _answer(self, request: m.Request, source: BlobSource, sealed: bytearray) -> None:
        try:
            if request.opcode == m.READ:
                self._read(request, source, sealed)
            elif request.opcode not in m.SILENT:
                self._reply(request, self._small(request))
        except PerunError as exc:
            self._reply(request, b"", errno.EIO)
            if self._told.acquire(blocking=False):
                self._fault(exc)
        except OSError as exc:
            self._reply(request, b"", exc.errno or errno.EIO)
        except (ValueError, struct.error):
            self._reply(request, b"", errno.EINVAL)
        except Exception:
            # A thread that ended would leave its asker waiting for ever.
            self._reply(request, b"", errno.EIO)

    def _small(self, request: m.Request) -> bytes:
        """The answer to anything but a read. Raises `OSError` with what the asker is to get."""
        if request.opcode == m.INIT:
            return m.init_answer(request.body)
        node = self._node(request.node)
        if request.opcode == m.LOOKUP:
            name = bytes(request.body).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            child = node.children.get(name)
            if child is None:
                raise OSError(errno.ENOENT, name)
            return m.entry(child, self._owner)
        if request.opcode == m.GETATTR:
            return m.getattr_answer(node, self._owner)
        if request.opcode in (m.READDIR, m.READDIRPLUS):
            offset, size = m.read_wanted(request.body)
            return m.listing(node, offset, size, self._owner, plus=request.opcode == m.READDIRPLUS)
        if request.opcode == m.STATFS:
            return m.statfs_answer(self._reader.manifest.size, len(self._nodes))
        if request.opcode in (m.RELEASE, m.RELEASEDIR, m.DESTROY):
            return b""
        # Of OPEN, OPENDIR, FLUSH and ACCESS the kernel learns so that they need not be asked for.
        raise OSError(errno.ENOSYS, "not known here")

    def _read(self, request: m.Request, source: BlobSource, sealed: bytearray) -> None:
        node = self._node(request.node)
        offset, size = m.read_wanted(request.body)
        if node.folder or size > m.MAX_READ:
            raise OSError(errno.EINVAL, "not a file, or too much at once")
        spans = list(self._reader.spans(node.path, offset, size))

        def opened(blob: BlobEntry, chunk: Chunk, out: memoryview) -> None:
            self._reader.open_chunk(blob, chunk, out, sealed, source)

        if len(spans) > AT_ONCE:  # small chunks: gathered, so that nobody waits for more of them than there are
            gathered = bytearray(sum(span.count for span in spans))
            at = 0
            for span in spans:
                with self._chunks.chunk(span.blob, span.chunk, opened) as plain:
                    gathered[at : at + span.count] = plain[span.start : span.start + span.count]
                at += span.count
            self._write(request, [memoryview(gathered)])
            wipe(gathered)
            return
        with ExitStack() as held:
            parts = [held.enter_context(self._chunks.chunk(span.blob, span.chunk, opened)) for span in spans]
            self._write(request, [part[s.start : s.start + s.count] for part, s in zip(parts, spans, strict=True)])

    def _node(self, number: int) -> Node:
        if not 0 < number < len(self._nodes):
            raise OSError(errno.ENOENT, "no such node")
        return self._nodes[number]

    def _reply(self, request: m.Request, body: bytes, error: int = 0) -> None:
        self._write(request, [memoryview(body)], error)

    def _write(self, request: m.Request, parts: list[memoryview], error: int = 0) -> None:
        head = m.answer(request.unique, sum(map(len, parts)), error)
        with suppress(OSError):  # the asker was interrupted, or everything was unmounted meanwhile
            os.writev(self._descriptor, [head, *parts])
