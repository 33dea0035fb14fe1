"""The order of a windowed shuffle, by arithmetic alone: who reads which records when, and where to go on.

Records lie in blocks, which are read as a whole. An epoch puts the blocks in an order of its own, takes some of them at a time as a window, and
the records of a window in an order of their own. Windows go to ranks in turn, and a rank's to its workers in turn: together they read each record once. All of it
follows from the plan, the seed and the epoch, so nothing needs to be kept but how far somebody was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Order = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Plan:
    """`count` records in blocks of `block`, `window` blocks at a time; `shuffle` False leaves all in order. `batch` records go together, never of two
    workers; the last batch of a worker may be smaller."""

    count: int
    block: int
    window: int
    batch: int
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.count < 0 or min(self.block, self.window, self.batch) < 1:
            raise ValueError("blocks, windows and batches have one record at least")

    @property
    def blocks(self) -> int:
        return -(-self.count // self.block)

    @property
    def windows(self) -> int:
        return -(-self.blocks // self.window)

    def order(self, epoch: int) -> Order:
        """The epoch's blocks, by number."""
        numbers: Order = np.arange(self.blocks, dtype=np.int64)
        if self.shuffle:
            self._random(epoch, 0).shuffle(numbers)
        return numbers

    def mix(self, epoch: int, window: int, records: int) -> Order:
        """The order of the `records` of a window."""
        numbers: Order = np.arange(records, dtype=np.int64)
        if self.shuffle:
            self._random(epoch, window + 1).shuffle(numbers)
        return numbers

    def share(self, rank: int, ranks: int, worker: int, workers: int) -> range:
        """The windows of one worker of one rank."""
        if not 0 <= rank < ranks or not 0 <= worker < workers:
            raise ValueError("ranks and workers count from 0")
        return range(rank + worker * ranks, self.windows, ranks * workers)

    def records(self, epoch: int, windows: range) -> int:
        """How many records these windows of an epoch hold."""
        order = self.order(epoch)
        return sum(self._size(order, window) for window in windows)

    def runs(self, order: Order, window: int) -> Iterator[tuple[int, int]]:
        """(first record, number of records) of each block of a window."""
        for block in order[window * self.window : (window + 1) * self.window]:
            first = int(block) * self.block
            yield first, min(self.block, self.count - first)

    def batches(self, epoch: int, rank: int, ranks: int, workers: int) -> list[int]:
        """How many batches each worker of a rank gives."""
        shares = (self.records(epoch, self.share(rank, ranks, worker, workers)) for worker in range(workers))
        return [-(-records // self.batch) for records in shares]

    def done(self, epoch: int, rank: int, ranks: int, workers: int, delivered: int) -> list[int]:
        """How many batches each worker had given when a loader that asks them in turn, and one that is at its end no more, had delivered so many."""
        whole = self.batches(epoch, rank, ranks, workers)
        given = [0] * workers
        while delivered > 0 and (alive := [w for w in range(workers) if given[w] < whole[w]]):
            turns = min(min(whole[w] - given[w] for w in alive), delivered // len(alive))
            for place, worker in enumerate(alive):
                given[worker] += turns or (place < delivered)
            delivered -= turns * len(alive) or delivered
        return given

    def _size(self, order: Order, window: int) -> int:
        return sum(records for _, records in self.runs(order, window))

    def _random(self, epoch: int, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, epoch, stream]))
