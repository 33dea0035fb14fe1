"""base64url, digests, times, quantities: one spelling each."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.wire.digests import digest, digest_of, parse_digest
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import PerunError, UsageError
from perunml.wire.quantities import format_size, parse_duration, parse_rate, parse_size
from perunml.wire.timestamps import format_time, parse_time


def malformed(act: Any, *args: Any, **more: Any) -> None:
    with pytest.raises(UsageError) as refused:
        act(*args, **more)
    assert refused.value.code == "malformed"


# --- base64url


@pytest.mark.parametrize(
    ("data", "text"), [(b"", ""), (b"f", "Zg"), (b"fo", "Zm8"), (b"foo", "Zm9v"), (b"\xfb\xff", "-_8")]
)
def test_base64url(data: bytes, text: str) -> None:
    """RFC 4648 section 10, without padding, and the two letters that differ."""
    assert b64(data) == text
    assert unb64(text) == data


@pytest.mark.parametrize(
    "text", ["Zg==", "Zg=", "Zh", "Z", "Zm9v\n", "Zm 9v", "+/8", "Zm9v=", "Zm9", "é", "\ud800", None, 5, b"Zg", ["Zg"]]
)
def test_another_spelling_of_base64url_is_refused(text: Any) -> None:
    """Padding, stray bits, the other alphabet, whitespace, other types."""
    malformed(unb64, text)


def test_n6_a_value_of_another_length_is_refused() -> None:
    """N5, N6: a nonce's prefix, a nonce with zeros, none."""
    for wrong in (b"", bytes(31), bytes(33)):
        malformed(unb64, b64(wrong), size=32)
    assert unb64(b64(bytes(32)), size=32) == bytes(32)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ABZabz019-_+/= \n", max_size=12))
def test_what_base64url_reads_it_writes(text: str) -> None:
    """Whatever is read prints the same."""
    try:
        data = unb64(text)
    except PerunError:
        return
    assert b64(data) == text


# --- digests


def test_digests() -> None:
    """FIPS 180-4's "abc", of bytes and of a value's canonical form."""
    abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(b"abc") == digest(bytearray(b"abc")) == digest(memoryview(b"abc")) == abc
    assert digest_of({"b": 1, "a": 2}) == digest(b'{"a":2,"b":1}')
    assert parse_digest(abc).hex() == abc[7:]


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", "sha256:" + "a" * 63, "sha256:" + "a" * 65, "sha256:" + "A" * 64, "SHA256:" + "a" * 64, "a" * 64, "sha1:" + "a" * 40,
     "sha256:" + "g" * 64, "sha256:" + "a" * 64 + "\n", " sha256:" + "a" * 64, "sha256:" + "\u0661" * 64, None, 5, b"sha256:"],
)  # fmt: skip
def test_i26_another_spelling_of_a_digest_is_refused(text: Any) -> None:
    """I26: lengths, case, other algorithms, trailing newline, other types."""
    malformed(parse_digest, text)


# --- times


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("0001-01-01T00:00:00Z", -62135596800),
        ("2027-06-30T00:00:00Z", 1814313600),
        ("9999-12-31T23:59:59Z", 253402300799),
    ],
)
def test_times(text: str, seconds: int) -> None:
    """Both ways."""
    assert parse_time(text) == seconds
    assert format_time(seconds) == text


@pytest.mark.parametrize(
    "text",
    ["", "2027-06-30", "2027-06-30T00:00:00", "2027-06-30T00:00:00+00:00", "2027-06-30T00:00:00z", "2027-06-30t00:00:00Z",
     "2027-06-30T00:00:00.5Z", "2027-06-30 00:00:00Z", "2027-02-29T00:00:00Z", "2027-13-01T00:00:00Z", "2027-06-30T24:00:00Z",
     "2027-06-30T00:00:60Z", "0000-01-01T00:00:00Z", "+2027-06-30T00:00:00Z", "2027-06-30T00:00:00Z\n", "٢027-06-30T00:00:00Z",
     "10000-01-01T00:00:00Z", None, 5, 1.5],
)  # fmt: skip
def test_another_spelling_of_a_time_is_refused(text: Any) -> None:
    """Other zones, fractions, days that are not, leap seconds, other types."""
    malformed(parse_time, text)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 253402300799))
def test_every_time_reads_back(seconds: int) -> None:
    """Round trip up to the year 9999."""
    assert parse_time(format_time(seconds)) == seconds


# --- quantities


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_size, "500MiB", 500 * 2**20), (parse_size, "0B", 0), (parse_size, "1kB", 1000), (parse_size, "2TiB", 2**41),
        (parse_duration, "30s", 30), (parse_duration, "8h", 28800), (parse_duration, "5m", 300), (parse_duration, "2d", 172800),
        (parse_rate, "10000/day", (10000, 86400)), (parse_rate, "1/second", (1, 1)), (parse_rate, "3/minute", (3, 60)),
        (parse_rate, "4/hour", (4, 3600)),
    ],
)  # fmt: skip
def test_quantities(parse: Any, text: str, value: Any) -> None:
    """As people write them."""
    assert parse(text) == value


@pytest.mark.parametrize("parse", [parse_size, parse_duration, parse_rate])
@pytest.mark.parametrize(
    "text",
    ["", "5", "B", "-1B", "+1B", "1.5MiB", "01B", "1 B", " 1B", "1B ", "1B\n", "1mib", "1MIB", "1e3B", "1_0B", "٣B", "1x", "1S", "1/week", "/day",
     "01/day", "-1/day", "1/Day", "1 / day", "1/day\n", "9" * 13 + "B", "9" * 13 + "s", "9" * 13 + "/day", "999999999999TiB", None, 5, True, ["1B"]],
)  # fmt: skip
def test_another_spelling_of_a_quantity_is_refused(parse: Any, text: Any) -> None:
    """Signs, fractions, other units, spaces, other digits, numbers past 2^53, other types."""
    malformed(parse, text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 * 2**19, "1.5 MiB"),
        (2**30, "1.0 GiB"),
        (2**53, "8192.0 TiB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    """One digit after the point."""
    assert format_size(size) == text


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789BKMGTikshmd/ay -", max_size=10))
def test_nonsense_is_refused_with_a_code(text: str) -> None:
    """No other exception, whatever the text."""
    for parse in (parse_size, parse_duration, parse_rate, parse_time, parse_digest):
        try:
            parse(text)  # type: ignore[operator]  # a list of unlike functions
        except UsageError:
            continue
