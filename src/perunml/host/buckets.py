"""An input whose ciphertext lies in a bucket: read there in ranges, by addresses that the manager gives under the lease.

They are good for as long as the lease was when they were asked for; so they are asked for again as it is renewed, and a lost lease
leaves a host with addresses that end by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from perunml.api.assets import MAX_ASKED
from perunml.api.runs import InputKey
from perunml.host.protocol import ManagerLink, insist
from perunml.sealing.addressed import Addressed
from perunml.sealing.codes import STORE_REFUSED
from perunml.sealing.manifest import Manifest
from perunml.wire.errors import refuse

Read = Callable[[str, int, int], bytes]
"""A blob's bytes: its id, offset, length."""


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

    def get(self, blob: str) -> str:
        """Raises what the manager refuses, `SuspendedError` (lease_over)."""
        if blob not in self._held or self._clock() >= self._until:
            at = self._blobs.index(blob)
            wanted = self._blobs[at : at + MAX_ASKED]
            asked = self._clock()
            found = insist(lambda: self._link().addresses(self._asset, wanted))
            if set(found.urls) != set(wanted):
                raise refuse(STORE_REFUSED, "the manager did not give the addresses that were asked for", expected=str(len(wanted)), seen=str(len(found.urls)))  # fmt: skip
            # Half of the time is left for what is begun last.
            self._held, self._until = found.urls, asked + found.expires_in / 2
        return self._held[blob]

    def again(self) -> None:
        self._until = 0.0


@contextmanager
def from_bucket(
    item: InputKey, manifest: Manifest, link: Callable[[], ManagerLink], *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Read]:
    """Reads of one input. They raise `IntegrityError` (blob_missing, blob_truncated), `Unreachable` (store_unreachable, store_refused), and what
    `link` raises when the lease is over."""
    sizes = {blob.id: manifest.sealed_size(blob) for blob in manifest.all_blobs}
    addresses = _Addresses(item.asset, list(sizes), link, clock)
    with Addressed() as bucket:

        def read(blob: str, offset: int, length: int) -> bytes:
            tried = False

            def address() -> str:
                nonlocal tried
                if tried:  # what failed may have been the address
                    addresses.again()
                tried = True
                return addresses.get(blob)

            return bucket.read(blob, address, offset, length, sizes[blob])

        yield read
