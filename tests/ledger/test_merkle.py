"""The tree: published vectors, every size and proof against the naive definition, and how little it reads."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import naive
from perunml.ledger.merkle import EMPTY_ROOT, MAX_SIZE, MemoryNodes, Tree, leaf_hash, root
from perunml.wire.errors import IntegrityError

LEAVES = [bytes([i, i ^ 0x5A]) * (i % 5) for i in range(64)]

# The reference vectors of the Certificate Transparency project: leaves of eight shapes, the root after each.
VECTOR_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
VECTOR_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
VECTOR_PATH_0_OF_8 = [
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
]


def grown(leaves: list[bytes], batch: int = 1) -> Tree:
    nodes = MemoryNodes()
    tree = Tree(0, nodes)
    for at in range(0, len(leaves), batch):
        growth = tree.append([leaf_hash(leaf) for leaf in leaves[at : at + batch]])
        nodes.add(growth.nodes)
        tree = Tree(growth.size, nodes)
    return tree


class Counting(MemoryNodes):
    reads = 0

    def node(self, level: int, index: int) -> bytes:
        self.reads += 1
        return super().node(level, index)


def test_reference_vectors() -> None:
    """The roots and a path that the Certificate Transparency project publishes."""
    leaves = [bytes.fromhex(text) for text in VECTOR_LEAVES]
    tree = grown(leaves)
    assert [tree.root(n).hex() for n in range(1, 9)] == VECTOR_ROOTS
    assert [h.hex() for h in tree.inclusion_proof(0, 8)] == VECTOR_PATH_0_OF_8
    assert root(leaves).hex() == VECTOR_ROOTS[-1]


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    """RFC 6962 section 2.1."""
    assert Tree(0, MemoryNodes()).root() == EMPTY_ROOT == root([]) == naive.mth([])
    assert Tree(0, MemoryNodes()).append([]).root == EMPTY_ROOT


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 64])
def test_appended_in_any_batches_gives_the_same_tree(batch: int) -> None:
    """Roots of all sizes up to 64 are the naive definition's."""
    tree = grown(LEAVES, batch)
    assert all(tree.root(n) == naive.mth(LEAVES[:n]) for n in range(65))


def test_every_proof_up_to_64_leaves_is_the_naive_one() -> None:
    """Each inclusion and consistency proof, hash by hash."""
    tree = grown(LEAVES)
    for size in range(1, 65):
        for index in range(size):
            assert tree.inclusion_proof(index, size) == naive.path(index, LEAVES[:size])
        for old in range(1, size + 1):
            assert tree.consistency_proof(old, size) == naive.proof(old, LEAVES[:size])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=300), st.integers(1, 50))
def test_any_leaves_in_any_batches(leaves: list[bytes], batch: int) -> None:
    """Arbitrary leaves, repeated ones too."""
    assert grown(leaves, batch).root() == naive.mth(leaves) == root(leaves)


def test_append_returns_what_is_new_and_changes_nothing() -> None:
    """A transaction that rolls back has nothing to undo, and nothing stored is ever written again."""
    tree = grown(LEAVES[:21])
    assert isinstance(tree.nodes, MemoryNodes)
    before = dict(tree.nodes.nodes)
    growth = tree.append([leaf_hash(b"x"), leaf_hash(b"y")])
    assert tree.nodes.nodes == before
    assert not set(growth.nodes) & set(before)
    assert (growth.first, growth.size) == (21, 23)
    assert growth == tree.append([leaf_hash(b"x"), leaf_hash(b"y")])


def test_append_and_proofs_read_few_nodes() -> None:
    """O(log n): of 4095 leaves, an append reads 12 nodes and a proof no more than 12 times 12."""
    nodes = Counting()
    nodes.add(Tree(0, nodes).append([leaf_hash(bytes([i & 255])) for i in range(4095)]).nodes)
    tree = Tree(4095, nodes)
    nodes.reads = 0
    tree.append([leaf_hash(b"x")])
    assert nodes.reads == 12
    nodes.reads = 0
    tree.inclusion_proof(1234)
    tree.consistency_proof(1234)
    assert nodes.reads <= 2 * 12 * 12


def test_a_missing_node_is_refused() -> None:
    """S13: a store that lost nodes refuses at the next append; it does not grow another history."""
    tree = grown(LEAVES[:40])
    assert isinstance(tree.nodes, MemoryNodes)
    del tree.nodes.nodes[5, 0]
    for act in (tree.root, lambda: tree.append([leaf_hash(b"x")]), lambda: tree.inclusion_proof(39)):
        with pytest.raises(IntegrityError) as refused:
            act()
        assert refused.value.code == "bad_tile"


def test_callers_mistakes_are_value_errors() -> None:
    """Sizes and indices outside the tree, and hashes of a wrong length, are the caller's bugs."""
    tree = grown(LEAVES[:8])
    with pytest.raises(ValueError, match="32 bytes"):
        tree.append([b"short"])
    for act in (
        lambda: tree.root(9),
        lambda: tree.root(-1),
        lambda: tree.inclusion_proof(8),
        lambda: tree.inclusion_proof(-1),
        lambda: tree.inclusion_proof(0, 9),
        lambda: tree.consistency_proof(9),
        lambda: tree.consistency_proof(-1),
        lambda: Tree(-1, tree.nodes),
        lambda: Tree(MAX_SIZE + 1, tree.nodes),
    ):
        with pytest.raises(ValueError):
            act()


def test_a_full_ledger_takes_no_more() -> None:
    """Indices travel as JSON integers, so the ledger ends before they do."""

    class Zeros:
        def node(self, level: int, index: int) -> bytes:
            return bytes(32)

    with pytest.raises(ValueError, match="out of range"):
        Tree(MAX_SIZE, Zeros()).append([bytes(32)])
