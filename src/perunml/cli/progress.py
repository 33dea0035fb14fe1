"""Progress of long transfers, on stderr: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from perunml.wire.quantities import format_size

EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


@contextmanager
def progress(what: str, *, silent: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A function to be called with (bytes done, bytes in all); `silent` shows nothing."""
    if silent:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        with _bar(what) as report:
            yield report
    else:
        yield _lines(what)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    shown = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def _lines(what: str, clock: Callable[[], float] = time.monotonic) -> Callable[[int, int], None]:
    start = last = clock()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = clock()
        if now - last < EVERY or done <= 0:
            return
        last = now
        rate = done / (now - start)
        left = f"{(total - done) / rate:.0f} s left" if rate else "rate unknown"
        size, whole = format_size(done), format_size(total)
        print(f"{what}: {size} of {whole}, {format_size(int(rate))}/s, {left}", file=sys.stderr, flush=True)

    return report
