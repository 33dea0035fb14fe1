"""Secrets under a passphrase: the right one opens, everything else is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perunml.wire import passphrase
from perunml.wire.canonical import load_canonical
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import PerunError
from perunml.wire.passphrase import LOG_N, MAX_LOG_N, open_with_passphrase, seal_with_passphrase

SECRET, WORD, LABEL = b"thirty-two bytes of a secret key", b"correct horse", "perunml/identity"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small scrypt for all but the test of the default: the file says its own cost."""
    monkeypatch.setattr(passphrase, "LOG_N", 10)


def refused(code: str, data: bytes, word: bytes = WORD, label: str = LABEL) -> None:
    with pytest.raises(PerunError) as caught:
        open_with_passphrase(data, word, label)
    assert caught.value.code == code
    assert "horse" not in str(caught.value.reasons)


def test_the_default_costs_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """N = 2^17, in the file; it opens."""
    monkeypatch.setattr(passphrase, "LOG_N", LOG_N)
    data = seal_with_passphrase(SECRET, WORD, LABEL)
    assert load_canonical(data)["log_n"] == LOG_N == 17
    assert open_with_passphrase(data, WORD, LABEL) == SECRET


def test_what_is_sealed_opens_and_hides() -> None:
    """Never the same file twice, and no secret in it."""
    one, two = (seal_with_passphrase(SECRET, WORD, LABEL) for _ in range(2))
    assert one != two
    for data in (one, two):
        assert open_with_passphrase(data, WORD, LABEL) == SECRET
        assert SECRET not in data
        assert b64(SECRET).encode() not in data
        assert WORD not in data


def test_a_wrong_passphrase_is_refused() -> None:
    """Near ones and none."""
    data = seal_with_passphrase(SECRET, WORD, LABEL)
    for word in (b"", b"correct hors", b"Correct horse", WORD + b"\n", b" " + WORD):
        refused("unseal_failed", data, word)


def test_a_file_of_another_kind_is_refused() -> None:
    """An identity's file does not pass for a manager's, not even with its label rewritten."""
    data = seal_with_passphrase(SECRET, WORD, LABEL)
    refused("malformed", data, label="perunml/root")
    refused("unseal_failed", data.replace(b"perunml/identity", b"perunml/root"), label="perunml/root")


def test_an_altered_file_is_refused() -> None:
    """Each byte of salt, nonce and sealed secret; the cost; every truncation."""
    doc = json.loads(seal_with_passphrase(SECRET, WORD, LABEL))
    for name in ("salt", "nonce", "sealed"):
        raw = unb64(doc[name])
        for at in range(0, len(raw), 5):
            changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
            refused("unseal_failed", json.dumps({**doc, name: b64(changed)}).encode())
    refused("unseal_failed", json.dumps({**doc, "log_n": 11}).encode())
    refused("unseal_failed", json.dumps({**doc, "sealed": ""}).encode())
    data = json.dumps(doc).encode()
    for cut in range(0, len(data), 7):
        refused("malformed", data[:cut])


@pytest.mark.parametrize(
    "change",
    [{"log_n": 9}, {"log_n": MAX_LOG_N + 1}, {"log_n": 10.0}, {"log_n": True}, {"log_n": "10"}, {"log_n": -1}, {"log_n": 2**40},
     {"format": "perunml/passphrase-v2"}, {"format": None}, {"label": None}, {"salt": b64(bytes(15))}, {"salt": 5}, {"nonce": b64(bytes(13))},
     {"sealed": None}, {"sealed": "AA=="}, {"more": 1}],
)  # fmt: skip
def test_d4_another_form_is_refused(change: dict[str, Any]) -> None:
    """D4: a file that asks for more memory than the bound is refused before any is taken."""
    doc = json.loads(seal_with_passphrase(SECRET, WORD, LABEL))
    refused("malformed", json.dumps({**doc, **change}).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b'{"a":1,"a":2}', b"\xff"])
def test_nonsense_is_refused(data: bytes) -> None:
    """With its code."""
    refused("malformed", data)


def test_an_empty_passphrase_is_a_callers_mistake() -> None:
    """It would look sealed."""
    with pytest.raises(ValueError, match="empty"):
        seal_with_passphrase(SECRET, b"", LABEL)
