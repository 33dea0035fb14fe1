"""Checking proofs: every honest one passes, every altered one is refused with its code."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import naive
from perunml.ledger.merkle import EMPTY_ROOT, MAX_SIZE, leaf_hash
from perunml.ledger.proofs import MAX_PROOF, verify_consistency, verify_inclusion
from perunml.wire.errors import IntegrityError

LEAVES = [b"leaf %d" % i for i in range(64)]
ROOTS = [naive.mth(LEAVES[:n]) for n in range(65)]


def refused_inclusion(leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> None:
    with pytest.raises(IntegrityError) as refused:
        verify_inclusion(leaf, index, size, proof, root)
    assert refused.value.code == "bad_inclusion_proof"


def refused_consistency(old: int, size: int, proof: list[bytes], old_root: bytes, root: bytes) -> None:
    with pytest.raises(IntegrityError) as refused:
        verify_consistency(old, size, proof, old_root, root)
    assert refused.value.code == "bad_consistency_proof"


def flipped(value: bytes, bit: int = 0) -> bytes:
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def damaged(proof: list[bytes]) -> list[list[bytes]]:
    """The proof cut, doubled, lengthened, reordered, and with one bit changed in each hash."""
    out = [[*proof, leaf_hash(b"more")], [leaf_hash(b"more"), *proof]]
    if proof:
        out += [proof[:-1], proof[1:], [*proof, proof[-1]]]
    if len(proof) > 1:
        out += [[proof[1], proof[0], *proof[2:]], proof[::-1]]
    out += [[*proof[:i], flipped(proof[i], 77), *proof[i + 1 :]] for i in range(len(proof))]
    return [one for one in out if one != proof]


def test_every_inclusion_proof_up_to_64_leaves_passes() -> None:
    """And with another leaf, another index or another root it is refused."""
    for size in range(1, 65):
        for index in range(size):
            leaf, proof = leaf_hash(LEAVES[index]), naive.path(index, LEAVES[:size])
            verify_inclusion(leaf, index, size, proof, ROOTS[size])
            refused_inclusion(leaf_hash(b"other"), index, size, proof, ROOTS[size])
            refused_inclusion(leaf, index, size, proof, ROOTS[size - 1])
            refused_inclusion(leaf, (index + 1) % (size + 1), size, proof, ROOTS[size])


def test_every_consistency_proof_up_to_64_leaves_passes() -> None:
    """And with another old or new root it is refused."""
    for size in range(65):
        for old in range(size + 1):
            proof = naive.proof(old, LEAVES[:size]) if old else []
            verify_consistency(old, size, proof, ROOTS[old], ROOTS[size])
            refused_consistency(old, size, proof, flipped(ROOTS[old]), ROOTS[size])
            if old:  # from nothing, any ledger may grow
                refused_consistency(old, size, proof, ROOTS[old], flipped(ROOTS[size]))


def test_every_damaged_proof_is_refused() -> None:
    """P16: cut, doubled, lengthened, reordered, one bit changed; all trees up to 20 leaves."""
    tried = 0
    for size in range(1, 21):
        for index in range(size):
            for bad in damaged(naive.path(index, LEAVES[:size])):
                refused_inclusion(leaf_hash(LEAVES[index]), index, size, bad, ROOTS[size])
                tried += 1
        for old in range(1, size + 1):
            for bad in damaged(naive.proof(old, LEAVES[:size])):
                refused_consistency(old, size, bad, ROOTS[old], ROOTS[size])
                tried += 1
    assert tried > 2000


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    """P16, in trees up to 64 leaves: one bit anywhere in proof, leaf or roots."""
    size = data.draw(st.integers(2, 64))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size - 1))
    bit = data.draw(st.integers(0, 255))
    values = [leaf_hash(LEAVES[index]), ROOTS[size], *naive.path(index, LEAVES[:size])]
    at = data.draw(st.integers(0, len(values) - 1))
    values[at] = flipped(values[at], bit)
    refused_inclusion(values[0], index, size, values[2:], values[1])
    values = [ROOTS[old], ROOTS[size], *naive.proof(old, LEAVES[:size])]
    at = data.draw(st.integers(0, len(values) - 1))
    values[at] = flipped(values[at], bit)
    refused_consistency(old, size, values[2:], values[0], values[1])


@settings(max_examples=150, deadline=None)
@given(
    st.integers(-1, 70), st.integers(-1, 70), st.lists(st.binary(min_size=31, max_size=33), max_size=10), st.binary()
)
def test_nonsense_is_refused_and_never_crashes(a: int, b: int, proof: list[bytes], root: bytes) -> None:
    """Random numbers, hashes and lengths end in the coded refusal."""
    refused_inclusion(bytes(32), a, b, proof, root[:32].ljust(32, b"\1"))
    refused_consistency(a, b, proof, bytes(32), root)


def test_an_inner_node_does_not_pass_for_a_leaf() -> None:
    """Second preimage: the data of an inner node, offered as a leaf of a smaller tree, hashes to something else."""
    left, right = (naive.mth([leaf]) for leaf in LEAVES[:2])
    refused_inclusion(leaf_hash(left + right), 0, 1, [], ROOTS[2])


def test_a_shrunken_ledger_is_refused() -> None:
    """S13: the newer tree may not be the smaller one, whatever proof comes with it."""
    refused_consistency(20, 19, naive.proof(19, LEAVES[:20]), ROOTS[20], ROOTS[19])


def test_a_size_that_the_root_does_not_cover_is_refused() -> None:
    """The same hash under a greater or smaller size: a proof that stops too early is none."""
    one = ROOTS[1]
    refused_inclusion(one, 0, 2, [], one)
    refused_consistency(1, 2, [], one, one)
    refused_consistency(2, 1, [], one, one)


def test_a_ledger_cut_and_grown_again_is_refused() -> None:
    """S13: truncated to 10 entries and filled up with others, no old checkpoint leads to the new one."""
    other = LEAVES[:10] + [b"forged %d" % i for i in range(20)]
    for old in range(1, 31):
        proof = naive.proof(old, other)
        if old <= 10:
            verify_consistency(old, 30, proof, ROOTS[old], naive.mth(other))
        else:
            refused_consistency(old, 30, proof, ROOTS[old], naive.mth(other))


def test_empty_trees() -> None:
    """From nothing any ledger may grow, with no proof; an empty one has the one empty root and holds no entry."""
    verify_consistency(0, 5, [], EMPTY_ROOT, ROOTS[5])
    verify_consistency(0, 0, [], EMPTY_ROOT, EMPTY_ROOT)
    refused_consistency(0, 5, [], bytes(32), ROOTS[5])
    refused_consistency(0, 5, [ROOTS[5]], EMPTY_ROOT, ROOTS[5])
    refused_consistency(0, 0, [], EMPTY_ROOT, bytes(32))
    refused_inclusion(leaf_hash(b""), 0, 0, [], EMPTY_ROOT)


def test_numbers_and_lengths_are_bounded() -> None:
    """Q15-like: a proof or number beyond any possible tree is refused before it is looked at."""
    leaf = leaf_hash(LEAVES[0])
    refused_inclusion(leaf, 0, 1, [bytes(32)] * (MAX_PROOF + 1), ROOTS[1])
    refused_inclusion(leaf, -1, 1, [], ROOTS[1])
    refused_inclusion(leaf, 0, MAX_SIZE + 1, [], ROOTS[1])
    refused_inclusion(leaf, True, 2, [], ROOTS[1])
    refused_inclusion(leaf[:31], 0, 1, [], leaf[:31])
    refused_consistency(1, MAX_SIZE + 1, [], ROOTS[1], ROOTS[1])
    refused_consistency(2, 3, [], ROOTS[2], ROOTS[3])
    refused_consistency(3, 4, [], ROOTS[3], ROOTS[4])
