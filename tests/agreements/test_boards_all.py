"""Every small board, against every set of keys: what `satisfied` and `lacking` say is what counting says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter

from perunml.agreements.boards import Board, depth, in_words, lacking, members, satisfied

KEYS = ("a", "b", "c", "d")
ADAPTER: TypeAdapter[Any] = TypeAdapter(Board)


def partitions(keys: tuple[str, ...]) -> Iterator[list[tuple[str, ...]]]:
    """All ways to split the keys into groups, in order."""
    if not keys:
        yield []
        return
    for size in range(1, len(keys) + 1):
        for rest in partitions(keys[size:]):
            yield [keys[:size], *rest]


def boards(keys: tuple[str, ...]) -> Iterator[Any]:
    """Every board over these keys in this order, each key once: nested as deep as they allow."""
    if len(keys) == 1:
        yield from (keys[0], {"all": [keys[0]]}, {"at_least": 1, "of": [keys[0]]})
        return
    for groups in partitions(keys):
        if len(groups) == 1:
            continue  # one group of all: the same board in a pair of brackets
        for inside in itertools.product(*(list(boards(group)) for group in groups)):
            yield {"all": list(inside)}
            for least in range(1, len(inside) + 1):
                yield {"at_least": least, "of": list(inside)}


def counts(board: Any, agreed: frozenset[str]) -> bool:
    """The plain meaning of a board."""
    if isinstance(board, str):
        return board in agreed
    inside = [counts(one, agreed) for one in board.get("all", board.get("of"))]
    return sum(inside) >= board.get("at_least", len(inside))


def test_all_boards_of_up_to_four_keys() -> None:
    """Thousands of boards, sixteen sets of keys each: satisfied where counting says so, `lacking` empty exactly then; more keys never take
    agreement away; only keys that stand on the board count."""
    seen = 0
    sets = [frozenset(some) for size in range(len(KEYS) + 1) for some in itertools.combinations(KEYS, size)]
    for count in range(1, len(KEYS) + 1):
        for form in boards(KEYS[:count]):
            board = ADAPTER.validate_python(form)
            seen += 1
            here = {agreed: satisfied(board, agreed) for agreed in sets}
            on = frozenset(members(board))
            assert on == set(KEYS[:count])
            assert depth(board) <= count + 1
            for agreed, said in here.items():
                assert said == counts(form, agreed), form
                assert said == (lacking(board, agreed) == "")
                assert said == here[agreed & on]
                assert not said or all(here[more] for more in sets if agreed < more)
            assert here[on]
            assert not here[frozenset()]
            assert in_words(board)
    assert seen > 1000


def test_what_is_lacking_is_what_would_do() -> None:
    """Each key that the words name is one that is not there yet, and all of them together make the board."""
    for form in boards(KEYS[:3]):
        board = ADAPTER.validate_python(form)
        for size in range(3):
            for some in itertools.combinations(KEYS[:3], size):
                words = lacking(board, set(some))
                named = {
                    key for key in KEYS if key in words.replace("(", " ").replace(")", " ").replace(",", " ").split()
                }
                assert not named & set(some), (form, some, words)
                assert not words or satisfied(board, named | set(some))
