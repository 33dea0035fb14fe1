"""Tiles: paths in one spelling, contents that rebuild the tree, cut and padded files refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.ledger.merkle import MAX_SIZE, MemoryNodes, Tree, leaf_hash
from perunml.ledger.tiles import TilePath, bundle, parse_bundle, parse_path, parse_tile, tile, width_at
from perunml.wire.errors import IntegrityError, PerunError


def bad_tile(call: object, *args: object) -> None:
    with pytest.raises(IntegrityError) as refused:
        call(*args)  # type: ignore[operator]  # any callable under test
    assert refused.value.code == "bad_tile"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (TilePath(0, 0), "tile/0/000"),
        (TilePath(0, 1234067), "tile/0/x001/x234/067"),  # tlog-tiles, "Merkle Tree"
        (TilePath(1, 999, 17), "tile/1/999.p/17"),
        (TilePath(2, 1000, 255), "tile/2/x001/000.p/255"),
        (TilePath(None, 273, 112), "tile/entries/273.p/112"),
        (TilePath(6, 0, 1), "tile/6/000.p/1"),
    ],
)
def test_paths(path: TilePath, text: str) -> None:
    """As the specification spells them, both ways."""
    assert str(path) == text
    assert parse_path(text) == path


@pytest.mark.parametrize(
    "text",
    [
        "", "tile/0", "tile/0/", "tile/7/000", "tile/00/000", "tile/-1/000", "tile/0/0", "tile/0/0000", "tile/0/x000/001",
        "tile/0/001/002", "tile/0/x001", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p/",
        "tile/0/000.p/999", "/tile/0/000", "tile/0/../000", "tile/0/000\n", "tile/0/٠٠٠", "tile/data/000",
        "tile/0/x999/x999/x999/x999/x999/999", "tile/0/" + "x999/" * 5000 + "999",
    ],
)  # fmt: skip
def test_another_spelling_of_a_path_is_refused(text: str) -> None:
    """C13: no dots, no leading zeros, no other digits, no endless path: each tile has one path."""
    bad_tile(parse_path, text)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([None, 0, 1, 6]), st.integers(0, MAX_SIZE >> 8), st.integers(1, 256))
def test_every_path_reads_back(level: int | None, index: int, width: int) -> None:
    """Round trip."""
    assert parse_path(str(TilePath(level, index, width))) == TilePath(level, index, width)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="tile/entries0129x.p", max_size=40))
def test_a_path_that_is_read_is_the_one_spelling(text: str) -> None:
    """Whatever parses prints the same."""
    try:
        found = parse_path(text)
    except PerunError:
        return
    assert str(found) == text


def test_the_specifications_example_of_70000_entries() -> None:
    """tlog-tiles, "Partial Tiles": which tiles there are, and how wide."""
    size = 70_000
    assert [width_at(TilePath(0, i), size) for i in (0, 272, 273, 274)] == [256, 256, 112, 0]
    assert [width_at(TilePath(1, i), size) for i in (0, 1, 2)] == [256, 17, 0]
    assert [width_at(TilePath(2, i), size) for i in (0, 1)] == [1, 0]
    assert width_at(TilePath(None, 273), size) == 112
    assert [width_at(TilePath(level, 0), 256) for level in (0, 1, 2)] == [256, 1, 0]


def test_a_tree_is_rebuilt_from_its_tiles() -> None:
    """What an auditor does: leaves from bundles, hashes from level 0, a level 1 node from a whole tile."""
    leaves = [b"%d" % i for i in range(300)]
    nodes = MemoryNodes()
    nodes.add(Tree(0, nodes).append([leaf_hash(leaf) for leaf in leaves]).nodes)
    tree = Tree(300, nodes)
    seen = parse_bundle(bundle(leaves[:256]), 256) + parse_bundle(bundle(leaves[256:]), 44)
    assert seen == leaves
    hashes = []
    for path in (TilePath(0, 0), TilePath(0, 1, 44)):
        hashes += parse_tile(tile(nodes, path, 300), path)
    assert hashes == [leaf_hash(leaf) for leaf in leaves]
    assert Tree(0, MemoryNodes()).append(hashes).root == tree.root()
    assert tile(nodes, TilePath(1, 0, 1), 300) == tree.root(256)


def test_a_tile_that_is_not_there_yet_is_refused() -> None:
    """Neither a wider tile than the ledger has, nor an empty one."""
    nodes = MemoryNodes()
    nodes.add(Tree(0, nodes).append([leaf_hash(b"")] * 5).nodes)
    bad_tile(tile, nodes, TilePath(0, 0, 6), 5)
    bad_tile(tile, nodes, TilePath(0, 1, 1), 5)
    bad_tile(tile, nodes, TilePath(1, 0, 1), 5)
    with pytest.raises(ValueError, match="entries"):
        tile(nodes, TilePath(None, 0, 5), 5)


def test_cut_and_padded_tiles_are_refused() -> None:
    """Exactly the width that the path says."""
    for size in (0, 31, 63, 65, 96):
        bad_tile(parse_tile, bytes(size), TilePath(0, 0, 2))
    assert parse_tile(bytes(64), TilePath(0, 0, 2)) == [bytes(32)] * 2


def test_cut_and_padded_bundles_are_refused() -> None:
    """Truncation at each byte, bytes left over, another width."""
    whole = bundle([b"", b"ab", b"c" * 300])
    assert parse_bundle(whole, 3) == [b"", b"ab", b"c" * 300]
    for cut in range(len(whole)):
        bad_tile(parse_bundle, whole[:cut], 3)
    for more in (b"\0", b"\0\0", b"\0\1x"):
        bad_tile(parse_bundle, whole + more, 3)
    bad_tile(parse_bundle, whole, 2)
    for leaves in ([], [b""] * 257, [bytes(2**16)]):
        with pytest.raises(ValueError, match="1 to 256"):
            bundle(leaves)
