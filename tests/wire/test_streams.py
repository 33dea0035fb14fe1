"""The keys of sealed answers: the specification's worked example, and values of a wrong length. (Cutting, splicing and flipping: tests/serving/test_tunnel.py.)"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perunml.wire.digests import digest
from perunml.wire.errors import IntegrityError
from perunml.wire.streams import FRAME, TAG_SIZE, StreamOpener, StreamSealer

SECRET = bytes(range(32))
REQUEST = digest(b"request")


def test_the_specification_s_worked_example_opens() -> None:
    """docs/spec/inference.md, section 7: its frame is what this code reads."""
    text = (Path(__file__).parents[2] / "docs/spec/inference.md").read_text(encoding="utf-8")
    frame = re.search(r"^frame 0 ([0-9a-f]+)$", text, re.MULTILINE)
    assert frame
    assert StreamOpener(SECRET, REQUEST).feed(bytes(32) + bytes.fromhex(frame[1])) == [(b'{"receipt":{}}', True)]


@pytest.mark.parametrize("secret", [SECRET[:-1], SECRET + b"x"])
def test_a_secret_of_another_length_is_the_caller_s_bug(secret: bytes) -> None:
    """Keys come from 32 random bytes."""
    with pytest.raises(ValueError, match="32 bytes"):
        StreamSealer(secret, REQUEST)


def test_an_answer_to_another_request_does_not_open() -> None:
    """Neither another request's digest, nor another secret, nor another nonce."""
    sealer = StreamSealer(SECRET, REQUEST)
    frame = sealer.seal(b"x", last=True)
    assert len(frame) == FRAME + 1 + TAG_SIZE
    for secret, request, nonce in (
        (SECRET, digest(b"other"), sealer.nonce),
        (bytes(32), REQUEST, sealer.nonce),
        (SECRET, REQUEST, bytes(32)),
    ):
        with pytest.raises(IntegrityError) as refused:
            StreamOpener(secret, request).feed(nonce + frame)
        assert refused.value.code == "unseal_failed"
