"""One blob's chunks: AES-256-GCM, a key for each blob, the chunk's index as nonce.

A fixed nonce sequence is safe here because each blob has its own key, made from the data key and 32 fresh random bytes,
and a blob is written once: a sealing that was interrupted starts again under a new blob id and a new salt, so no second
plaintext ever meets one (key, index). The additional data binds a chunk to its asset, blob and place, and says which is last, so that chunks
cannot be swapped, moved, dropped or cut off.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from perunml.sealing.codes import CHUNK_ALTERED
from perunml.wire.errors import refuse

TAG = 16
KEY = 32
SALT = 32
MIN_CHUNK = 64 * 1024
DEFAULT_CHUNK = 1 << 20
MAX_CHUNK = 4 << 20
MAX_CHUNKS = 2**32
"""Chunks of one blob: the index has room for 2^96, the manifest's arithmetic and a sane blob (4 PiB) do not."""


class BlobCipher:
    """Seals and opens the chunks of one blob."""

    def __init__(self, data_key: bytes | bytearray, asset_id: str, blob_id: str, salt: bytes) -> None:
        key = HKDF(hashes.SHA256(), KEY, salt, b"perunml/blob-key/v1").derive(bytes(data_key))
        self._gcm = AESGCM(key)
        self._context = b"perunml/chunk/v1" + bytes.fromhex(asset_id) + bytes.fromhex(blob_id)

    def seal(self, index: int, last: bool, plaintext: bytes | bytearray | memoryview) -> bytes:
        return self._gcm.encrypt(index.to_bytes(12), plaintext, self._aad(index, last))

    def seal_into(self, index: int, last: bool, plaintext: bytes | bytearray | memoryview, buffer: memoryview) -> None:
        """As `seal`, into `buffer`, which is a tag longer than the plaintext."""
        self._gcm.encrypt_into(index.to_bytes(12), plaintext, self._aad(index, last), buffer)

    def open_into(self, index: int, last: bool, sealed: bytes | memoryview, buffer: memoryview) -> None:
        """Opens a chunk into `buffer`, which has exactly the plaintext's length. On a bad tag the buffer is wiped, then
        `IntegrityError` (chunk_altered) is raised."""
        try:
            self._gcm.decrypt_into(index.to_bytes(12), sealed, self._aad(index, last), buffer)
        except InvalidTag:
            # decrypt_into leaves unauthenticated plaintext behind; nobody may ever look at it.
            buffer[:] = bytes(len(buffer))
            raise refuse(CHUNK_ALTERED, f"chunk {index} does not open") from None

    def _aad(self, index: int, last: bool) -> bytes:
        return self._context + index.to_bytes(8) + (b"\x01" if last else b"\x00")


Table = tuple[tuple[int, int], ...]
"""Sizes of a blob's chunks, in bytes of plaintext, and how many of each follow one another."""
MAX_RUNS = 1_000_000
"""Of all tables of an asset: 16 MB of its index. Files whose borders are more irregular than that have chunks of one size."""


def within_bounds(table: Table, chunk_size: int) -> bool:
    """Whether it has chunks as the format has them (docs/sealed-format.md, section 4): `MIN_CHUNK` to `chunk_size` bytes each, but the very last of one at least."""
    if not table or any(size < 1 or count < 1 for size, count in table):
        return False
    *before, (last, ends) = table
    least = min((size for size, _ in before), default=MIN_CHUNK)
    return max(size for size, _ in table) <= chunk_size and least >= MIN_CHUNK and (last >= MIN_CHUNK or ends == 1)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Chunk `index` of a blob: `size` plaintext bytes from byte `start`; of its size there are `alike` from it on, itself included."""

    index: int
    start: int
    size: int
    alike: int

    @property
    def stored(self) -> int:
        """Where its ciphertext begins in the stored blob: a tag follows each chunk before it."""
        return self.start + TAG * self.index


class Layout:
    """Where a blob's chunks lie: by its `table`, or all of `chunk_size` bytes but for the last."""

    def __init__(self, size: int, chunk_size: int, table: Table = ()) -> None:
        whole, rest = divmod(size, chunk_size)
        runs = table or ((chunk_size, whole),) * bool(whole) + ((rest, 1),) * bool(rest or not whole)
        self.count = 0
        self._starts: list[int] = []
        self._runs: list[tuple[int, int, int]] = []  # first chunk, size, count
        start = 0
        for length, count in runs:
            self._starts.append(start)
            self._runs.append((self.count, length, count))
            start, self.count = start + length * count, self.count + count

    def find(self, offset: int) -> Chunk:
        """The chunk in which byte `offset` lies, or would lie at the end."""
        place = bisect_right(self._starts, offset) - 1
        first, size, count = self._runs[place]
        within = min((offset - self._starts[place]) // size, count - 1) if size else 0
        return Chunk(first + within, self._starts[place] + within * size, size, count - within)


def chunk_count(size: int, chunk_size: int) -> int:
    """Chunks of a blob of `size` plaintext bytes; an empty blob has one empty chunk, so that its end is sealed too."""
    return max(1, -(-size // chunk_size))


def sealed_size(size: int, chunks: int) -> int:
    """Ciphertext bytes of a blob of `size` plaintext bytes in so many chunks."""
    return size + TAG * chunks
