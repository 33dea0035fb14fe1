"""Boards, small ones exhaustively: every board of three keys, every set of signatures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agreements.sample import document, edit
from perunml.agreements.boards import All, AtLeast, in_words, lacking, members, satisfied
from perunml.agreements.document import agreement_from_json

KEYS = ("dr-a", "dr-b", "dpo")


def boards(keys: tuple[str, ...]) -> Iterator[Any]:
    """Every board over all of `keys` in this order, each key once, no group of one."""
    if len(keys) == 1:
        yield keys[0]
        return
    for cuts in range(1, len(keys)):
        for places in itertools.combinations(range(1, len(keys)), cuts):
            ends = (0, *places, len(keys))
            groups = [keys[a:b] for a, b in itertools.pairwise(ends)]
            for parts in itertools.product(*(list(boards(group)) for group in groups)):
                yield {"all": list(parts)}
                for k in range(1, len(parts) + 1):
                    yield {"at_least": k, "of": list(parts)}


def brute(board: Any, agreed: frozenset[str]) -> bool:
    """The meaning of a board, from its JSON, by counting."""
    if isinstance(board, str):
        return board in agreed
    votes = [brute(member, agreed) for member in board.get("all", board.get("of"))]
    return votes.count(True) >= board.get("at_least", len(votes))


def read(board: Any) -> Any:
    """The board as an agreement reads it."""
    return agreement_from_json(edit(document(), "parties/st-vitus/approve", board)).parties["st-vitus"].board


SMALL = list(boards(KEYS))


@pytest.mark.parametrize("board", SMALL, ids=str)
def test_every_small_board_counts_as_it_says(board: Any) -> None:
    """P3: for each set of signatures, the board is met exactly when counting says so; one fewer is pending."""
    made = read(board)
    assert sorted(members(made)) == sorted(KEYS)
    for size in range(len(KEYS) + 1):
        for chosen in itertools.combinations(KEYS, size):
            agreed = frozenset(chosen)
            assert satisfied(made, agreed) == brute(board, agreed)
            assert bool(lacking(made, agreed)) != satisfied(made, agreed)


def test_there_are_small_boards_to_check() -> None:
    """The corpus is not empty, and holds a nested one."""
    assert len(SMALL) > 20
    assert {"all": ["dr-a", {"at_least": 1, "of": ["dr-b", "dpo"]}]} in SMALL


def test_nobody_is_no_board() -> None:
    """No signature never meets a board, and a stranger's name adds nothing."""
    for board in SMALL:
        assert not satisfied(read(board), frozenset())
        assert not satisfied(read(board), frozenset({"stranger"}))


def test_a_board_is_said_in_words() -> None:
    """What is missing shrinks as keys sign."""
    board = All(all=("dpo", AtLeast(at_least=1, of=("dr-a", "dr-b"))))
    assert in_words(board) == "dpo and (1 of dr-a, dr-b)"
    assert lacking(board, {"dr-a"}) == "dpo"
    assert lacking(board, {"dpo"}) == "1 of dr-a, dr-b"
    assert lacking(AtLeast(at_least=2, of=("a", "b", "c")), {"a"}) == "1 of b, c"
    assert lacking(AtLeast(at_least=2, of=("a", "b")), {"a"}) == "b"


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SMALL), st.sets(st.sampled_from(KEYS)), st.sampled_from(KEYS))
def test_one_more_signature_never_hurts(board: Any, agreed: set[str], more: str) -> None:
    """Boards are monotone."""
    made = read(board)
    assert satisfied(made, agreed | {more}) >= satisfied(made, agreed)
