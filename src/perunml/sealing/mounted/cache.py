"""Opened chunks, a bounded number of them, shared by the threads that answer reads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from perunml.sealing.chunks import Chunk
from perunml.sealing.keys import wipe
from perunml.sealing.manifest import BlobEntry

Key = tuple[str, int]
Open = Callable[[BlobEntry, Chunk, memoryview], None]
"""Opens a chunk of a blob into a buffer of its plaintext's size."""


@dataclass(slots=True)
class _Slot:
    plain: bytearray
    users: int = 0
    ready: threading.Event = field(default_factory=threading.Event)
    fault: BaseException | None = None


class Chunks:
    """`count` buffers of `size` bytes. A chunk that two threads want at once is opened once."""

    def __init__(self, size: int, count: int) -> None:
        self._free = [_Slot(bytearray(size)) for _ in range(count)]
        self._held: OrderedDict[Key, _Slot] = OrderedDict()
        self._lock = threading.Condition()

    @contextmanager
    def chunk(self, blob: BlobEntry, chunk: Chunk, opened: Open) -> Iterator[memoryview]:
        """The plaintext of a chunk, not to be used afterwards. Raises what `opened` raises, to all who wait for it."""
        key = (blob.id, chunk.index)
        slot, mine = self._take(key)
        try:
            if mine:
                try:
                    opened(blob, chunk, memoryview(slot.plain)[: chunk.size])
                except BaseException as exc:
                    slot.fault = exc
                    raise
                finally:
                    slot.ready.set()
            else:
                slot.ready.wait()
                if slot.fault is not None:
                    raise slot.fault
            yield memoryview(slot.plain)[: chunk.size]
        finally:
            with self._lock:
                slot.users -= 1
                if slot.fault is not None and self._held.get(key) is slot:
                    del self._held[key]
                    self._free.append(slot)
                self._lock.notify()

    def wipe(self) -> None:
        """Zeros; nothing may be in use."""
        with self._lock:
            for slot in (*self._free, *self._held.values()):
                wipe(slot.plain)
            self._held.clear()

    def _take(self, key: Key) -> tuple[_Slot, bool]:
        """The chunk's buffer, counted as used, and whether the caller is the one to fill it."""
        with self._lock:
            while True:
                found = self._held.get(key)
                if found is not None:
                    found.users += 1
                    self._held.move_to_end(key)
                    return found, False
                slot = self._unused()
                if slot is not None:
                    slot.users, slot.fault = 1, None
                    slot.ready = threading.Event()
                    self._held[key] = slot
                    return slot, True
                self._lock.wait()

    def _unused(self) -> _Slot | None:
        """A free buffer, or the one that was not wanted for longest."""
        for slot in self._free:
            if not slot.users:
                self._free.remove(slot)
                return slot
        for key, slot in self._held.items():
            if not slot.users:
                del self._held[key]
                return slot
        return None
