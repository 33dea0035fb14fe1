"""Checking proofs, as RFC 9162 sections 2.1.3.2 and 2.1.4.2 say. A failure raises; nothing is ever returned."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from perunml.ledger.codes import BAD_CONSISTENCY_PROOF, BAD_INCLUSION_PROOF
from perunml.ledger.merkle import EMPTY_ROOT, HASH_SIZE, MAX_SIZE, node_hash
from perunml.wire.errors import PerunError, refuse
from perunml.wire.rules import Rule

MAX_PROOF = 2 * 53
"""No proof about a tree of fewer than 2^53 leaves has more hashes."""


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raises `IntegrityError` (bad_inclusion_proof) unless `proof` leads from the leaf hash `leaf` at `index` to the
    `root` over `size` leaves. Hashes have 32 bytes."""
    rule = BAD_INCLUSION_PROOF
    _check_form(rule, [leaf, root, *proof], len(proof), index, size)
    if index >= size:
        raise refuse(rule, "the entry lies outside the checkpoint", expected=f"below {size}", seen=str(index))
    position, last, value = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise _fails(rule)
        if position & 1 or position == last:
            value = node_hash(sibling, value)
            while position & 1 == 0 and position:
                position, last = position >> 1, last >> 1
        else:
            value = node_hash(value, sibling)
        position, last = position >> 1, last >> 1
    if last != 0 or not hmac.compare_digest(value, root):
        raise _fails(rule)


def verify_consistency(old: int, size: int, proof: Sequence[bytes], old_root: bytes, root: bytes) -> None:
    """Raises `IntegrityError` (bad_consistency_proof) unless `proof` shows that the tree of `size` leaves under `root`
    begins with the `old` leaves under `old_root`. A tree never shrinks: `old` beyond `size` is refused."""
    rule = BAD_CONSISTENCY_PROOF
    _check_form(rule, [old_root, root, *proof], len(proof), old, size)
    if old > size:
        raise refuse(rule, "the newer tree is smaller", expected=f"at least {old}", seen=str(size))
    if size == 0 and root != EMPTY_ROOT:
        raise _fails(rule)
    if old in (0, size):
        if proof or not hmac.compare_digest(old_root, root if old else EMPTY_ROOT):
            raise _fails(rule)
        return
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)  # the old tree is one complete node: its root is where the path begins
    if not path:
        raise _fails(rule)
    position, last = old - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    older = newer = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise _fails(rule)
        if position & 1 or position == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            while position & 1 == 0 and position:
                position, last = position >> 1, last >> 1
        else:
            newer = node_hash(newer, sibling)
        position, last = position >> 1, last >> 1
    if last != 0 or not hmac.compare_digest(older, old_root) or not hmac.compare_digest(newer, root):
        raise _fails(rule)


def _check_form(rule: Rule, hashes: Sequence[bytes], length: int, *numbers: int) -> None:
    if any(type(n) is not int or not 0 <= n <= MAX_SIZE for n in numbers):
        raise refuse(rule, "an index or size is out of range")
    if length > MAX_PROOF:
        raise refuse(rule, "the proof is too long", expected=f"at most {MAX_PROOF} hashes", seen=str(length))
    if any(len(value) != HASH_SIZE for value in hashes):
        raise refuse(rule, "a hash has a wrong length", expected=f"{HASH_SIZE} bytes")


def _fails(rule: Rule) -> PerunError:
    return refuse(rule, "the proof does not lead to the checkpoint's root")
