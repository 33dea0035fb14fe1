"""PyTorch datasets over an asset: by number (`SealedDataset`), and in windows that are shuffled (`SealedIterable`).

Public names: `perunml.torch`. The same class reads a sealed asset on its owner's machine and the plain folder that a job sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from perunml.sealing.codes import NO_RECORDS
from perunml.sealing.views.records import Records, npy_records, raw_records
from perunml.sealing.views.source import Source, Where
from perunml.sealing.views.windows import Plan
from perunml.wire.errors import refuse

Array = np.ndarray[Any, Any]
Batch = tuple[torch.Tensor, ...]
READ = 8 << 20
"""Bytes of a block, about: eight chunks of the usual size, so that its two ends cost little more than they would alone."""
WINDOW = 32 << 20
"""Bytes of a window, about: a worker holds two of them."""


@dataclass(frozen=True, slots=True)
class _Window:
    """`runs` are (first record, count) of each of its blocks."""

    number: int
    runs: tuple[tuple[int, int], ...]
    total: int


class _Files:
    """Files of records that belong together, record by record, and this process's own open source."""

    def __init__(self, where: Where, paths: str | Sequence[str], record_size: int | None, header: int) -> None:
        self.where = where
        names = [paths] if isinstance(paths, str) else list(paths)
        source = where.open()
        try:
            self.records: list[Records] = [
                npy_records(source, name)
                if record_size is None
                else raw_records(source, name, record_size, header=header)
                for name in names
            ]
        finally:
            source.close()
        if len({records.count for records in self.records}) != 1:
            counts = ", ".join(f"{records.path}: {records.count}" for records in self.records)
            raise refuse(NO_RECORDS, "files that belong together have one number of records", seen=counts)
        self._source: Source | None = None

    @property
    def count(self) -> int:
        return self.records[0].count

    @property
    def size(self) -> int:
        """Bytes of a record, of all files together."""
        return sum(records.size for records in self.records)

    @property
    def source(self) -> Source:
        if self._source is None:
            self._source = self.where.open()
        return self._source

    def block(self, chunk_size: int) -> int:
        """Records that are read together, of about `READ` bytes: as many whole chunks hold where chunks follow the records' borders
        (`sealing.borders`)."""
        chunks = max(1, READ // chunk_size)
        largest = max(self.records, key=lambda records: records.size)
        each = (chunk_size - largest.start) // largest.size
        return max(1, chunks * each if each > 0 else chunks * chunk_size // self.size)

    def buffers(self, count: int) -> list[Array]:
        return [np.empty((count, *records.shape), records.dtype) for records in self.records]

    def read(self, first: int, out: Sequence[Array]) -> None:
        for records, array in zip(self.records, out, strict=True):
            records.read(self.source, first, array)

    def __getstate__(self) -> dict[str, Any]:
        """A process that is forked or spawned opens for itself: a source is no two processes'."""
        return {"where": self.where, "records": self.records, "_source": None}

    def forked(self) -> None:
        """Called in a worker: what its parent had open is its parent's."""
        self._source = None


class SealedDataset(Dataset):  # type: ignore[misc] # torch has no types here
    """Records by number, as tensors: one for each of `paths`, or the only one. Of ``.npy`` files the rows, else records of `record_size` bytes
    after `header` bytes.

    `where` is `perunml.fs.sealed(…)` or a `PlainFolder`. Raises `UsageError` (file_missing, no_records), `IntegrityError`.
    """

    def __init__(
        self, where: Where, paths: str | Sequence[str], *, record_size: int | None = None, header: int = 0
    ) -> None:
        self._files = _Files(where, paths, record_size, header)
        self._single = isinstance(paths, str)
        self._worker: int | None = None

    def __len__(self) -> int:
        return self._files.count

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several at once, in the order asked for; records that follow one another are read together."""
        self._own()
        out = self._files.buffers(len(indices))
        order = sorted(range(len(indices)), key=indices.__getitem__)
        place = 0
        while place < len(order):
            first, run = indices[order[place]], 1
            while place + run < len(order) and indices[order[place + run]] == first + run:
                run += 1
            part = self._files.buffers(run)
            self._files.read(first, part)
            for whole, some in zip(out, part, strict=True):
                whole[order[place : place + run]] = some
            place += run
        tensors = [_tensor(array) for array in out]
        if self._single:
            return list(tensors[0])
        return list(zip(*tensors, strict=True))

    def _own(self) -> None:
        info = get_worker_info()
        worker = info.id if info else None
        if worker != self._worker:
            self._files.forked()
            self._worker = worker


class SealedIterable(IterableDataset):  # type: ignore[misc] # as above
    """Batches in a windowed shuffle: blocks of about 8 MiB in an order of the epoch's own, some of them at a time as a window of about `window` bytes, whose records are mixed.
    Every record comes once in an epoch, over all ranks and workers; the order follows from seed and epoch alone.

    It gives whole batches, so a `DataLoader` around it has ``batch_size=None``; `SealedLoader` makes one that can go on where it stopped. `rank` and `ranks` are those
    of `torch.distributed`, where that runs and they are not told. Ranks may give different numbers of batches; `even` leaves out those that others have not.
    """

    def __init__(
        self,
        where: Where,
        paths: str | Sequence[str],
        *,
        batch_size: int,
        record_size: int | None = None,
        header: int = 0,
        shuffle: bool = True,
        seed: int = 0,
        window: int = WINDOW,
        rank: int | None = None,
        ranks: int | None = None,
        even: bool = False,
        transform: Callable[..., Any] | None = None,
    ) -> None:
        self._files = _Files(where, paths, record_size, header)
        self._single = isinstance(paths, str)
        block = self._files.block(where.chunk_size)
        blocks = max(1, window // (block * self._files.size))
        self.plan = Plan(self._files.count, block, blocks, batch_size, seed, shuffle)
        self.rank, self.ranks = _ranks(rank, ranks)
        self.even = even
        self.epoch = 0
        self.delivered = 0
        self._transform = transform

    def __len__(self) -> int:
        """Batches of an epoch that this rank gives in all, read by one worker; more workers may end in a few smaller ones."""
        return sum(self.limits(1))

    def limits(self, workers: int) -> list[int]:
        """Batches of each of so many workers."""
        mine = self.plan.batches(self.epoch, self.rank, self.ranks, workers)
        if not self.even:
            return mine
        least = min(sum(self.plan.batches(self.epoch, rank, self.ranks, workers)) for rank in range(self.ranks))
        return self.plan.done(self.epoch, self.rank, self.ranks, workers, least)

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        self._files.forked()
        plan, epoch = self.plan, self.epoch
        skip = plan.done(epoch, self.rank, self.ranks, workers, self.delivered)[worker]
        left = self.limits(workers)[worker] - skip
        windows = plan.share(self.rank, self.ranks, worker, workers)
        for batch in self._batches(windows, skip * plan.batch):
            if left <= 0:
                return
            left -= 1
            made = batch[0] if self._single else batch
            yield self._transform(made) if self._transform else made

    def _batches(self, windows: range, skip: int) -> Iterator[Batch]:
        plan = self.plan
        order = plan.order(self.epoch)
        todo: list[_Window] = []
        for number in windows:
            runs = tuple(plan.runs(order, number))
            total = sum(count for _, count in runs)
            if not todo and skip >= total:
                skip -= total  # delivered before: not even read
            else:
                todo.append(_Window(number, runs, total))
        rest: list[Array] = self._files.buffers(0)
        for window, held in self._read_ahead(todo):
            mix = plan.mix(self.epoch, window.number, window.total)[skip:]
            skip = 0
            have, place = len(rest[0]), 0
            if have and have + len(mix) >= plan.batch:  # what the window before left over, filled up
                place = plan.batch - have
                yield tuple(
                    _tensor(np.concatenate([old, new[mix[:place]]])) for old, new in zip(rest, held, strict=True)
                )
                have, rest = 0, self._files.buffers(0)
            while not have and place + plan.batch <= len(mix):
                some = mix[place : place + plan.batch]
                yield tuple(_tensor(np.take(array, some, axis=0)) for array in held)
                place += plan.batch
            rest = [np.concatenate([old, new[mix[place:]]]) for old, new in zip(rest, held, strict=True)]
        if len(rest[0]):
            yield tuple(_tensor(array) for array in rest)

    def _read_ahead(self, todo: Sequence[_Window]) -> Iterator[tuple[_Window, list[Array]]]:
        """Each window with its records, the next one read meanwhile. The arrays are used again: new memory costs more than opening what goes into it."""
        if not todo:
            return
        most = max(window.total for window in todo)
        spare = [self._files.buffers(most) for _ in todo[:2]]
        with ThreadPoolExecutor(1) as pool:
            self._files.source.second_thread = True
            coming = pool.submit(self._window, todo[0], spare[0])
            for at, window in enumerate(todo):
                held = coming.result()
                self._files.source.second_thread = False  # from now on somebody computes meanwhile
                if at + 1 < len(todo):
                    coming = pool.submit(self._window, todo[at + 1], spare[(at + 1) % 2])
                yield window, held

    def _window(self, window: _Window, out: Sequence[Array]) -> list[Array]:
        place = 0
        for first, count in window.runs:
            self._files.read(first, [array[place : place + count] for array in out])
            place += count
        return [array[:place] for array in out]


class SealedLoader:
    """A `DataLoader` around a `SealedIterable` that knows how far it is: `state_dict` at any time between two batches, `load_state_dict` before iterating, and the
    batches that follow are those that would have followed, with as many workers. Each iteration is the next epoch."""

    def __init__(self, dataset: SealedIterable, **options: Any) -> None:
        """`options` are a `DataLoader`'s: ``num_workers``, ``pin_memory``, ``prefetch_factor``."""
        if {"batch_size", "shuffle", "sampler", "batch_sampler", "persistent_workers"} & set(options):
            raise ValueError("the dataset gives whole batches in their order, and workers begin each epoch anew")
        self.dataset = dataset
        self._workers = int(options.get("num_workers", 0))
        self._options = options

    def __iter__(self) -> Iterator[Any]:
        for batch in DataLoader(self.dataset, batch_size=None, **self._options):
            self.dataset.delivered += 1
            yield batch
        self.dataset.epoch, self.dataset.delivered = self.dataset.epoch + 1, 0

    def __len__(self) -> int:
        return sum(self.dataset.limits(max(1, self._workers)))

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.dataset.epoch, "delivered": self.dataset.delivered, "seed": self.dataset.plan.seed,
                "workers": self._workers}  # fmt: skip

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Raises `ValueError`: the state is of another seed, or of another number of workers, whose batches are others."""
        if (state["seed"], state["workers"]) != (self.dataset.plan.seed, self._workers):
            raise ValueError("a position is one of the same seed and as many workers")
        self.dataset.epoch, self.dataset.delivered = state["epoch"], state["delivered"]


def _ranks(rank: int | None, ranks: int | None) -> tuple[int, int]:
    if (rank is None) != (ranks is None):
        raise ValueError("rank and ranks go together")
    if rank is not None and ranks is not None:
        if not 0 <= rank < ranks:
            raise ValueError("ranks count from 0")
        return rank, ranks
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _tensor(array: Array) -> torch.Tensor:
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(np.ascontiguousarray(array))
