"""Answers of a service, sealed to the request that asked (docs/spec/inference.md, section 4).

HPKE in the library is single-shot and has no way back, so the sealed request carries 32 random bytes. An answer is cut into
chunks, each AES-256-GCM under ``HKDF-SHA256(secret, salt=response nonce, info="perunml/answer" || request digest)``; the nonce
is the chunk's index and the additional data is the index and whether it is the last. A fixed starting nonce is safe
because each key serves one answer: the response nonce is fresh, and the secret never serves two requests.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from perunml.wire.codes import ANSWER_INCOMPLETE, MALFORMED, UNSEAL_FAILED
from perunml.wire.digests import parse_digest
from perunml.wire.errors import refuse

SECRET_SIZE = 32
NONCE_SIZE = 32
CHUNK_SIZE = 64 * 1024
"""Plaintext bytes of every chunk but the last, which has from 1 to so many (an empty answer has one empty chunk)."""
TAG_SIZE = 16
MAX_CHUNKS = 256
"""An answer has at most 16 MiB: predictions, not data sets."""
MAX_ANSWER = MAX_CHUNKS * CHUNK_SIZE
_LABEL = b"perunml/answer"


def seal_answer(plaintext: bytes, secret: bytes, request_digest: str) -> tuple[bytes, tuple[bytes, ...]]:
    """The response nonce and the chunks, each 16 bytes longer than its plaintext. `request_digest` is ``sha256:…`` of the
    request. Raises `ValueError` past `MAX_ANSWER` bytes."""
    if len(plaintext) > MAX_ANSWER:
        raise ValueError("an answer of this size is not sent")
    nonce = os.urandom(NONCE_SIZE)
    cipher = answer_cipher(secret, nonce, request_digest)
    pieces = [plaintext[at : at + CHUNK_SIZE] for at in range(0, len(plaintext), CHUNK_SIZE)] or [b""]
    last = len(pieces) - 1
    return nonce, tuple(cipher.encrypt(counter(i), piece, additional(i, i == last)) for i, piece in enumerate(pieces))


def open_answer(nonce: bytes, chunks: Sequence[bytes], secret: bytes, request_digest: str) -> bytes:
    """The plaintext, when every chunk is there, in its place and unaltered. Raises `UsageError` (malformed) and
    `IntegrityError` (answer_incomplete: no last chunk, or some after it; unseal_failed: altered or of another request)."""
    if len(nonce) != NONCE_SIZE:
        raise refuse(MALFORMED, "the answer's nonce has a wrong length", expected=f"{NONCE_SIZE} bytes")
    if not 1 <= len(chunks) <= MAX_CHUNKS:
        raise refuse(ANSWER_INCOMPLETE, "the answer has no chunk, or too many", seen=str(len(chunks)))
    cipher = answer_cipher(secret, nonce, request_digest)
    last = len(chunks) - 1
    out = bytearray()
    for index, chunk in enumerate(chunks):
        if len(chunk) > CHUNK_SIZE + TAG_SIZE or (index < last and len(chunk) != CHUNK_SIZE + TAG_SIZE):
            raise refuse(MALFORMED, f"chunk {index} of the answer has a wrong length")
        try:
            out += cipher.decrypt(counter(index), chunk, additional(index, index == last))
        except InvalidTag:
            raise _explain(cipher, index, chunk, index == last) from None
    return bytes(out)


def _explain(cipher: AESGCM, index: int, chunk: bytes, last: bool) -> Exception:
    """Tell a stream that was cut short, or that goes on after its end, from one that was altered."""
    try:
        cipher.decrypt(counter(index), chunk, additional(index, not last))
    except InvalidTag:
        return refuse(UNSEAL_FAILED, f"chunk {index} of the answer was altered, or answers another request")
    what = "its last chunk is missing" if last else "something follows its last chunk"
    return refuse(ANSWER_INCOMPLETE, f"the answer was cut or spliced: {what}")


def answer_cipher(secret: bytes, nonce: bytes, request_digest: str, label: bytes = _LABEL) -> AESGCM:
    """The cipher of one answer, under a request's secret and a fresh nonce."""
    if len(secret) != SECRET_SIZE:
        raise ValueError("a request's secret has 32 bytes")
    info = label + parse_digest(request_digest)
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=nonce, info=info).derive(secret))


def counter(index: int) -> bytes:
    """A chunk's nonce."""
    return index.to_bytes(12)


def additional(index: int, last: bool) -> bytes:
    """A chunk's additional data."""
    return index.to_bytes(4) + (b"\x01" if last else b"\x00")
