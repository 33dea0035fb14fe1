"""An input whose ciphertext lies in a bucket: read there in ranges, by addresses that the manager gives under the lease.

They are good for as long as the lease was when they were asked for; so they are asked for again as it is renewed, and a lost lease
leaves a host with addresses that end by themselves.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

from perunml.api.assets import MAX_ASKED
from perunml.api.runs import InputKey
from perunml.host.protocol import ManagerLink, insist
from perunml.sealing.addressed import Addressed
from perunml.sealing.codes import STORE_REFUSED
from perunml.sealing.manifest import Manifest
from perunml.wire.errors import refuse

AHEAD = 4
"""Parts under way at once: one connection to an object store gives a fraction of what a host's network can."""
Part = tuple[str, int, int]
"""Of a blob: its id, offset and length in bytes."""


class _Addresses:
    """By blob, fetched a batch ahead, and dropped in good time."""

    def __init__(
        self, asset: str, blobs: list[str], link: Callable[[], ManagerLink], clock: Callable[[], float]
    ) -> None:
        self._asset = asset
        self._blobs = blobs
        self._link = link
        self._clock = clock
        self._held: dict[str, str] = {}
        self._until = 0.0
        self._lock = threading.Lock()

    def get(self, blob: str, refused: str = "") -> str:
        """Another one than that which was `refused`. Raises what the manager refuses, `SuspendedError` (lease_over)."""
        with self._lock:
            held = self._held.get(blob, "")
            if not held or held == refused or self._clock() >= self._until:
                at = self._blobs.index(blob)
                wanted = self._blobs[at : at + MAX_ASKED]
                asked = self._clock()
                found = insist(lambda: self._link().addresses(self._asset, wanted))
                if set(found.urls) != set(wanted):
                    raise refuse(
                        STORE_REFUSED, "the manager did not give the addresses that were asked for",
                        expected=str(len(wanted)), seen=str(len(found.urls)),
                    )  # fmt: skip
                # Half of the time is left for what is begun last.
                self._held, self._until = dict(found.urls), asked + found.expires_in / 2
            return self._held[blob]


def read_parts(
    item: InputKey, manifest: Manifest, parts: Iterable[Part], link: Callable[[], ManagerLink],
    *, clock: Callable[[], float] = time.monotonic,
) -> Generator[bytes, None, None]:  # fmt: skip
    """The parts of one input, in order, a few fetched ahead. Raises `IntegrityError` (blob_missing, blob_truncated), `Unreachable` (store_unreachable,
    store_refused), and what `link` raises when the lease is over."""
    sizes = {blob.id: manifest.sealed_size(blob) for blob in manifest.all_blobs}
    addresses = _Addresses(item.asset, list(sizes), link, clock)
    with closing(Addressed()) as bucket:

        def read(part: Part) -> bytes:
            blob, offset, length = part
            last = ""

            def address() -> str:
                nonlocal last
                last = addresses.get(blob, last)  # what failed may have been the address
                return last

            return bucket.read(blob, address, offset, length, sizes[blob])

        pool = ThreadPoolExecutor(AHEAD)
        under_way: deque[Future[bytes]] = deque()
        try:
            for part in parts:
                if len(under_way) == AHEAD:
                    yield under_way.popleft().result()
                under_way.append(pool.submit(read, part))
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
