"""Boot logs are read whole or not at all, within bounds, whatever is in them."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.evidence.bootlog.parse import MAX_DATA, MAX_EVENTS, BootLog, parse_boot_log
from perunml.evidence.bootlog.replay import explained
from perunml.testing.bootlog import SEPARATOR, MadeLog, boot, u32
from perunml.testing.faults import flip
from perunml.wire.errors import EvidenceRefusal, PerunError

LOG = boot(banks=("sha1", "sha256", "sha384"))
RAW = LOG.encoded


def refused(log: bytes, *, padded: bool = False) -> str:
    with pytest.raises(EvidenceRefusal) as caught:
        parse_boot_log(log, padded=padded)
    return caught.value.code


def as_made(log: BootLog) -> list[tuple[int, int, dict[str, bytes], bytes]]:
    return [(event.register, event.type, dict(event.digests), event.data) for event in log.events]


def test_what_was_made_is_what_is_read() -> None:
    """Three banks, every kind of event that a machine with a UKI has."""
    found = parse_boot_log(RAW)
    assert found.banks == ("sha1", "sha256", "sha384")
    assert as_made(found) == [(e.index, e.type, e.digests, e.data) for e in LOG.events]


def test_e7_a_log_that_ends_inside_an_event_is_refused() -> None:
    """E7: at every byte that is not an event's end, refused as a whole; at an end, a shorter log for the replay to refuse."""
    ends = {len(MadeLog(LOG.banks, events=LOG.events[:count]).encoded) for count in range(len(LOG.events) + 1)}
    for size in range(len(RAW)):
        if size in ends:
            assert len(parse_boot_log(RAW[:size]).events) < len(LOG.events)
        else:
            assert refused(RAW[:size]) == "non_canonical"


def test_e7_an_empty_log_is_refused() -> None:
    """E7: no bytes are not a log without events."""
    assert refused(b"") == "non_canonical"


def test_bytes_after_the_last_event_are_refused() -> None:
    """Padding belongs to a CCEL's buffer; a kernel's file has none."""
    assert refused(RAW + bytes(3)) == "non_canonical"
    assert refused(RAW + b"\xff" * 64) == "non_canonical"


@pytest.mark.parametrize("fill", [b"\0", b"\xff"], ids=["zeros", "ones"])
def test_a_ccels_buffer_ends_where_its_padding_begins(fill: bytes) -> None:
    """Zeros or ones to the end, and nothing among them."""
    assert as_made(parse_boot_log(RAW + fill * 1000, padded=True)) == as_made(parse_boot_log(RAW))
    assert refused(RAW + fill * 1000 + b"\x01", padded=True) == "non_canonical"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"Spec ID Event04\0", "non_canonical"),
        (b"Spec ID EventXX\0", "non_canonical"),
        (b"Spec ID Event03\x01", "non_canonical"),
    ],
)
def test_e20_another_header_is_refused(header: bytes, code: str) -> None:
    """E20: anything that calls itself a Spec ID and is not the third."""
    assert refused(RAW.replace(b"Spec ID Event03\0", header, 1)) == code


def test_e20_a_log_without_its_header_is_refused() -> None:
    """E20: events of the new form are not read as ones of the old."""
    made = boot()
    assert refused(MadeLog(made.banks, header=b"", events=made.events).encoded) == "non_canonical"


@pytest.mark.parametrize("at", [0, 8], ids=["pcr", "digest"])
def test_e20_a_header_that_claims_to_be_measured_is_refused(at: int) -> None:
    """E20: its PCR is 0, its digest zero."""
    assert refused(RAW[:at] + b"\x01" + RAW[at + 1 :]) == "non_canonical"


@pytest.mark.parametrize(
    "algorithms",
    [
        [(0x0005, 32)],
        [(0x000B, 20)],
        [(0x000B, 0)],
        [(0x000B, 32), (0x000B, 32)],
        [],
        [(0x000B, 32), (0x7FFF, 65535)],
    ],
    ids=["unknown", "short", "empty", "twice", "none", "huge"],
)
def test_e10_an_unknown_digest_or_a_wrong_size_is_refused(algorithms: list[tuple[int, int]]) -> None:
    """E10: in the header."""
    spec = b"Spec ID Event03\0" + u32(0) + bytes([0, 2, 0, 2]) + u32(len(algorithms))
    spec += b"".join(struct.pack("<HH", *pair) for pair in algorithms) + b"\0"
    header = u32(0) + u32(3) + bytes(20) + u32(len(spec)) + spec
    assert refused(MadeLog(header=header, events=boot().events).encoded) == "non_canonical"


def test_e10_an_event_with_another_digest_than_the_headers_is_refused() -> None:
    """E10: a bank more, a bank less, a bank twice, an unknown one."""
    digest = {"sha256": bytes(32)}
    for digests in ({**digest, "sha384": bytes(48)}, {}, {"sha384": bytes(48)}, {"sha1": bytes(20)}):
        log = MadeLog()
        log.put(0, SEPARATOR, digests, bytes(4))
        assert refused(log.encoded) == "non_canonical"
    twice = MadeLog(("sha1", "sha256"))
    twice.add(0, SEPARATOR, bytes(4))
    raw = twice.encoded
    at = raw.rindex(b"\x0b\x00")
    assert refused(raw[:at] + b"\x04\x00" + raw[at + 2 :]) == "non_canonical"


