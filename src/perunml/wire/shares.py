"""A secret split into shares, any `at_least` of which give it again: Shamir's scheme over GF(2^8), for each byte alone.

The field is AES's (polynomial x^8 + x^4 + x^3 + x + 1, FIPS 197 section 4.2). A share's number is the point at which the polynomials
were taken, 1 to 255; 0 would be the secret itself. Fewer shares than `at_least` say nothing about the secret, and so nothing here can
tell a wrong share from a right one: whoever keeps shares keeps a digest of each beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

MOST_SHARES = 255
"""The field's points other than 0."""
_REDUCE = 0x1B


def _times(a: int, b: int) -> int:
    """The product in GF(2^8), without a table or a branch that a secret could choose."""
    product = 0
    for _ in range(8):
        product ^= a & -(b & 1)
        a = ((a << 1) & 0xFF) ^ (_REDUCE & -(a >> 7))
        b >>= 1
    return product


def _inverse(a: int) -> int:
    """1 / a, as a^254. `a` comes from shares' numbers alone and is not 0."""
    result = 1
    for _ in range(254):
        result = _times(result, a)
    return result


def split(secret: bytes, shares: int, at_least: int, randomness: bytes) -> dict[int, bytes]:
    """`shares` shares of `secret` by their numbers 1, 2, …, each as long as the secret.

    `randomness` is fresh, uniform, used for nothing else, and `(at_least - 1) * len(secret)` bytes: the polynomials' coefficients, from
    the lowest degree up, each as long as the secret. Raises `ValueError` where counts or lengths do not fit.
    """
    if not secret or not 1 <= at_least <= shares <= MOST_SHARES:
        raise ValueError(f"a secret that is not empty, and 1 <= at_least <= shares <= {MOST_SHARES}")
    size = len(secret)
    if len(randomness) != (at_least - 1) * size:
        raise ValueError(f"{(at_least - 1) * size} bytes of randomness are needed")
    coefficients = [randomness[start : start + size] for start in range(0, len(randomness), size)]
    highest_first = [*reversed(coefficients), secret]
    made = {}
    for number in range(1, shares + 1):
        value = bytes(size)
        for coefficient in highest_first:
            value = bytes(_times(v, number) ^ c for v, c in zip(value, coefficient, strict=True))
        made[number] = value
    return made


def join(shares: Mapping[int, bytes], at_least: int) -> bytes:
    """The secret that exactly `at_least` shares give (Lagrange at 0). Raises `ValueError` for another count, a number out of range, or
    shares of different lengths. A share that was altered gives another secret, which is for the caller to notice."""
    if len(shares) != at_least:
        raise ValueError(f"exactly {at_least} shares are joined, and not {len(shares)}")
    if not all(1 <= number <= MOST_SHARES for number in shares):
        raise ValueError(f"shares are numbered 1 to {MOST_SHARES}")
    sizes = {len(share) for share in shares.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError("shares of one secret have one length")
    secret = bytes(sizes.pop())
    for number, share in shares.items():
        weight = 1
        for other in shares:
            if other != number:
                weight = _times(weight, _times(other, _inverse(other ^ number)))
        secret = bytes(s ^ _times(v, weight) for s, v in zip(secret, share, strict=True))
    return secret
