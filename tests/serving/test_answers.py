"""Answers sealed to a request: what is cut, moved, altered or of another request does not open."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.wire.answers import CHUNK_SIZE, MAX_ANSWER, NONCE_SIZE, open_answer, seal_answer
from perunml.wire.digests import digest
from perunml.wire.errors import IntegrityError, PerunError, UsageError

SECRET = bytes(range(32))
REQUEST = digest(b"request")


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE])
def test_round_trip(size: int) -> None:
    """Answers of every size around a chunk's come back whole."""
    plaintext = bytes(i % 251 for i in range(size))
    nonce, chunks = seal_answer(plaintext, SECRET, REQUEST)
    assert open_answer(nonce, chunks, SECRET, REQUEST) == plaintext
    assert len(chunks) == max(1, -(-size // CHUNK_SIZE))


@given(st.binary(max_size=300), st.integers(min_value=0))
@settings(max_examples=60, deadline=None)
def test_any_bit_flipped_is_refused(plaintext: bytes, where: int) -> None:
    """One bit of nonce or chunk, anywhere, and nothing opens."""
    nonce, chunks = seal_answer(plaintext, SECRET, REQUEST)
    whole = bytearray(nonce + chunks[0])
    bit = where % (8 * len(whole))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError) as refused:
        open_answer(bytes(whole[:NONCE_SIZE]), [bytes(whole[NONCE_SIZE:])], SECRET, REQUEST)
    assert refused.value.code == "unseal_failed"


def _three() -> tuple[bytes, tuple[bytes, ...]]:
    return seal_answer(bytes(2 * CHUNK_SIZE + 5), SECRET, REQUEST)


def test_a_stream_without_its_last_chunk_is_refused() -> None:
    """Cut after any chunk, an answer says that it is cut."""
    nonce, chunks = _three()
    for end in (1, 2):
        with pytest.raises(IntegrityError) as refused:
            open_answer(nonce, chunks[:end], SECRET, REQUEST)
        assert refused.value.code == "answer_incomplete"
    with pytest.raises(IntegrityError) as refused:
        open_answer(nonce, (), SECRET, REQUEST)
    assert refused.value.code == "answer_incomplete"


def test_a_chunk_after_the_last_is_refused() -> None:
    """An answer whose end is followed by a further chunk is refused, although each chunk is genuine."""
    nonce, chunks = seal_answer(bytes(CHUNK_SIZE), SECRET, REQUEST)
    with pytest.raises(IntegrityError) as refused:
        open_answer(nonce, (*chunks, chunks[0]), SECRET, REQUEST)
    assert refused.value.code == "answer_incomplete"


def test_chunks_in_another_order_are_refused() -> None:
    """Swapped, doubled or dropped chunks do not open."""
    nonce, (a, b, c) = _three()
    for wrong in ((b, a, c), (a, a, c), (a, c), (b, c), (a, b, b, c)):
        with pytest.raises(PerunError):
            open_answer(nonce, wrong, SECRET, REQUEST)


def test_an_answer_to_another_request_is_refused() -> None:
    """Neither another request's digest, nor another secret, nor another nonce opens an answer."""
    nonce, chunks = _three()
    for arguments in (
        (nonce, chunks, SECRET, digest(b"other")),
        (nonce, chunks, bytes(32), REQUEST),
        (bytes(NONCE_SIZE), chunks, SECRET, REQUEST),
    ):
        with pytest.raises(IntegrityError):
            open_answer(*arguments)


def test_an_answer_past_the_limit_is_not_made() -> None:
    """The bound on answers is the writer's as well as the reader's."""
    with pytest.raises(ValueError):
        seal_answer(bytes(MAX_ANSWER + 1), SECRET, REQUEST)
    nonce, chunks = seal_answer(b"", SECRET, REQUEST)
    with pytest.raises(IntegrityError):
        open_answer(nonce, [chunks[0]] * 257, SECRET, REQUEST)


def test_the_specification_s_worked_example_opens() -> None:
    """docs/spec/inference.md, section 7: its chunk is what this code reads."""
    text = (Path(__file__).parents[2] / "docs/spec/inference.md").read_text(encoding="utf-8")
    chunk = re.search(r"^chunk 0 ([0-9a-f]+)$", text, re.MULTILINE)
    assert chunk
    assert open_answer(bytes(32), [bytes.fromhex(chunk[1])], SECRET, REQUEST) == b'{"outputs":{}}'


def test_values_of_a_wrong_length_are_refused() -> None:
    """A nonce that is not 32 bytes is malformed; a secret that is not is the caller's bug."""
    nonce, chunks = seal_answer(b"x", SECRET, REQUEST)
    with pytest.raises(UsageError) as refused:
        open_answer(nonce[:-1], chunks, SECRET, REQUEST)
    assert refused.value.code == "malformed"
    for secret in (SECRET[:-1], SECRET + b"x"):
        with pytest.raises(ValueError, match="32 bytes"):
            seal_answer(b"x", secret, REQUEST)


@pytest.mark.parametrize("sizes", [[5, 3], [CHUNK_SIZE + 1, 1], [CHUNK_SIZE + 1]])
def test_chunks_of_another_size_are_refused(sizes: list[int]) -> None:
    """Genuine chunks of lengths that no writer makes: an answer has one encoding."""
    nonce = bytes(NONCE_SIZE)
    info = b"perunml/answer" + bytes.fromhex(REQUEST[7:])
    cipher = AESGCM(HKDF(SHA256(), 32, nonce, info).derive(SECRET))
    last = len(sizes) - 1
    chunks = [
        cipher.encrypt(i.to_bytes(12), bytes(size), i.to_bytes(4) + bytes([i == last])) for i, size in enumerate(sizes)
    ]
    with pytest.raises(UsageError) as refused:
        open_answer(nonce, chunks, SECRET, REQUEST)
    assert refused.value.code == "malformed"