@pytest.mark.parametrize("size", [2**31, 2**32 - 1, MAX_DATA + 1])
def test_e11_an_event_of_two_gigabytes_is_refused(size: int) -> None:
    """E11: by its length alone, nothing is allocated."""
    log = MadeLog()
    log.add(0, SEPARATOR, b"")
    assert refused(log.encoded[:-4] + u32(size)) == "non_canonical"


def test_e12_a_million_tiny_events_are_refused() -> None:
    """E12: by their count, long before the millionth; as many as are allowed are read."""
    one = MadeLog()
    one.add(0, SEPARATOR, b"")
    event = one.encoded[len(one.spec_id()) :]
    assert refused(one.spec_id() + event * 1_000_000) == "non_canonical"
    assert len(parse_boot_log(one.spec_id() + event * MAX_EVENTS).events) == MAX_EVENTS


def test_e12_a_million_tiny_events_of_the_old_form_are_refused() -> None:
    """E12: the same for SHA-1 alone."""
    one = MadeLog(("sha1",), agile=False)
    one.add(0, SEPARATOR, b"")
    assert refused(one.encoded * (MAX_EVENTS + 1)) == "non_canonical"


def test_e21_a_nest_of_a_hundred_thousand_tags_is_one_events_data() -> None:
    """E21: tagged events are not descended into, so their depth costs nothing."""
    depth = MAX_DATA // 8
    nest = b"".join(u32(1) + u32(8 * level) for level in reversed(range(depth)))
    log = MadeLog()
    log.add(13, 0x06, nest)
    assert parse_boot_log(log.encoded).events[0].data == nest
    log.add(13, 0x06, (u32(1) + u32(8)) * 100_000)
    assert refused(log.encoded) == "non_canonical"


def test_an_index_that_no_pcr_has_is_refused_unless_nothing_is_extended() -> None:
    """Real firmware gives EV_NO_ACTION an index of all ones; a measured event has a PCR."""
    log = MadeLog()
    log.no_action(b"told, not measured", index=0xFFFF_FFFF)
    assert len(parse_boot_log(log.encoded).events) == 1
    log.add(24, SEPARATOR, bytes(4))
    assert refused(log.encoded) == "non_canonical"


@pytest.mark.parametrize("header", [b"", b"Spec ID Event00\0", b"Spec ID Event02\0"])
def test_e9_a_log_of_sha1_alone_is_read_and_proves_nothing(header: bytes) -> None:
    """E9: with and without a header of the old form."""
    log = MadeLog(("sha1",), agile=False)
    if header:
        log.no_action(header + bytes(9))
    log.separators(range(8))
    found = parse_boot_log(log.encoded)
    assert found.banks == ("sha1",)
    assert len(found.events) == 8 + bool(header)
    for bank, size in (("sha1", 20), ("sha256", 32)):
        with pytest.raises(EvidenceRefusal) as caught:
            explained(found, {bank: {0: bytes(size)}})
        assert caught.value.code == "event_log_mismatch"


@given(st.binary(max_size=400))
def test_junk_makes_no_other_exception(junk: bytes) -> None:
    """Any bytes, alone and after a good header."""
    for log in (junk, LOG.spec_id() + junk, RAW + junk):
        for padded in (False, True):
            with contextlib.suppress(PerunError):
                parse_boot_log(log, padded=padded)


@settings(max_examples=200)
@given(st.integers(min_value=0, max_value=len(RAW) * 8 - 1))
def test_a_flipped_bit_is_refused_or_seen(bit: int) -> None:
    """No flip goes unseen but in what the header tells beside its digests (platform class, version, vendor)."""
    try:
        found = parse_boot_log(flip(RAW, bit))
    except PerunError:
        return
    assert as_made(found) != as_made(parse_boot_log(RAW)) or bit // 8 < len(LOG.spec_id())


EVENTS = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=23), st.integers(min_value=0, max_value=2**32 - 1), st.binary(max_size=64)
    ),
    min_size=1,
    max_size=20,
)
BANKS = st.lists(st.sampled_from(["sha1", "sha256", "sha384", "sha512"]), min_size=1, max_size=4, unique=True)


@settings(max_examples=50)
@given(EVENTS, BANKS)
def test_any_log_that_is_made_is_read(events: list[tuple[int, int, bytes]], banks: list[str]) -> None:
    """Round trip: any types, any data, any banks."""
    log = MadeLog(tuple(banks))
    for index, kind, data in events:
        log.add(index, kind, data)
    found = parse_boot_log(log.encoded)
    assert found.banks == tuple(banks)
    assert [(e.register, e.type, e.data) for e in found.events] == events
