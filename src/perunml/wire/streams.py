"""Answers of a service, read while they come and sealed to the request that asked (docs/spec/inference.md, section 4).

HPKE in the library is single-shot and has no way back, so the sealed request carries 32 random bytes. An answer is cut into chunks, each AES-256-GCM under
``HKDF-SHA256(secret, salt=response nonce, info="perunml/stream" || request digest)``; the nonce is the chunk's index and the additional data is the index and whether it is the last.
A fixed starting nonce is safe because each key serves one answer: the response nonce is fresh, and the secret never serves two requests. Each chunk opens by itself, and a
reader that was not given one marked as last knows that the answer was cut.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from perunml.wire.codes import ANSWER_INCOMPLETE, MALFORMED, UNSEAL_FAILED
from perunml.wire.digests import parse_digest
from perunml.wire.errors import refuse

SECRET_SIZE = 32
NONCE_SIZE = 32
TAG_SIZE = 16
LABEL = b"perunml/stream"
MAX_CHUNK = 4 << 20
"""Plaintext bytes of one chunk."""
MAX_COUNT = 2**32 - 1
FRAME = 5
"""Bytes in front of each chunk: its length in four, and 1 where it is the last."""


class StreamSealer:
    """Seals one answer's chunks, in order. `nonce` goes first."""

    def __init__(self, secret: bytes, request_digest: str) -> None:
        self.nonce = os.urandom(NONCE_SIZE)
        self._cipher = _cipher(secret, self.nonce, request_digest)
        self._index = 0

    def seal(self, part: bytes | memoryview, *, last: bool = False) -> bytes:
        """The frame of one chunk of at most `MAX_CHUNK` bytes."""
        if len(part) > MAX_CHUNK or self._index > MAX_COUNT:
            raise ValueError("a chunk of this size, or so many, are not sent")
        sealed = self._cipher.encrypt(_counter(self._index), part, _additional(self._index, last))
        self._index += 1
        return len(sealed).to_bytes(4) + bytes([last]) + sealed


class StreamOpener:
    """Opens what a `StreamSealer` sealed, from bytes in pieces of any size. Feed it, take `(chunk, last)`, and `end` it."""

    def __init__(self, secret: bytes, request_digest: str) -> None:
        self._secret, self._digest = secret, request_digest
        self._held = bytearray()
        self._cipher: AESGCM | None = None
        self._index = 0
        self._over = False

    def feed(self, data: bytes) -> list[tuple[bytes, bool]]:
        """The chunks that are whole by now. Raises `IntegrityError` (unseal_failed, answer_incomplete: something follows the last) and
        `UsageError` (malformed)."""
        self._held += data
        if self._cipher is None:
            if len(self._held) < NONCE_SIZE:
                return []
            self._cipher = _cipher(self._secret, bytes(self._held[:NONCE_SIZE]), self._digest)
            del self._held[:NONCE_SIZE]
        found: list[tuple[bytes, bool]] = []
        at = 0
        while len(self._held) - at >= FRAME and not self._over:
            size, flag = int.from_bytes(self._held[at : at + 4]), self._held[at + 4]
            if not TAG_SIZE <= size <= MAX_CHUNK + TAG_SIZE or flag > 1:
                raise refuse(MALFORMED, "a chunk of the answer has a wrong length")
            if len(self._held) - at - FRAME < size:
                break
            found.append((self._open(bytes(self._held[at + FRAME : at + FRAME + size]), bool(flag)), bool(flag)))
            at += FRAME + size
        del self._held[:at]
        if self._over and self._held:
            raise refuse(ANSWER_INCOMPLETE, "the answer was spliced: something follows its last chunk")
        return found

    def end(self) -> None:
        """Nothing comes any more. Raises `IntegrityError` (answer_incomplete)."""
        if not self._over:
            raise refuse(ANSWER_INCOMPLETE, "the answer was cut: its last chunk is missing")

    def _open(self, chunk: bytes, last: bool) -> bytes:
        assert self._cipher is not None
        try:
            plain = self._cipher.decrypt(_counter(self._index), chunk, _additional(self._index, last))
        except InvalidTag:
            raise refuse(
                UNSEAL_FAILED, f"chunk {self._index} of the answer was altered, or answers another request"
            ) from None
        self._index, self._over = self._index + 1, last
        return plain


def _cipher(secret: bytes, nonce: bytes, request_digest: str) -> AESGCM:
    """The cipher of one answer, under a request's secret and a fresh nonce."""
    if len(secret) != SECRET_SIZE:
        raise ValueError("a request's secret has 32 bytes")
    info = LABEL + parse_digest(request_digest)
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=nonce, info=info).derive(secret))


def _counter(index: int) -> bytes:
    """A chunk's nonce."""
    return index.to_bytes(12)


def _additional(index: int, last: bool) -> bytes:
    """A chunk's additional data."""
    return index.to_bytes(4) + (b"\x01" if last else b"\x00")
