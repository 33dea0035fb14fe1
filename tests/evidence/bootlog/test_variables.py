"""UEFI variables and signature lists are read exactly or not at all."""

from __future__ import annotations

import hashlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perunml.evidence.bootlog.facts import Sort, read_boot_log
from perunml.evidence.bootlog.parse import parse_boot_log
from perunml.evidence.bootlog.replay import replay
from perunml.evidence.bootlog.variables import (
    GLOBAL,
    MAX_ENTRIES,
    SHIM_LOCK,
    Variable,
    authority,
    read_variable,
    signatures,
)
from perunml.testing.bootlog import (
    OWNER,
    SEPARATOR,
    SHA256,
    VARIABLE,
    X509,
    MadeLog,
    boot,
    certificate,
    signature_list,
    u32,
    variable,
)
from perunml.wire.errors import EvidenceRefusal

CERTIFICATE = certificate(b"somebody's")
HASH = hashlib.sha256(b"an image").digest()


def named(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_a_variable_fills_its_event_exactly() -> None:
    """A byte more, a byte less, a name too long or of no characters is no variable."""
    good = variable("SecureBoot", b"\x01")
    assert read_variable(good) == Variable(GLOBAL, "SecureBoot", b"\x01")
    for bad in (good + b"\0", good[:-1], good[:20], variable("x" * 129, b""), good[:32] + b"\0\xd8" + good[34:]):
        assert read_variable(bad) is None


def test_signature_lists_give_each_entry_its_digest() -> None:
    """A certificate's by its DER, padded or not; an image hash as it stands; anything else by its data."""
    other = uuid.UUID(int=7)
    data = signature_list(X509, CERTIFICATE + b"\0\0") + signature_list(SHA256, HASH) + signature_list(other, b"else")
    assert signatures(data) == (named(CERTIFICATE), "sha256:" + HASH.hex(), named(b"else"))
    assert signatures(b"") == ()


@pytest.mark.parametrize(
    "bad",
    [
        b"short",
        signature_list(SHA256, HASH)[:-1],
        signature_list(SHA256, HASH) + b"\0",
        SHA256.bytes_le + u32(28) + u32(0) + u32(16),
        SHA256.bytes_le + u32(27) + u32(0) + u32(48),
        SHA256.bytes_le + u32(28 + 47) + u32(0) + u32(48) + bytes(47),
        SHA256.bytes_le + u32(2**32 - 1) + u32(2**32 - 1) + u32(48),
        signature_list(SHA256, *[b"x"] * (MAX_ENTRIES + 1)),
    ],
)
def test_what_is_no_list_of_signatures_is_not_read(bad: bytes) -> None:
    """Truncated, overlong, of a strange entry size, or of too many entries: nothing of it counts."""
    assert signatures(bad) is None


def test_what_vouched_is_named_with_and_without_its_owner() -> None:
    """The firmware measures an entry with its owner, shim a bare certificate; a hash is named as it stands."""
    assert authority(Variable(GLOBAL, "db", OWNER.bytes_le + CERTIFICATE)) == named(CERTIFICATE)
    assert authority(Variable(SHIM_LOCK, "Shim", CERTIFICATE)) == named(CERTIFICATE)
    assert authority(Variable(GLOBAL, "db", OWNER.bytes_le + HASH)) == "sha256:" + HASH.hex()
    assert authority(Variable(GLOBAL, "db", b"else")) == named(b"else")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_not(data: bytes) -> None:
    """No exception, whatever is in a log."""
    read_variable(data)
    signatures(data)
    authority(Variable(GLOBAL, "db", data))


def test_a_variable_of_another_vendor_is_not_secure_boots() -> None:
    """E4: the name alone does not make it the firmware's."""
    log = MadeLog()
    log.add(7, VARIABLE, variable("SecureBoot", b"\x01", SHIM_LOCK))
    facts = read_boot_log(parse_boot_log(log.encoded), {})
    assert facts.secure_boot is None
    assert [fact.sort for fact in facts.facts] == [Sort.OTHER]


def test_a_bank_that_is_never_quoted_is_read_and_not_replayed() -> None:
    """SM3 beside SHA-256, as some machines have it."""
    log = boot()
    raw = log.encoded
    data = b"Spec ID Event03\0" + u32(0) + bytes([0, 2, 0, 2]) + u32(2) + b"\x0b\0\x20\0\x12\0\x20\0\0"
    header = u32(0) + u32(3) + bytes(20) + u32(len(data)) + data
    events = b"".join(
        u32(e.index)
        + u32(e.type)
        + u32(2)
        + b"\x0b\0"
        + e.digests["sha256"]
        + b"\x12\0"
        + bytes(32)
        + u32(len(e.data))
        + e.data
        for e in log.events
    )
    found = parse_boot_log(header + events)
    assert found.banks == ("sha256", "sm3_256")
    assert replay(found) == replay(parse_boot_log(raw))


def test_e7_old_and_short_forms_that_end_early_are_refused() -> None:
    """E7: a second event of the old form, and a header, cut."""
    old = MadeLog(("sha1",), agile=False)
    old.separators([0, 1])
    short = b"Spec ID Event03\0" + u32(0)
    for bad in (old.encoded[:-20], u32(0) + u32(3) + bytes(20) + u32(len(short)) + short):
        with pytest.raises(EvidenceRefusal) as caught:
            parse_boot_log(bad)
        assert caught.value.code == "non_canonical"
    assert [event.type for event in parse_boot_log(old.encoded).events] == [SEPARATOR] * 2
