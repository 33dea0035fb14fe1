"""Points of Curve25519 that no honest key is.

OpenSSL takes any 32 bytes for an Ed25519 key. Under a key of small order anybody can make signatures that verify (for
the neutral point: R = 1, S = 0, for every message), and with an X25519 key of small order the shared secret is zero. Such keys, points
off the curve and second spellings of one point are refused where a key's text is read.
"""

from __future__ import annotations

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
"""RFC 8032 section 5.1: the curve is -x² + y² = 1 + d x² y²."""

_Y8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
"""The y of a point of order 8; the others of that order have -y."""
_SMALL_Y = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})
"""Orders 4, 1, 2, 8, 8."""

_U8 = (
    int.from_bytes(bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"), "little"),
    int.from_bytes(bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"), "little"),
)
_SMALL_U = frozenset({0, 1, _P - 1, *_U8})
"""All u of small order on the curve and its twist (RFC 7748 section 6.1)."""


def sound_ed25519(raw: bytes) -> bool:
    """Whether 32 bytes are the one spelling (RFC 8032 section 5.1.3) of a point of the curve that has no small order."""
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _P or y in _SMALL_Y:
        return False
    # x² = u/v has a root exactly when u·v is a square (Euler): no square root is needed.
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    return pow(u * v, (_P - 1) // 2, _P) == 1


def sound_x25519(raw: bytes) -> bool:
    """Whether 32 bytes are the one spelling of a u-coordinate that has no small order (RFC 7748 section 5)."""
    u = int.from_bytes(raw, "little")
    return u < _P and u not in _SMALL_U
