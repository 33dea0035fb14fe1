"""Secrets in shares: Shamir over GF(2^8)."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.wire.shares import _inverse, _times, join, split


def test_the_field_is_aes() -> None:
    """FIPS 197's own products, and an inverse for every element but 0."""
    assert (_times(0x57, 0x83), _times(0x57, 0x13), _times(0x53, 0xCA)) == (0xC1, 0xFE, 0x01)
    assert all(_times(a, _inverse(a)) == 1 for a in range(1, 256))


def test_pinned_vector() -> None:
    """s = 0x53, a1 = 0x57: at 1 it is s + a1; at 2, s + 0xAE; at 0x13, s + 0xFE (FIPS 197's product)."""
    made = split(b"\x53", 0x13, 2, b"\x57")
    assert (made[1], made[2], made[0x13]) == (b"\x04", b"\xfd", b"\xad")


def test_coefficients_come_in_their_order() -> None:
    """s + a1*2 + a2*4 with a1 = 1, a2 = 2: the lowest degree comes first."""
    assert split(b"\x10", 3, 3, b"\x01\x02")[2] == bytes([0x10 ^ 0x02 ^ 0x08])


@settings(max_examples=20, deadline=None)
@given(data=st.data(), secret=st.binary(min_size=1, max_size=32), count=st.integers(1, 5))
def test_any_that_suffice_give_the_secret(data: st.DataObject, secret: bytes, count: int) -> None:
    """Each subset of the agreed size gives the secret again."""
    least = data.draw(st.integers(1, count))
    size = (least - 1) * len(secret)
    made = split(secret, count, least, data.draw(st.binary(min_size=size, max_size=size)))
    for chosen in combinations(made, least):
        assert join({number: made[number] for number in chosen}, least) == secret


def test_too_few_fit_every_secret() -> None:
    """With one share of two, each of the 256 secrets has exactly one polynomial through it."""
    seen = {join({1: b"\x5a", 2: bytes([other])}, 2) for other in range(256)}
    assert len(seen) == 256


def test_an_altered_share_gives_another_secret() -> None:
    """Shamir alone does not tell a wrong share: the result differs, in every place that was altered."""
    made = split(b"secret", 3, 2, b"random")
    assert join({1: made[1], 3: bytes(b ^ 1 for b in made[3])}, 2) != b"secret"


@pytest.mark.parametrize(
    ("shares", "least"),
    [({}, 0), ({}, 1), ({1: b"a"}, 2), ({1: b"a", 2: b"b"}, 1), ({0: b"a"}, 1), ({256: b"a"}, 1), ({1: b"a", 2: b"bc"}, 2), ({1: b""}, 1)],
)  # fmt: skip
def test_shares_that_do_not_fit_are_refused(shares: dict[int, bytes], least: int) -> None:
    """A wrong count, number or length."""
    with pytest.raises(ValueError):
        join(shares, least)


@pytest.mark.parametrize(
    ("secret", "count", "least", "randomness"),
    [(b"", 1, 1, b""), (b"a", 1, 2, b"r"), (b"a", 1, 0, b""), (b"a", 256, 1, b""), (b"ab", 2, 2, b"r"), (b"a", 2, 2, b"")],
)  # fmt: skip
def test_splits_that_do_not_fit_are_refused(secret: bytes, count: int, least: int, randomness: bytes) -> None:
    """No secret, a quorum beyond the shares, too many shares, randomness of another length."""
    with pytest.raises(ValueError):
        split(secret, count, least, randomness)
