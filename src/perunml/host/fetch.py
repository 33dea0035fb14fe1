"""From what the manager delivered to readers of verified ciphertext in the run's folder.

Each asset's manifest must be signed by one of the owners the delivery names and have the digest it names. Ciphertext
comes in parts under the lease's certificate; the whole Merkle tree is checked once it lies here, before a byte of it is used:
whoever held the data key before (an earlier host) could have made chunks that open.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from perunml.api.assets import PART_SIZE
from perunml.api.runs import InputKey, KeyDelivery
from perunml.host.buckets import Part, read_parts
from perunml.host.codes import DELIVERY_MISMATCH
from perunml.host.memory import wipe
from perunml.host.protocol import ManagerLink, insist
from perunml.sealing.manifest import Manifest, open_manifest
from perunml.sealing.reader import SealedReader, verify_tree
from perunml.sealing.store import FolderStore
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

Progress = Callable[[str, int, int], None]
"""Called with an input's name, ciphertext bytes fetched so far, and in all."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """One input: its ciphertext lies in `folder`, its tree was verified, `reader` opens it. Close the reader, which wipes
    its key."""

    input: InputKey
    manifest: Manifest
    reader: SealedReader
    folder: Path


def check_inputs(delivery: KeyDelivery) -> dict[str, Manifest]:
    """The manifests of all inputs, before anything is fetched. Raises `IntegrityError` (delivery_mismatch, bad_signature,
    manifest_invalid)."""
    return {name: check_input(name, item) for name, item in delivery.inputs.items()}


def check_input(name: str, item: InputKey) -> Manifest:
    """The manifest of one, signed by whom the delivery names and of the kind that it names. Raises as `check_inputs`."""
    if item.manifest.digest != item.asset:
        raise refuse(DELIVERY_MISMATCH, f"the manifest of {name} is another asset's", expected=item.asset, seen=item.manifest.digest)  # fmt: skip
    manifest = open_manifest(item.manifest, [PublicKey(text) for text in item.owners])
    if manifest.kind != item.kind:
        raise refuse(DELIVERY_MISMATCH, f"{name} is another kind of asset", expected=item.kind, seen=manifest.kind)
    return manifest


def fetch_input(
    name: str, item: InputKey, manifest: Manifest, link: Callable[[], ManagerLink], folder: Path,
    progress: Progress = lambda name, done, total: None,
) -> Fetched:  # fmt: skip
    """Fetch one input's ciphertext into `folder` and verify it. `link` gives the connection under the lease; asked for each
    part, so that a lost lease ends the transfer; a manager that does not answer is asked again until then, a bucket a bounded number of times. Raises `LimitReached` (disk_full), `IntegrityError`."""
    store = FolderStore(folder)
    done, total = 0, manifest.total_sealed
    sizes = [(blob, manifest.sealed_size(blob)) for blob in manifest.all_blobs]
    parts = [
        (blob.id, offset, min(PART_SIZE, size - offset)) for blob, size in sizes for offset in range(0, size, PART_SIZE)
    ]
    read = read_parts(item, manifest, parts, link) if item.store else _from_manager(item.asset, parts, link)
    with closing(read):
        for blob, size in sizes:
            with store.create(blob.id) as out:
                for _ in range(0, size, PART_SIZE):
                    part = next(read)
                    out.write(part)
                    done += len(part)
                    progress(name, done, total)
    verify_tree(manifest, store)
    key = bytearray(item.key)
    try:
        reader = SealedReader(manifest, key, store)
    finally:
        wipe(key)
    return Fetched(item, manifest, reader, folder)


def _from_manager(asset: str, parts: list[Part], link: Callable[[], ManagerLink]) -> Generator[bytes, None, None]:
    for blob, offset, size in parts:
        yield insist(partial(_part, link, asset, blob, offset, size))


def _part(link: Callable[[], ManagerLink], asset: str, blob: str, offset: int, size: int) -> bytes:
    return link().read_blob(asset, blob, offset, size)


def fetch_inputs(
    delivery: KeyDelivery, link: Callable[[], ManagerLink], folder: Path,
    progress: Progress = lambda name, done, total: None,
) -> dict[str, Fetched]:  # fmt: skip
    """Every input of a delivery, by name, each in a folder of its own below `folder`. On an error the readers made so far
    are closed."""
    found: dict[str, Fetched] = {}
    try:
        for name, manifest in check_inputs(delivery).items():
            # Numbered: a name is the agreement's, a path is ours.
            found[name] = fetch_input(
                name, delivery.inputs[name], manifest, link, folder / f"input{len(found)}", progress
            )
    except BaseException:
        for each in found.values():
            each.reader.close()
        raise
    return found
